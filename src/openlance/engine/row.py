"""Rows: the new tokens of one sequence in one forward pass, and how rows of any kind become a ragged batch.

What does not change between the steps of a request (order, rotations, place embeddings, mask) is computed once, here.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

import torch
from torch import Tensor

from openlance.model.attention import RowGroup
from openlance.model.context import Context
from openlance.model.lance import LanceModel, RaggedBatch
from openlance.model.mot import Hidden
from openlance.model.rope import Rotation
from openlance.sequence.pack import PackedSequence


class Want(Enum):
    """What a row asks of the forward pass."""

    CONTEXT = "context"
    """Nothing but its keys and values: they are committed to its context."""
    LOGITS = "logits"
    """Also the logits (vocabulary,) after its last token."""
    VELOCITY = "velocity"
    """The velocity (G, C) of its latent tokens; its context stays as it was."""


@dataclass(eq=False)
class Row:
    """Tokens of one sequence with their context. `latents` (G, C) and `times` (T,) may be replaced between steps."""

    want: Want
    context: Context
    ids: Tensor
    rotations: tuple[Rotation, Rotation]
    place: Tensor
    latents: Tensor
    times: Tensor
    time_index: Tensor
    mask: Tensor | None = None
    vision: Tensor | None = None
    vision_index: Tensor | None = None
    static: object = field(default_factory=object)

    @property
    def shape(self) -> tuple[int, int]:
        """Number of understanding and of generation tokens."""
        return self.ids.numel(), self.latents.shape[0]

    def __len__(self) -> int:
        return self.ids.numel() + self.latents.shape[0]


def make_row(
    model: LanceModel, packed: PackedSequence, context: Context, want: Want, latents: Tensor | None = None, vision: Tensor | None = None
) -> Row:
    """A row of the tokens of `packed`, everything before them being in `context`.

    `latents` (G, C): all latent cells in sequence order, at time 0 until the caller says otherwise; tokens that are `clean`
    stay at time 0. `vision` (V, D): all vision cells.
    """
    device = model.device
    order = packed.stream_order()
    u = int((~packed.latent).sum())
    first, second = order[:u], order[u:]
    channels = model.config.latent_channels
    mask = None
    if not bool((packed.segment == packed.segment[0]).all() and packed.two_way.all()) and len(packed) > 1:
        inside = packed.mask()[order][:, order]
        mask = torch.cat([inside.new_ones(len(packed), context.length), inside], 1)[None, None].to(device)
    return Row(
        want=want,
        context=context,
        ids=packed.ids[first].to(device),
        rotations=(model.rotation(packed.positions[:, first]), model.rotation(packed.positions[:, second])),
        place=model.place(packed.coordinates[:, second]),
        latents=torch.zeros(0, channels, device=device) if latents is None else latents.to(device),
        times=torch.zeros(2, device=device),
        time_index=(~packed.clean[second]).long().to(device),
        mask=mask,
        vision=vision,
        vision_index=None if vision is None else torch.nonzero(packed.vision[first])[:, 0].to(device),
    )


class Batcher:
    """Runs the model over rows joined into one ragged batch; what rows share from step to step is joined once."""

    def __init__(self, model: LanceModel) -> None:
        self.model = model
        self._known: list[object] = []
        self._joined: RaggedBatch | None = None

    def run(self, rows: Sequence[Row]) -> list[Tensor | None]:
        """What each row wanted, in order; contexts of prefilled and decoded rows are committed."""
        for row in rows:
            row.context.reserve(len(row))
        batch = self._join(rows)
        hidden = self.model(batch)
        for row in rows:
            if row.want is not Want.VELOCITY:
                row.context.commit(len(row))
        return self._outputs(rows, batch, hidden)

    def _join(self, rows: Sequence[Row]) -> RaggedBatch:
        """The ragged batch of `rows`, in their order in both streams."""
        static = [row.static for row in rows]
        if self._joined is None or self._known != static:
            self._joined, self._known = self._join_static(rows), static
        latents = [row.latents for row in rows if row.latents.numel()]
        self._joined.latents = _cat(latents) if latents else rows[0].latents
        self._joined.times = _cat([row.times for row in rows])
        return self._joined

    def _join_static(self, rows: Sequence[Row]) -> RaggedBatch:
        starts = torch.tensor([0, *(row.ids.numel() for row in rows)]).cumsum(0).tolist()
        seen = [(row, start) for row, start in zip(rows, starts, strict=False) if row.vision is not None and row.vision_index is not None]
        latent_rows = [row for row in rows if row.latents.numel()]
        steps = torch.tensor([0, *(row.times.numel() for row in rows)]).cumsum(0).tolist()
        index = [row.time_index + start for row, start in zip(rows, steps, strict=False) if row.latents.numel()]
        return RaggedBatch(
            groups=[RowGroup(*row.shape, row.context, row.mask) for row in rows],
            ids=_cat([row.ids for row in rows]),
            rotations=(_cat_rotations([row.rotations[0] for row in rows]), _cat_rotations([row.rotations[1] for row in rows])),
            place=_cat([row.place for row in latent_rows]) if latent_rows else rows[0].place,
            latents=rows[0].latents,
            times=rows[0].times,
            time_index=_cat(index) if index else rows[0].time_index,
            vision=_cat([row.vision for row, _ in seen if row.vision is not None]) if seen else None,
            vision_index=_cat([row.vision_index + start for row, start in seen if row.vision_index is not None]) if seen else None,
        )

    def _outputs(self, rows: Sequence[Row], batch: RaggedBatch, hidden: Hidden) -> list[Tensor | None]:
        outputs: list[Tensor | None] = [None] * len(rows)
        asking = [i for i, row in enumerate(rows) if row.want is Want.LOGITS]
        if asking and hidden.understanding is not None:
            tokens = hidden.understanding.split_with_sizes([row.ids.numel() for row in rows])
            for i, logits in zip(asking, self.model.logits(_cat([tokens[i][-1:] for i in asking])), strict=True):
                outputs[i] = logits
        moving = [i for i, row in enumerate(rows) if row.want is Want.VELOCITY]
        if moving and hidden.generation is not None:
            # Of clean cells that are only prefilled too: it costs less than to leave them out.
            velocity = self.model.velocity(hidden.generation, batch.latents, batch.times[batch.time_index, None])
            cells = velocity.split_with_sizes([row.latents.shape[0] for row in rows])
            for i in moving:
                outputs[i] = cells[i]
        return outputs


def _cat(tensors: list[Tensor]) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors)


def _cat_rotations(rotations: list[Rotation]) -> Rotation:
    return Rotation(_cat([r.cos for r in rotations]), _cat([r.sin for r in rotations]))
