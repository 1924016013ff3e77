"""Pictures of played examples: what was given and what came of it side by side, many on one sheet with what is wrong below."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from openlance.eval.rounds import Played
from openlance.eval.scores import Mark
from openlance.media.clip import Clip
from openlance.media.sample import spread
from openlance.media.sheet import contact_sheet

if TYPE_CHECKING:
    from PIL.Image import Image

HEIGHT = 128
GAP, ARROW = 2, 10
FRAMES = 4
WIDTHS = (270, 420, 680)
"""Strips share a band with those of the same class of width; a narrower one gets room for its label."""
TOTAL = 1400


def strip(played: Played) -> NDArray[np.uint8]:
    """(HEIGHT, W, 3): the first turn's media, a gray bar, then every turn's picture or a few frames of its clip."""
    given = [tile for clip in (played.given[0] if played.given else ()) for tile in _tiles(clip)]
    made = [tile for answer in played.answers if isinstance(answer, Clip) for tile in _tiles(answer)]
    bar = [np.full((HEIGHT, ARROW, 3), 160, np.uint8)] if given and made else []
    return np.concatenate([*given, *bar, *made], 1) if given or made else np.full((HEIGHT, HEIGHT, 3), 235, np.uint8)


def _tiles(clip: Clip) -> list[NDArray[np.uint8]]:
    from PIL import Image

    width = max(1, round(clip.width * HEIGHT / clip.height))
    tiles = []
    for index in spread(clip.num_frames, min(FRAMES, clip.num_frames)):
        tile = np.asarray(clip.image(index).resize((width, HEIGHT), Image.Resampling.LANCZOS))
        tiles.append(np.pad(tile, ((0, 0), (0, GAP), (0, 0)), constant_values=255))
    return tiles


def label(played: Played, found: Sequence[Mark]) -> str:
    """What was said, what was answered, and which facts are wrong or missing."""
    said = " / ".join(turn.text for turn in played.example.turns)
    pairs = zip(played.answers, played.example.turns, strict=True)
    answers = [f'"{answer}" for "{turn.answer}"' for answer, turn in pairs if isinstance(answer, str)]
    wrong = [name for mark in found for name in mark.wrong if name not in ("answer", "recall", "precision")]
    score = found[-1].score
    parts = [f"[{score:.2f}] {said}", *(f"said {a}" for a in answers), *([f"wrong: {'; '.join(wrong)}"] if wrong else [])]
    return " -> ".join(parts)


def sheet(strips: Sequence[NDArray[np.uint8]], labels: Sequence[str]) -> "Image":
    """Strips with their labels below, one band for each class of widths so that nothing is scaled and little stays empty."""
    from PIL import Image

    bands: dict[int, list[tuple[NDArray[np.uint8], str]]] = {}
    for tile, text in zip(strips, labels, strict=True):
        width = next((width for width in WIDTHS if tile.shape[1] <= width), tile.shape[1])
        bands.setdefault(width, []).append((np.pad(tile, ((0, 0), (0, width - tile.shape[1]), (0, 0)), constant_values=255), text))
    drawn = []
    for width, tiles in sorted(bands.items(), key=lambda band: band[0]):
        drawn.append(contact_sheet([tile for tile, _ in tiles], [text for _, text in tiles], max(1, TOTAL // width), tile_height=HEIGHT))
    whole = Image.new("RGB", (max(band.width for band in drawn), sum(band.height for band in drawn)), "white")
    top = 0
    for band in drawn:
        whole.paste(band, (0, top))
        top += band.height
    return whole
