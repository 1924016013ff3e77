"""How much of what an edit had to leave alone is still as it was, by pixels."""

import numpy as np
from numpy.typing import NDArray

from openlance.world.facts import What
from openlance.world.judge.view import View

SAME, LOST = 14.0, 60.0
"""Mean absolute difference (levels) up to which a region counts as kept, and from which it counts as lost; between, linear."""
MARGIN = 0.04


def preservation(
    source: NDArray[np.uint8], output: NDArray[np.uint8], views: tuple[list[View], list[View]], change: tuple[What | None, What | None]
) -> float:
    """Share of the source's regions (each untouched object, the word, the background) that the output keeps, 0 to 1.

    `source` and `output` are (F, H, W, 3), `views` what is seen in them; `change` describes what is meant to change, in the source and in the
    output. An output of another size keeps nothing.
    """
    if source.shape != output.shape:
        return 0.0
    kept = [_frame(source[i], output[i], (views[0][i], views[1][i]), change) for i in range(0, len(source), max(1, len(source) // 5))]
    return float(np.mean(kept))


def _frame(
    source: NDArray[np.uint8], output: NDArray[np.uint8], views: tuple[View, View], change: tuple[What | None, What | None]
) -> float:
    height, width = source.shape[:2]
    difference = np.abs(source.astype(np.float32) - output.astype(np.float32)).mean(-1)
    free = np.zeros((height, width), np.bool_)
    for view, what in zip(views, change, strict=True):
        for box in _boxes(view, what):
            _fill(free, box, round(MARGIN * min(height, width)))
    regions, objects = [], np.zeros((height, width), np.bool_)
    for seen in views[0].objects:
        left, top, right, bottom = seen.piece.box
        mask = np.zeros((height, width), np.bool_)
        mask[top:bottom, left:right] = seen.piece.mask
        objects |= mask
        regions.append(mask & ~free)
    for piece in views[0].word.pieces if views[0].word else ():
        _fill(objects, piece.box, 1)
    if views[0].word:
        word = np.zeros((height, width), np.bool_)
        for piece in views[0].word.pieces:
            _fill(word, piece.box, 0)
        regions.append(word & ~free)
    if change[0] is None or change[0].kind != "background":
        regions.append(~objects & ~free)
    sizes = [r for r in regions if r.sum() > 0.001 * r.size]
    return float(np.mean([_kept(float(difference[r].mean())) for r in sizes])) if sizes else 1.0


def _boxes(view: View, what: What | None) -> list[tuple[int, int, int, int]]:
    """Boxes of what is meant to change."""
    if what is None or what.kind == "background":
        return []
    if what.kind == "word":
        return [p.box for p in view.word.pieces] if view.word else []
    return [seen.piece.box for seen in view.matching(what)]


def _fill(mask: NDArray[np.bool_], box: tuple[int, int, int, int], margin: int) -> None:
    left, top, right, bottom = box
    mask[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin] = True


def _kept(difference: float) -> float:
    return float(np.clip((LOST - difference) / (LOST - SAME), 0.0, 1.0))
