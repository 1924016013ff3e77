"""Reads a word by matching its letters with the world's own fonts."""

import string
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from openlance.world.judge.segment import FOREGROUND, Floats, Mask, Piece, pieces, square_crop
from openlance.world.palette import COLOURS, FONTS
from openlance.world.render import word_mask

SIDE = 20
LOWEST, HIGHEST = 0.08, 0.28
BAND = 0.4
SHORTEST = 3
CUTS = (0.35, 0.5, 0.65)
"""Shares of the ink's contrast at which letters are cut out."""
READABLE = 0.74
"""Mean overlap (intersection over union) of letters and templates from which a row of pieces is a word. Clean words reach 0.9."""


@dataclass(frozen=True)
class Written:
    """A word found in a frame: its colour, third ("top" or "bottom"), mean overlap with the letters' templates, and pieces."""

    text: str
    colour: str
    place: str
    overlap: float
    pieces: tuple[Piece, ...]


def read_word(frame: NDArray[np.uint8], gap: Floats) -> Written | None:
    """The best row of three or more letters in the upper or lower third, None when nothing there looks like a word.

    `gap` (H, W) is the distance from the background. Every cut of CUTS is tried: high ones part letters whose soft edges touch, low ones
    keep a letter in one piece where it stands out less (bright letters over stars).
    """
    rows = [(place, _row(frame, _ink(gap, place, cut), place)) for place in ("top", "bottom") for cut in CUTS]
    words = [_read(frame, row, place) for place, row in rows if len(row) >= SHORTEST]
    words = [w for w in words if w.overlap >= READABLE]
    return max(words, key=lambda w: w.overlap, default=None)


def _ink(gap: Floats, place: str, cut: float) -> list[Piece]:
    """Pieces of the third that stand out at least `cut` times as much as its ink does."""
    edge = round(BAND * gap.shape[0])
    band = np.zeros_like(gap)
    inside = slice(0, edge) if place == "top" else slice(gap.shape[0] - edge, None)
    band[inside] = gap[inside]
    strong = band[band > FOREGROUND]
    return pieces(band > max(FOREGROUND, cut * float(np.percentile(strong, 75)))) if strong.size else []


def _row(frame: NDArray[np.uint8], found: list[Piece], place: str) -> list[Piece]:
    """Pieces of letter height in a third, of like height, from left to right."""
    height, width = frame.shape[:2]
    short = min(height, width)
    lower, upper = (0.0, BAND) if place == "top" else (1 - BAND, 1.0)
    inside = [
        p
        for p in found
        if lower * height <= p.box[1] and p.box[3] <= upper * height and LOWEST * short <= p.box[3] - p.box[1] <= HIGHEST * short
    ]
    if not inside:
        return []
    middle = float(np.median([p.box[3] - p.box[1] for p in inside]))
    base = float(np.median([p.box[3] for p in inside]))
    like = [p for p in inside if abs(p.box[3] - p.box[1] - middle) <= 0.25 * middle + 1 and abs(p.box[3] - base) <= 0.25 * middle + 1]
    return sorted(like, key=lambda p: p.box[0])


@cache
def _letters(font: str) -> Floats:
    """(26, SIDE * SIDE) coverage of the capitals."""
    return np.stack([_cut(np.asarray(word_mask(letter, font, 48)) > 127) for letter in string.ascii_uppercase])


def _cut(mask: Mask) -> Floats:
    height, width = mask.shape
    return square_crop(mask.astype(np.float32), (0, 0, width, height), 0.0, SIDE).ravel()


def _read(frame: NDArray[np.uint8], row: list[Piece], place: str) -> Written:
    """Reads with each font and keeps the one whose letters fit best together."""
    cuts = np.stack([_cut(p.mask) for p in row])
    best_text, best_overlap = "", -1.0
    for font in FONTS:
        bank = _letters(font)
        both = np.minimum(cuts[:, None], bank[None]).sum(-1)
        overlap = both / np.maximum(cuts[:, None], bank[None]).sum(-1)
        if overlap.max(1).mean() > best_overlap:
            best_overlap = float(overlap.max(1).mean())
            best_text = "".join(string.ascii_uppercase[i] for i in overlap.argmax(1))
    return Written(best_text, _colour(frame, row), place, best_overlap, tuple(row))


def _colour(frame: NDArray[np.uint8], row: list[Piece]) -> str:
    """The palette colour of the letters' inner pixels (half of each letter farthest from its edge colours is enough: the median)."""
    inked = [frame[p.box[1] : p.box[3], p.box[0] : p.box[2]][p.mask] for p in row]
    pixels = np.concatenate(inked).astype(np.float32)
    palette = np.array(list(COLOURS.values()), np.float32)
    nearest = np.sqrt(((pixels[:, None] - palette) ** 2).sum(-1))
    close = nearest.min(1) <= np.median(nearest.min(1))
    votes = np.bincount(nearest[close].argmin(1), minlength=len(palette))
    return list(COLOURS)[int(votes.argmax())]
