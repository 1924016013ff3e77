"""Prefill: the fixed part of one or more branches into contexts, what they share computed once."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openlance.engine.row import Row, Want, make_row
from openlance.model.context import Context
from openlance.model.lance import LanceModel
from openlance.sequence.pack import PackedSequence, pack
from openlance.sequence.positions import spans_of
from openlance.sequence.segment import Kind, Segment

Outputs = list[Tensor | None]


@dataclass(frozen=True)
class MediumTokens:
    """What the encoders made of one medium: `vision` (V, D) tokens and `latent` (t, h, w, C), where its task needs them."""

    vision: Tensor | None = None
    latent: Tensor | None = None


@dataclass(frozen=True)
class Branch:
    """One sequence of a request: all its segments and their positions (3, S); the first `fixed` segments are prefilled."""

    segments: tuple[Segment, ...]
    positions: Tensor
    fixed: int

    def packed(self) -> PackedSequence:
        return pack([self.segments], [self.positions])

    @property
    def fixed_tokens(self) -> int:
        return sum(len(segment) for segment in self.segments[: self.fixed])

    def target(self) -> PackedSequence:
        """The tokens of the block that is produced."""
        start = self.fixed_tokens
        return self.packed().part(start, start + len(self.segments[self.fixed]))

    def shares(self, other: "Branch") -> int:
        """How many leading fixed segments (and their positions) are the same as the other's."""
        count = 0
        pairs = zip(self.segments[: self.fixed], other.segments[: other.fixed], spans_of(self.segments), strict=False)
        for mine, theirs, span in pairs:
            if mine != theirs or not torch.equal(self.positions[:, span], other.positions[:, span]):
                break
            count += 1
        return count


def prefill(
    model: LanceModel, branches: Sequence[Branch], media: Sequence[MediumTokens], want_logits: bool = False, known: Context | None = None
) -> Generator[list[Row], Outputs, tuple[list[Context], Tensor | None]]:
    """Contexts of all branches, and the logits after the first branch's last fixed token if wanted.

    `known`: a context that already holds leading tokens of the first branch; it is forked, never changed. What the other
    branches share with the first is computed once; a branch that shares less than another starts anew.
    """
    first = branches[0]
    shares = [sum(len(segment) for segment in first.segments[: first.shares(other)]) for other in branches[1:]]
    cut = max(shares, default=0)
    done = 0 if known is None else known.length
    base = model.new_context() if known is None else known.fork(first.fixed_tokens - done)
    if cut > done:
        yield [_part(model, first, done, cut, base, media, Want.CONTEXT)]
    cut = max(cut, done)
    starts = [cut, *(cut if share == cut else 0 for share in shares)]
    contexts = [
        base.fork(branch.fixed_tokens - start) if start else model.new_context() for branch, start in zip(branches, starts, strict=True)
    ]
    rows = [
        _part(model, branch, start, branch.fixed_tokens, context, media, Want.LOGITS if want_logits and i == 0 else Want.CONTEXT)
        for i, (branch, start, context) in enumerate(zip(branches, starts, contexts, strict=True))
        if branch.fixed_tokens > start
    ]
    outputs: Outputs = (yield rows) if rows else []
    return contexts, outputs[0] if want_logits and outputs else None


def _part(model: LanceModel, branch: Branch, start: int, stop: int, context: Context, media: Sequence[MediumTokens], want: Want) -> Row:
    """The row of tokens start to stop (whole segments) of a branch."""
    visions, latents = [], []
    for segment, span in zip(branch.segments, spans_of(branch.segments), strict=True):
        if span.start < start or span.stop > stop or segment.medium is None:
            continue
        tokens = media[segment.medium]
        if segment.kind is Kind.VISION and tokens.vision is not None:
            visions.append(tokens.vision)
        if segment.kind is Kind.LATENT and tokens.latent is not None:
            latents.append(tokens.latent.flatten(0, 2))
    return make_row(
        model,
        branch.packed().part(start, stop),
        context,
        want,
        latents=torch.cat(latents) if latents else None,
        vision=torch.cat(visions) if visions else None,
    )
