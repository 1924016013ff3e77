"""Rotary positions (t, h, w) of a sequence, with the modality-aware temporal anchors (MaPE, arXiv 2605.18678 section 3)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from openlance.sequence.segment import Kind, Role, Segment

TEMPORAL_STEP = 2
"""Rotary distance of neighbouring temporal cells: tokens_per_second x 1 s, for vision and latent grids alike."""


def grid_coordinates(grid: tuple[int, int, int]) -> Tensor:
    """Integer coordinates (3, t*h*w) of a grid's cells in (t, h, w) order."""
    axes = [torch.arange(n) for n in grid]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)


def base_positions(segments: Sequence[Segment]) -> Tensor:
    """Positions (3, S) before any anchor: text advances 1 on all axes, a grid continues after its largest index."""
    parts = []
    cursor = 0
    for segment in segments:
        if segment.grid is None:
            parts.append(torch.arange(cursor, cursor + len(segment)).expand(3, -1))
            cursor += len(segment)
            continue
        cells = grid_coordinates(segment.grid) * torch.tensor([[TEMPORAL_STEP], [1], [1]]) + cursor + 1
        end = int(cells.max()) + 1
        parts.append(torch.cat([torch.full((3, 1), cursor), cells, torch.full((3, 1), end)], 1))
        cursor = end + 1
    return torch.cat(parts, 1) if parts else torch.zeros(3, 0, dtype=torch.long)


def positions(
    segments: Sequence[Segment], vision_anchor: int = 1000, reference_anchor: int = 2000, anchor_understanding: bool = False
) -> Tensor:
    """Positions (3, S) with the anchors.

    Vision segments move along the temporal axis so that the first one starts at `vision_anchor`; reference latents likewise at
    `reference_anchor`; a target with as many tokens as the one source latent takes the source's positions. Text that comes
    later is not renumbered. Vision without any latent in the sequence moves only if `anchor_understanding`.
    """
    result = base_positions(segments)
    spans = spans_of(segments)
    generating = any(segment.kind is Kind.LATENT for segment in segments)
    if generating or anchor_understanding:
        _anchor(result, [span for segment, span in zip(segments, spans, strict=True) if segment.kind is Kind.VISION], vision_anchor)
    latents = [(segment, span) for segment, span in zip(segments, spans, strict=True) if segment.kind is Kind.LATENT]
    _anchor(result, [span for segment, span in latents if segment.role is Role.REFERENCE], reference_anchor)
    sources = [span for segment, span in latents if segment.role is Role.SOURCE]
    for segment, span in latents:
        if segment.role is Role.TARGET and len(sources) == 1 and _length(sources[0]) == _length(span):
            result[:, span] = result[:, sources[0]]
    return result


def spans_of(segments: Sequence[Segment]) -> list[slice]:
    """Where each segment lies in the sequence."""
    spans = []
    start = 0
    for segment in segments:
        spans.append(slice(start, start + len(segment)))
        start += len(segment)
    return spans


def _length(span: slice) -> int:
    return int(span.stop - span.start)


def _anchor(result: Tensor, spans: list[slice], anchor: int) -> None:
    if not spans:
        return
    shift = anchor - int(result[0, spans[0].start])
    for span in spans:
        result[0, span] += shift
