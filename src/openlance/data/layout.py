"""The layout of a sequence: all that follows from the lengths and kinds of its segments alone, in stream order.

Thousands of samples share a few layouts, so they are computed once and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from openlance.sequence.pack import PackedSequence, pack
from openlance.sequence.positions import positions
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

    @property
    def num_targets(self) -> int:
        return int(self.target.max()) if self.target.numel() else 0


def layout_of(segments: Sequence[Segment], anchors: Anchors, padded: int = 0) -> Layout:
    """The layout of a sequence with its understanding stream padded to `padded` tokens (0: as it is)."""
    return _layout(tuple(_shape(segment) for segment in segments), anchors, padded)


def _shape(segment: Segment) -> Segment:
    """The segment without what does not matter for the layout: which tokens it holds."""
    return replace(segment, ids=(0,) * len(segment.ids), medium=None)


@lru_cache(maxsize=8192)
def _layout(segments: tuple[Segment, ...], anchors: Anchors, padded: int) -> Layout:
    packed = pack([segments], [positions(segments, anchors.vision, anchors.reference, anchors.understanding)])
    order = packed.stream_order()
    G = int(packed.latent.sum())
    real = len(packed) - G
    U = max(real, padded)
    understanding, generation = order[:real], order[real:]
    in_stream = torch.zeros(len(packed), dtype=torch.long)
    in_stream[understanding] = torch.arange(real)
    label = in_stream[_learned(segments)]
    return Layout(
        U=U,
        G=G,
        order=understanding,
        positions=(_pad(packed.positions[:, understanding], U), packed.positions[:, generation]),
        coordinates=packed.coordinates[:, generation],
        mask=_mask(packed, order, real, U)[None],
        vision=torch.nonzero(packed.vision[understanding])[:, 0],
        target=_targets(packed)[generation],
        answer=label - 1,
        label=label,
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


def _mask(packed: PackedSequence, order: Tensor, real: int, U: int) -> Tensor:
    """Visibility in stream order with padding between the two streams."""
    dense = packed.mask()[order][:, order]
    place = torch.cat([torch.arange(real), torch.arange(U, U + len(packed) - real)])
    mask = torch.eye(U + len(packed) - real, dtype=torch.bool)
    mask[place[:, None], place[None]] = dense
    return mask


def _pad(positions: Tensor, length: int) -> Tensor:
    return torch.nn.functional.pad(positions, (0, length - positions.shape[1]))
