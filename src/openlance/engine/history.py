"""What a conversation has said so far, and the keys and values that are already computed of it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from openlance.engine.prefill import MediumTokens
from openlance.media.clip import Clip
from openlance.model.context import Context
from openlance.sequence.bind import Binder, MediumGrids
from openlance.sequence.segment import Kind, Role, Segment
from openlance.sequence.tasks import SEEN_AND_KEPT, Task

if TYPE_CHECKING:
    from openlance.engine.prefill import Branch


@dataclass(eq=False)
class History:
    """Finished turns as one growing sequence. A finished picture re-enters as a vision block and a clean latent block."""

    segments: list[Segment] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)
    media: list[MediumTokens] = field(default_factory=list)
    context: Context | None = None
    positions: Tensor | None = None
    """(3, context.length): where the tokens of `context` were placed."""

    def find(self, clip: Clip) -> int | None:
        """Index of a clip that the conversation has already seen."""
        return next((i for i, known in enumerate(self.clips) if known is clip), None)

    def continued(self, task: Task, used: list[int]) -> list[Segment]:
        """The segments so far, the blocks of the media that this turn is about taking the role its task gives them."""
        return [
            segment.as_role(task.role if segment.medium in used and segment.kind in task.blocks else Role.HISTORY)
            for segment in self.segments
        ]

    def known(self, branch: "Branch") -> Context | None:
        """The context, if it holds the leading tokens of `branch` at the places the branch wants them."""
        if self.context is None or self.positions is None:
            return None
        same = torch.equal(branch.positions[:, : self.context.length], self.positions)
        return self.context if same else None

    def close(
        self, binder: Binder, branch: "Branch", context: Context, fresh: list[tuple[Clip, MediumTokens]], output: "TurnOutput"
    ) -> None:
        """Take a finished turn in: `branch` as it ran, its context, the media it brought, and what came of it."""
        spoken = [segment.as_role(Role.HISTORY) for segment in branch.segments[: branch.fixed]]
        for clip, tokens in fresh:
            self.clips.append(clip)
            self.media.append(tokens)
        self.segments = [
            *spoken,
            *self._take(binder, output),
            *[segment.as_role(Role.HISTORY) for segment in binder.closing()],
            *binder.next_turn(),
        ]
        self.context = context
        self.positions = _extended(branch.positions[:, : branch.fixed_tokens], context.length)

    def _take(self, binder: Binder, output: "TurnOutput") -> list[Segment]:
        if output.clip is None or output.tokens is None:
            return [Segment(Kind.TEXT, Role.HISTORY, output.ids)] if output.ids else []
        self.clips.append(output.clip)
        self.media.append(output.tokens)
        index, frame = len(self.clips) - 1, binder.tokenizer.frame
        return [Segment(kind, Role.HISTORY, frame, output.grids.of(kind), medium=index) for kind in SEEN_AND_KEPT]


@dataclass(frozen=True)
class TurnOutput:
    """What a turn produced, as the next turn will see it: token ids of a text, or the tokens of a picture."""

    ids: tuple[int, ...] = ()
    clip: Clip | None = None
    tokens: MediumTokens | None = None
    grids: MediumGrids = field(default_factory=MediumGrids)


def _extended(positions: Tensor, length: int) -> Tensor:
    """Positions of the prefilled tokens, followed by those of decoded text up to `length`."""
    extra = length - positions.shape[1]
    if extra <= 0:
        return positions[:, :length]
    decoded = torch.arange(1, extra + 1) + positions[:, -1].max()
    return torch.cat([positions, decoded.expand(3, -1)], 1)
