"""Packing: segments become flat token metadata, the one input format of training and inference."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from openlance.sequence.mask import attention_mask
from openlance.sequence.positions import grid_coordinates
from openlance.sequence.segment import Kind, Segment


@dataclass(frozen=True)
class PackedSequence:
    """Tokens of one or more documents in sequence order. Every field is (S,) unless it says otherwise."""

    ids: Tensor
    positions: Tensor
    """(3, S)"""
    segment: Tensor
    """Index of the token's segment, distinct over all documents."""
    document: Tensor
    two_way: Tensor
    noised: Tensor
    latent: Tensor
    """True where the generation expert owns the token: cells of latent grids."""
    vision: Tensor
    """True on cells of vision grids, whose embedding comes from the vision encoder."""
    clean: Tensor
    """True on latent cells that are given, not noise: sources, references, the first frames of image-to-video."""
    coordinates: Tensor
    """(3, S): (t, h, w) inside the block for cells, 0 elsewhere."""

    def __len__(self) -> int:
        return self.ids.numel()

    def mask(self) -> Tensor:
        """Dense attention mask (S, S) in sequence order, True = may attend."""
        return attention_mask(self.segment, self.two_way, self.noised, self.document)

    def stream_order(self) -> Tensor:
        """Indices (S,) that put the understanding stream first, then the generation stream."""
        return torch.cat([torch.nonzero(~self.latent)[:, 0], torch.nonzero(self.latent)[:, 0]])

    def part(self, start: int, stop: int) -> "PackedSequence":
        """Tokens start to stop, as a sequence of their own (a prefill chunk, a target)."""
        cut = slice(start, stop)
        fields = {name: getattr(self, name)[..., cut] for name in self.__dataclass_fields__}
        return PackedSequence(**fields)


def pack(documents: Sequence[Sequence[Segment]], positions: Sequence[Tensor]) -> PackedSequence:
    """Lay documents side by side. `positions`: (3, S_i) of each document."""
    segments = [segment for document in documents for segment in document]
    lengths = torch.tensor([len(segment) for segment in segments])

    def spread(values: Sequence[bool] | Sequence[int] | range) -> Tensor:
        return torch.repeat_interleave(torch.tensor(list(values)), lengths)

    cell = torch.cat([_cells(segment) for segment in segments])
    kinds = [segment.kind for segment in segments]
    return PackedSequence(
        ids=torch.tensor([token for segment in segments for token in segment.tokens()], dtype=torch.long),
        positions=torch.cat(list(positions), 1),
        segment=spread(range(len(segments))),
        document=spread([i for i, document in enumerate(documents) for _ in document]),
        two_way=spread([segment.two_way for segment in segments]),
        noised=spread([segment.noised for segment in segments]),
        latent=cell & spread([kind is Kind.LATENT for kind in kinds]),
        vision=cell & spread([kind is Kind.VISION for kind in kinds]),
        clean=torch.cat([_clean(segment) for segment in segments]),
        coordinates=torch.cat([_coordinates(segment) for segment in segments], 1),
    )


def _cells(segment: Segment) -> Tensor:
    cell = torch.zeros(len(segment), dtype=torch.bool)
    if segment.grid is not None:
        cell[1:-1] = True
    return cell


def _clean(segment: Segment) -> Tensor:
    clean = torch.zeros(len(segment), dtype=torch.bool)
    if segment.kind is Kind.LATENT and segment.grid is not None:
        frame = segment.grid[1] * segment.grid[2]
        given = segment.clean_frames * frame if segment.noised else segment.cells
        clean[1 : 1 + given] = True
    return clean


def _coordinates(segment: Segment) -> Tensor:
    coordinates = torch.zeros(3, len(segment), dtype=torch.long)
    if segment.grid is not None:
        coordinates[:, 1:-1] = grid_coordinates(segment.grid)
    return coordinates
