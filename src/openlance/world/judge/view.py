"""Everything a judge sees in one frame: background, objects, word."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openlance.world.facts import What
from openlance.world.judge.read import Written, read_word
from openlance.world.judge.recognise import Seen, fits, recognise
from openlance.world.judge.segment import FOREGROUND, contrast, find_background, join_fragments, pieces


@dataclass(frozen=True)
class View:
    """One frame, looked at."""

    height: int
    width: int
    background: str
    objects: tuple[Seen, ...]
    word: Written | None

    def matching(self, what: What) -> list[Seen]:
        """The objects a description fits."""
        return [seen for seen in self.objects if fits(what, seen, self.height, self.width)]


def look(frame: NDArray[np.uint8], background: str | None = None, words: bool = True) -> View:
    """Looks at a frame (H, W, 3). A known `background` is not searched again; without `words` letters count as objects."""
    background = background or find_background(frame)
    gap = contrast(frame, background)
    word = read_word(frame, gap) if words else None
    mask = gap > FOREGROUND
    for letter in word.pieces if word else ():
        left, top, right, bottom = letter.box
        mask[max(0, top - 3) : bottom + 3, max(0, left - 3) : right + 3] = False
    rest = join_fragments(pieces(mask), min(frame.shape[:2]))
    return View(frame.shape[0], frame.shape[1], background, tuple(recognise(frame, p, background) for p in rest), word)
