"""Names a piece of a picture by its nearest template: every kind in every colour and texture, drawn and cut out just like the piece."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from openlance.world.facts import What
from openlance.world.judge.segment import FOREGROUND, Floats, Piece, join_fragments, pieces, square_crop
from openlance.world.palette import BACKGROUNDS, COLOURS, NATURAL, NATURAL_COLOURS, SCENERIES, SHAPES, TEXTURES, THINGS, background_colours
from openlance.world.render import draw_alone
from openlance.world.scene import diameters
from openlance.world.sprites import sprite

SIDE = 24
TEMPLATE_SIDE = 80
MASK_WEIGHT = 140.0
UNKNOWN_ERROR = 62.0
"""Root mean square error (RGB levels, mask included) above which a piece is nothing the world knows. Perfect pieces stay under 35."""
PLACE_SLACK = 0.05
LOOKALIKE = 21.0


@dataclass(frozen=True)
class Seen:
    """An object found in a frame: centre in shares of the canvas, diameter in short sides, error of its template."""

    kind: str
    colour: str
    texture: str
    x: float
    y: float
    diameter: float
    error: float
    piece: Piece

    @property
    def known(self) -> bool:
        """True when the template fits well enough to believe the name."""
        return self.error < UNKNOWN_ERROR


def recognise(frame: NDArray[np.uint8], piece: Piece, background: str) -> Seen:
    """The nearest template of a piece; the band of a scenery behind its middle decides which templates."""
    height, width = frame.shape[:2]
    left, top, right, bottom = piece.box
    x, y = (left + right) / 2 / width, (top + bottom) / 2 / height
    names, bank, norms = _templates(background, _band(background, y))
    vector = _vector(frame[top:bottom, left:right], piece)
    errors = norms - 2 * (bank @ vector)
    best = int(errors.argmin())
    error = float(np.sqrt(max(0.0, float(errors[best] + vector @ vector)) / (SIDE * SIDE)))
    kind, colour, texture = names[best]
    return Seen(kind, colour, texture, x, y, piece.side / min(height, width), error, piece)


def _vector(pixels: NDArray[np.uint8], piece: Piece) -> Floats:
    """RGB on gray outside the mask, and the mask as a fourth, weightier channel: (4 * SIDE * SIDE,)."""
    shown = np.where(piece.mask[..., None], pixels.astype(np.float32), 128.0)
    planes = [square_crop(shown[..., c], piece.box, 128.0, SIDE) for c in range(3)]
    mask = square_crop(piece.mask.astype(np.float32), piece.box, 0.0, SIDE)
    return np.concatenate([p.ravel() / np.sqrt(3) for p in planes] + [mask.ravel() * MASK_WEIGHT]).astype(np.float32)


def _band(background: str, y: float) -> int:
    if background in BACKGROUNDS:
        return 0
    return next((i for i, (lower, _) in enumerate(SCENERIES[background]) if y <= lower), len(SCENERIES[background]) - 1)


def _looks() -> list[tuple[str, str, str]]:
    shapes = [(k, c, t) for k in SHAPES for c in COLOURS for t in TEXTURES]
    return shapes + [(k, c, "solid") for k in THINGS for c in (NATURAL, *COLOURS)]


@cache
def _templates(background: str, band: int) -> tuple[list[tuple[str, str, str]], Floats, Floats]:
    """(names, vectors (N, 4 * SIDE * SIDE), squared norms (N,)) of everything that can be seen on one band of a background."""
    paper = background_colours(background)[band]
    names, vectors = [], []
    for look in _looks():
        frame = draw_alone(look, background, paper, TEMPLATE_SIDE)
        gap = np.sqrt(((frame.astype(np.float32) - np.array(paper, np.float32)) ** 2).sum(-1))
        found = join_fragments(pieces(gap > FOREGROUND), TEMPLATE_SIDE)
        if not found:
            continue
        piece = max(found, key=lambda p: p.area)
        left, top, right, bottom = piece.box
        names.append(look)
        vectors.append(_vector(frame[top:bottom, left:right], piece))
    bank = np.stack(vectors)
    return names, bank, (bank**2).sum(1)


@cache
def _tint_gap(thing: str, colour: str) -> float:
    """Mean difference (levels) between a thing in a tint and in its natural colours."""
    natural, tinted = (np.asarray(sprite(thing, c, SIDE), np.float32) for c in (NATURAL, colour))
    return float(np.abs(tinted - natural)[natural[..., 3] > 127][:, :3].mean())


def looks_alike(thing: str, colour: str) -> bool:
    """True when a thing in its natural colours passes for this tint: people call it so, or the pixels hardly differ."""
    return NATURAL_COLOURS.get(thing) == colour or _tint_gap(thing, colour) < LOOKALIKE


def fits(what: What, seen: Seen, height: int, width: int) -> bool:
    """True when a description agrees with what is seen on a canvas of this size."""
    return (
        seen.known
        and what.kind in (None, seen.kind)
        and (what.colour is None or same_colour(seen.kind, what.colour, seen.colour))
        and (what.texture in (None, seen.texture) or seen.kind in THINGS)
        and (what.size is None or what.size == size_name(seen.diameter, height, width))
        and (what.place is None or at_place(what.place, seen.x, seen.y))
    )


def same_colour(kind: str, said: str, seen: str) -> bool:
    """Equal, or a natural thing and a tint it passes for."""
    if said == seen or kind not in THINGS or NATURAL not in (said, seen):
        return said == seen
    return looks_alike(kind, seen if said == NATURAL else said)


def size_name(diameter: float, height: int, width: int) -> str:
    """The nearest size of the canvas."""
    sizes = diameters(height, width)
    return min(sizes, key=lambda s: abs(np.log(diameter / (sizes[s] * 1.03))))


def at_place(place: str, x: float, y: float) -> bool:
    """True when a point lies in a named place or within PLACE_SLACK of it."""
    words = place.split()
    column = next((w for w in words if w in ("left", "right")), "middle")
    row = next((w for w in words if w in ("top", "bottom")), "middle")
    return _in_third(x, ("left", "middle", "right").index(column)) and _in_third(y, ("top", "middle", "bottom").index(row))


def _in_third(value: float, index: int) -> bool:
    return index / 3 - PLACE_SLACK < value < (index + 1) / 3 + PLACE_SLACK
