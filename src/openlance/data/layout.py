"""The layout of a sequence: all that follows from the lengths and kinds of its segments alone, in stream order.

Thousands of samples share a few layouts, so they are computed once and kept.

A target may be laid out several times (`views`), each copy to be noised by itself: copies stand at the same positions and do not see
each other, so the loss is that of as many samples while everything a target looks at is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from openlance.data.sample import Sample
from openlance.sequence.pack import PackedSequence, pack
from openlance.sequence.positions import positions, spans_of
from openlance.sequence.segment import Kind, Role, Segment

PADDING = 0
"""Token id of padding: its embedding is read but no other token sees it."""


@dataclass(frozen=True)
class Anchors:
    """Where visual tokens sit on the temporal rotary axis, see `sequence.positions`."""

    vision: int = 1000
    reference: int = 2000
    understanding: bool = False


@dataclass(frozen=True)
class Layout:
    """Token metadata of one sequence in stream order, its understanding stream padded to `U`. Indices count inside a stream."""

    U: int
    G: int
    segments: tuple[int, ...]
    """Which segment of the sample each laid-out one is: a target appears once a view."""
    order: Tensor
    """(U before padding,): index in the sequence of each understanding token."""
    positions: tuple[Tensor, Tensor]
    """(3, U) and (3, G)"""
    coordinates: Tensor
    """(3, G)"""
    mask: Tensor
    """(1, U + G, U + G), True = may attend. Padding sees itself only and is seen by no other token."""
    vision: Tensor
    """(V,): understanding tokens that the vision encoder fills."""
    target: Tensor
    """(G,): 0 on clean cells, k on the noised cells of the k-th target."""
    answer: Tensor
    """(A,): understanding tokens whose next token is learned."""
    label: Tensor
    """(A,): the understanding tokens to be predicted there."""

    num_targets: int


def laid_out(segments: Sequence[Segment], views: int) -> tuple[int, ...]:
    """Indices of the segments in the order they are laid out."""
    return tuple(i for i, segment in enumerate(segments) for _ in range(views if segment.noised else 1))


def stream_sizes(segments: Sequence[Segment], views: int = 1) -> tuple[int, int]:
    """Tokens (U, G) of the two streams, without padding."""
    placed = [segments[i] for i in laid_out(segments, views)]
    generation = sum(segment.cells for segment in placed if segment.kind is Kind.LATENT)
    return sum(map(len, placed)) - generation, generation


def layout_of(sample: Sample, anchors: Anchors, round_to: int = 1, views: int = 1) -> Layout:
    """The layout of a sample, its understanding stream padded to a multiple of `round_to` tokens and each target laid out `views` times."""
    return _layout(tuple(_shape(segment) for segment in sample.segments), sample.branches, anchors, round_to, views)


def padded_length(understanding: int, round_to: int) -> int:
    return -(-understanding // round_to) * round_to


def _shape(segment: Segment) -> Segment:
    """The segment without what does not matter for the layout: which tokens it holds."""
    return replace(segment, ids=(0,) * len(segment.ids), medium=None)


@lru_cache(maxsize=8192)
def _layout(segments: tuple[Segment, ...], branches: tuple[int, ...], anchors: Anchors, round_to: int, views: int) -> Layout:
    place, placed = _positions(segments, branches, anchors), laid_out(segments, views)
    segments = tuple(segments[i] for i in placed)
    branch = torch.tensor([branches[i] for i in placed for _ in range(place[i].shape[1])])
    packed = pack([segments], [torch.cat([place[i] for i in placed], 1)])
    order = packed.stream_order()
    G = int(packed.latent.sum())
    real = len(packed) - G
    U = padded_length(real, round_to)
    understanding, generation = order[:real], order[real:]
    target = _targets(packed)[generation]
    in_stream = torch.zeros(len(packed), dtype=torch.long)
    in_stream[understanding] = torch.arange(real)
    label = in_stream[_learned(segments)]
    return Layout(
        U=U,
        G=G,
        segments=placed,
        order=understanding,
        positions=(_pad(packed.positions[:, understanding], U), packed.positions[:, generation]),
        coordinates=packed.coordinates[:, generation],
        mask=_mask(packed, branch, order, U)[None],
        vision=torch.nonzero(packed.vision[understanding])[:, 0],
        target=target,
        answer=label - 1,
        label=label,
        num_targets=int(target.max()) if G else 0,
    )


def _learned(segments: Sequence[Segment]) -> Tensor:
    """Sequence indices of the tokens of text targets."""
    flags = [segment.kind is Kind.TEXT and segment.role is Role.TARGET for segment in segments for _ in range(len(segment))]
    return torch.nonzero(torch.tensor(flags))[:, 0]


def _targets(packed: PackedSequence) -> Tensor:
    """(S,): the number of the target a noised cell belongs to, from 1; 0 elsewhere."""
    noised = packed.latent & packed.noised & ~packed.clean
    numbers = torch.zeros(len(packed), dtype=torch.long)
    if noised.any():
        numbers[noised] = torch.unique_consecutive(packed.segment[noised], return_inverse=True)[1] + 1
    return numbers


def _positions(segments: Sequence[Segment], branches: Sequence[int], anchors: Anchors) -> list[Tensor]:
    """(3, tokens) of each segment. Every branch is numbered as if it alone continued the shared part."""
    found: dict[int, Tensor] = {}
    for branch in sorted(set(branches) - {0}) or [0]:
        own = [i for i, other in enumerate(branches) if other in (0, branch)]
        alone = [segments[i] for i in own]
        place = positions(alone, anchors.vision, anchors.reference, anchors.understanding)
        found.update(zip(own, (place[:, span] for span in spans_of(alone)), strict=True))
    return [found[i] for i in range(len(segments))]


def _mask(packed: PackedSequence, branch: Tensor, order: Tensor, U: int) -> Tensor:
    """Visibility in stream order with padding between the two streams; branches (S,) see themselves and what is shared."""
    dense = packed.mask() & ((branch[None] == 0) | (branch[None] == branch[:, None]))
    G = int(packed.latent.sum())
    real = len(packed) - G
    place = torch.cat([torch.arange(real), torch.arange(U, U + G)])
    mask = torch.eye(U + G, dtype=torch.bool)
    mask[place[:, None], place[None]] = dense[order][:, order]
    return mask


def _pad(positions: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(positions, (0, length - positions.shape[1]))
