"""Splits a frame into background and connected pieces, from pixels alone."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from openlance.world.palette import BACKGROUNDS, SCENERIES
from openlance.world.render import background_image

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
FOREGROUND = 42.0
"""RGB distance from the background at which a pixel belongs to an object: under the least contrast sampled (60), over noise of sigma 6."""
DUST = 0.0006
"""Pieces smaller than this share of the frame are noise."""


@dataclass(frozen=True)
class Piece:
    """A connected region: its mask (h, w) inside the box (left, top, right, bottom) in px."""

    mask: Mask
    box: tuple[int, int, int, int]

    @property
    def area(self) -> int:
        """Pixels."""
        return int(self.mask.sum())

    @property
    def side(self) -> int:
        """The longer side of the box in px."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])


@lru_cache(maxsize=128)
def background_variants(name: str, height: int, width: int) -> Floats:
    """(V, H, W, 3): the background, and sceneries also blurred and shifted by up to two px: soft edges between bands belong to them."""
    picture = background_image(name, height * 2, width * 2).reduce(2)
    plain = np.asarray(picture, np.float32)
    if name in BACKGROUNDS:
        return plain[None]
    soft = [np.asarray(picture.filter(ImageFilter.BoxBlur(r)), np.float32) for r in (1, 2)]
    shifted = [np.roll(plain, s, 0) for s in (-2, -1, 1, 2)]
    for picture_, s in zip(shifted, (-2, -1, 1, 2), strict=True):
        picture_[: max(s, 0)] = plain[: max(s, 0)]
        picture_[height + min(s, 0) :] = plain[height + min(s, 0) :]
    return np.stack([plain, *soft, *shifted])


def find_background(frame: NDArray[np.uint8]) -> str:
    """The background or scenery that explains the frame (H, W, 3) best; far-off pixels (objects) count alike for all."""
    pixels = frame.astype(np.float32)
    names = (*BACKGROUNDS, *SCENERIES)
    return min(names, key=lambda name: float(np.minimum(_gap(pixels, background_variants(name, *frame.shape[:2])[:1]), 60).mean()))


def _gap(pixels: Floats, variants: Floats) -> Floats:
    gap: Floats = np.sqrt(((pixels - variants) ** 2).sum(-1).min(0))
    return gap


def contrast(frame: NDArray[np.uint8], background: str) -> Floats:
    """(H, W) RGB distance of every pixel from the background."""
    return _gap(frame.astype(np.float32), background_variants(background, *frame.shape[:2]))


def foreground(frame: NDArray[np.uint8], background: str) -> Mask:
    """(H, W) True where a pixel is not the background."""
    return contrast(frame, background) > FOREGROUND


def pieces(mask: Mask) -> list[Piece]:
    """Connected regions (also across corners) larger than dust."""
    labels = _label(mask)
    found = []
    for label in range(1, int(labels.max()) + 1 if labels.size else 1):
        ys, xs = np.nonzero(labels == label)
        if len(ys) < max(4, DUST * mask.size):
            continue
        box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
        found.append(Piece(labels[box[1] : box[3], box[0] : box[2]] == label, box))
    return found


def _label(mask: Mask) -> NDArray[np.int32]:
    """Union of the runs of neighbouring rows; labels from 1, 0 outside."""
    parent: list[int] = [0]
    rows: list[list[tuple[int, int, int]]] = []
    previous: list[tuple[int, int, int]] = []
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    filled: Mask = np.any(mask, axis=1)
    for y in range(mask.shape[0]):
        if not filled[y]:
            rows.append([])
            previous = []
            continue
        starts, ends = np.flatnonzero(edges[y] == 1), np.flatnonzero(edges[y] == -1)
        current = []
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            touching = [_root(parent, label) for s, e, label in previous if s <= end and e >= start]
            label = min(touching, default=len(parent))
            if not touching:
                parent.append(label)
            for other in touching:
                parent[other] = label
            current.append((start, end, label))
        rows.append(current)
        previous = current
    names: dict[int, int] = {}
    labels = np.zeros(mask.shape, np.int32)
    for y, runs in enumerate(rows):
        for start, end, label in runs:
            labels[y, start:end] = names.setdefault(_root(parent, label), len(names) + 1)
    return labels


def _root(parent: list[int], label: int) -> int:
    while parent[label] != label:
        label = parent[label]
    return label


def join_fragments(found: list[Piece], short: int) -> list[Piece]:
    """Bits too small to be an object (a balloon's string, a rocket's sparks) go to the nearest object, or away when there is none near."""
    big = [p for p in found if p.side >= 0.13 * short]
    joined = {id(p): [p] for p in big}
    for bit in found:
        if bit.side >= 0.13 * short or not big:
            continue
        nearest = min(big, key=lambda p: _box_gap(p.box, bit.box))
        if _box_gap(nearest.box, bit.box) <= 0.03 * short:
            joined[id(nearest)].append(bit)
    return [p if len(joined[id(p)]) == 1 else merge(joined[id(p)]) for p in big]


def merge(parts: list[Piece]) -> Piece:
    """One piece of several."""
    left, top = min(p.box[0] for p in parts), min(p.box[1] for p in parts)
    right, bottom = max(p.box[2] for p in parts), max(p.box[3] for p in parts)
    mask = np.zeros((bottom - top, right - left), np.bool_)
    for p in parts:
        mask[p.box[1] - top : p.box[3] - top, p.box[0] - left : p.box[2] - left] |= p.mask
    return Piece(mask, (left, top, right, bottom))


def _box_gap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    dx = max(a[0] - b[2], b[0] - a[2], 0)
    dy = max(a[1] - b[3], b[1] - a[3], 0)
    return float(max(dx, dy))


def square_crop(values: Floats, box: tuple[int, int, int, int], outside: float, side: int) -> Floats:
    """The content (h, w) of a box centred on a square of `outside`, resized to (side, side)."""
    height, width = values.shape
    size = max(height, width)
    canvas = np.full((size, size), outside, np.float32)
    top, left = (size - height) // 2, (size - width) // 2
    canvas[top : top + height, left : left + width] = values
    return np.asarray(Image.fromarray(canvas).resize((side, side), Image.Resampling.BILINEAR), np.float32)
