"""Batches: samples side by side as two streams. Rows of one shape are stacked; nothing of one sample is visible to another.

Two ways to choose what goes together, one assembly: *bucketed* batches hold samples of one shape (the understanding stream
padded to a round length), for small models; *packed* batches hold any samples, unpadded, up to a budget of tokens.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from openlance.data.layout import PADDING, Anchors, Layout, layout_of
from openlance.data.sample import Sample
from openlance.sequence.segment import Kind


@dataclass(frozen=True)
class Rows:
    """`count` rows of U and G tokens; `mask` (count, 1, U + G, U + G), True = may attend."""

    understanding: int
    generation: int
    mask: Tensor
    count: int


@dataclass(frozen=True)
class TrainingBatch:
    """Samples before noise. U, G: tokens of the two streams over all rows; C latent channels, D width."""

    rows: list[Rows]
    ids: Tensor
    """(U,)"""
    positions: tuple[Tensor, Tensor]
    """(3, U), (3, G)"""
    coordinates: Tensor
    """(3, G)"""
    latents: Tensor
    """(G, C): clean latents, also of the targets."""
    target: Tensor
    """(G,): 0 on clean cells, k on the cells of target k of the batch."""
    num_targets: int
    vision: Tensor | None
    """(V, D)"""
    vision_index: Tensor | None
    """(V,): where they go in the understanding stream."""
    answer: Tensor
    """(A,): understanding tokens whose next token is learned."""
    labels: Tensor
    """(A,): those next tokens."""
    sample_of_target: Tensor
    """(num_targets,)"""
    sample_of_answer: Tensor
    """(A,)"""
    tasks: list[str]
    """Of each sample, in the order of the rows."""

    def to(self, device: torch.device | str) -> TrainingBatch:
        """The same on another device; pinned or shared memory is copied beside what the device is doing."""

        def moved(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            if isinstance(value, tuple):
                return tuple(moved(each) for each in value)
            return value

        rows = [replace(row, mask=row.mask.to(device, non_blocking=True)) for row in self.rows]
        return TrainingBatch(**{**{each.name: moved(getattr(self, each.name)) for each in fields(self)}, "rows": rows})  # type: ignore[arg-type]

    @property
    def num_tokens(self) -> int:
        """Tokens that the model computes, padding included."""
        return self.ids.numel() + self.target.numel()

    @property
    def counts(self) -> Counter[str]:
        """What the means of the losses run over: `answer` tokens, `target` cells."""
        return Counter(answer=self.answer.numel(), target=int((self.target > 0).sum()))


def assemble(samples: Sequence[Sample], anchors: Anchors, round_to: int = 1, views: int = 1) -> TrainingBatch:
    """One batch of samples, grouped by shape; understanding streams are padded to multiples of `round_to`; `views` as in `layout_of`."""
    groups: dict[tuple[int, int], list[tuple[Sample, Layout]]] = defaultdict(list)
    for sample in samples:
        layout = layout_of(sample, anchors, round_to, views)
        groups[layout.U, layout.G].append((sample, layout))
    placed = [pair for group in groups.values() for pair in group]
    layouts = [layout for _, layout in placed]
    offset = _starts([layout.U for layout in layouts])
    targets = _starts([layout.num_targets for layout in layouts])
    ids = [_ids(sample, layout) for sample, layout in placed]
    latents = _features(placed, Kind.LATENT)
    vision = _features(placed, Kind.VISION)
    return TrainingBatch(
        rows=[Rows(U, G, torch.stack([layout.mask for _, layout in group]), len(group)) for (U, G), group in groups.items()],
        ids=torch.cat(ids),
        positions=(torch.cat([layout.positions[0] for layout in layouts], 1), torch.cat([layout.positions[1] for layout in layouts], 1)),
        coordinates=torch.cat([layout.coordinates for layout in layouts], 1),
        latents=torch.cat(latents).float() if latents else torch.zeros(0, 0),
        target=torch.cat([layout.target + start * (layout.target > 0) for layout, start in zip(layouts, targets, strict=True)]),
        num_targets=sum(layout.num_targets for layout in layouts),
        vision=torch.cat(vision) if vision else None,
        vision_index=torch.cat([layout.vision + start for layout, start in zip(layouts, offset, strict=True)]) if vision else None,
        answer=torch.cat([layout.answer + start for layout, start in zip(layouts, offset, strict=True)]),
        labels=torch.cat([own[layout.label] for own, layout in zip(ids, layouts, strict=True)]),
        sample_of_target=_owner([layout.num_targets for layout in layouts]),
        sample_of_answer=_owner([layout.answer.numel() for layout in layouts]),
        tasks=[sample.task for sample, _ in placed],
    )


def _ids(sample: Sample, layout: Layout) -> Tensor:
    tokens = torch.tensor([token for i in layout.segments for token in sample.segments[i].tokens()])
    ids = torch.full((layout.U,), PADDING)
    ids[: layout.order.numel()] = tokens[layout.order]
    return ids


def _features(placed: list[tuple[Sample, Layout]], kind: Kind) -> list[Tensor]:
    """Features of all segments of a kind, in the order they are laid out."""
    return [
        features
        for sample, layout in placed
        for i in layout.segments
        if sample.segments[i].kind is kind and (features := sample.features[i]) is not None
    ]


def _starts(sizes: list[int]) -> list[int]:
    starts = [0]
    for size in sizes:
        starts.append(starts[-1] + size)
    return starts[:-1]


def _owner(counts: list[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
