"""The pictograms of the second ring: cut from the sprite sheet, tinted, scaled."""

from functools import cache, lru_cache
from importlib.resources import files

import numpy as np
from PIL import Image

from openlance.world.palette import COLOURS, NATURAL, THINGS

CELL = 96
COLUMNS = 8


@cache
def _sheet() -> Image.Image:
    with files("openlance.world").joinpath("assets/things.png").open("rb") as file:
        return Image.open(file).convert("RGBA")


@cache
def _tinted(thing: str, tint: str) -> Image.Image:
    index = THINGS.index(thing)
    left, top = index % COLUMNS * CELL, index // COLUMNS * CELL
    cell = _sheet().crop((left, top, left + CELL, top + CELL))
    return cell if tint == NATURAL else _recolour(cell, tint)


def _recolour(cell: Image.Image, tint: str) -> Image.Image:
    """Every pixel takes the tint's hue: shadows run to black, lights to white, and the median brightness is the tint itself."""
    pixels = np.asarray(cell).astype(np.float32)
    light = pixels[..., :3] @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    pivot = float(np.clip(np.median(light[pixels[..., 3] > 127]), 0.25, 0.8))
    colour = np.array(COLOURS[tint], np.float32)
    dark = colour * (light / pivot)[..., None].clip(0, 1)
    glow = ((light - pivot) / (1 - pivot))[..., None].clip(0, 1) * 0.8
    rgb = dark * (1 - glow) + 255 * glow
    return Image.fromarray(np.concatenate([rgb, pixels[..., 3:]], -1).round().astype(np.uint8))


@lru_cache(maxsize=4096)
def sprite(thing: str, tint: str, size: int) -> Image.Image:
    """RGBA picture (size, size) of a thing, longer side to the border; `tint` is a colour or "natural". Shared: do not draw on it."""
    return _tinted(thing, tint).resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
