"""Answerers that need no model, and items whose pictures all have one background, so that the judge prepares templates only once."""

from collections.abc import Sequence

import numpy as np

from openlance.eval.answerers import Answer, Ask, clip_of
from openlance.eval.rounds import Item, items_of
from openlance.eval.suite import Cell
from openlance.media.clip import Clip

BACKGROUND = "white"


class Nonsense:
    """A gray blank for a picture, a word of no meaning for a text."""

    name = "nonsense"

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [_blank(ask) for ask in asks]


def _blank(ask: Ask) -> Answer:
    target = ask.turn.target
    return "qqq" if target is None else Clip(np.full((target.num_frames, target.height, target.width, 3), 245, np.uint8), target.fps)


class Lazy:
    """Gives back what it was given: an edit that changes nothing."""

    name = "lazy"

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [ask.media[0] if ask.media else clip_of(ask.turn.target) for ask in asks]


def plain_items(cell: Cell, count: int = 1, tries: int = 120) -> list[Item]:
    """The first items of a cell all of whose media are on one background."""
    found = []
    for item in items_of(cell, tries, 0, 1):
        media = [m for turn in item.example().turns for m in (*turn.inputs, *([turn.target] if turn.target else []))]
        if {medium.scene.background for medium in media} == {BACKGROUND}:
            found.append(item)
        if len(found) == count:
            return found
    raise AssertionError(f"{cell.key} has no {count} items on {BACKGROUND}")
