"""How much of what an edit had to leave alone is still as it was, by pixels."""

import numpy as np
from numpy.typing import NDArray

from openlance.world.judge.segment import Piece
from openlance.world.judge.view import View

Frames = NDArray[np.uint8]
Box = tuple[int, int, int, int]

SAME, LOST = 14.0, 60.0
"""Mean absolute difference (levels) up to which a region counts as kept, and from which it counts as lost; between, linear."""
MARGIN = 0.04


def preservation(source: Frames, output: Frames, views: list[View], changing: list[list[Box]], background: bool = True) -> float:
    """Share of the source's regions (each untouched object, the word, the background) that the output keeps, 0 to 1.

    `source` and `output` are (F, H, W, 3), `views` what is seen in the source's frames; `changing` lists, a frame, the boxes (px) that are
    meant to change, and without `background` the background may, too. An output of another size keeps nothing.
    """
    if source.shape != output.shape:
        return 0.0
    looked = range(0, len(source), max(1, len(source) // 5))
    return float(np.mean([_frame(source[i], output[i], views[i], changing[i], background) for i in looked]))


def _frame(source: Frames, output: Frames, view: View, changing: list[Box], background: bool) -> float:
    difference = np.abs(source.astype(np.float32) - output.astype(np.float32)).mean(-1)
    fixed = np.ones(difference.shape, np.bool_)
    for box in changing:
        _fill(fixed, box, round(MARGIN * min(fixed.shape)), False)
    regions = [_object_mask(view, seen.piece) for seen in view.objects]
    if view.word:
        letters: NDArray[np.bool_] = np.any([_object_mask(view, piece) for piece in view.word.pieces], axis=0)
        regions.append(letters)
    if background:
        regions.append(~np.any(regions, 0) if regions else np.ones(fixed.shape, np.bool_))
    kept = [r & fixed for r in regions]
    return float(np.mean([_kept(float(difference[r].mean())) for r in kept if r.sum() > 0.001 * r.size] or [1.0]))


def _object_mask(view: View, piece: Piece) -> NDArray[np.bool_]:
    left, top, right, bottom = piece.box
    mask = np.zeros((view.height, view.width), np.bool_)
    mask[top:bottom, left:right] = piece.mask
    inner = mask.copy()  # the rim mixes with the background and changes with it
    for shift, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
        inner &= np.roll(mask, shift, axis)
    return inner


def _fill(mask: NDArray[np.bool_], box: Box, margin: int, value: bool) -> None:
    left, top, right, bottom = box
    mask[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = value


def _kept(difference: float) -> float:
    return float(np.clip((LOST - difference) / (LOST - SAME), 0.0, 1.0))
