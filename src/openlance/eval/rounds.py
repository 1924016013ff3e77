"""Examples of a suite, played turn by turn: each turn of a story starts from what came of the turn before."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from openlance.eval.answerers import Answer, Answerer, Ask, clip_of
from openlance.eval.suite import Cell
from openlance.media.clip import Clip
from openlance.world.examples import Example
from openlance.world.tasks import make_example

SEED_STRIDE = 100_000
"""Examples a seed has to itself: seed s uses the indices from s * SEED_STRIDE of the evaluation range."""


@dataclass(frozen=True)
class Item:
    """One run of one example: the `picture`-th of several from the same prompt."""

    cell: Cell
    seed: int
    number: int
    picture: int = 0

    @property
    def key(self) -> str:
        """Name in files."""
        return f"{self.cell.key}/{self.number}/{self.picture}"

    @property
    def index(self) -> int:
        """Index of the example in its split."""
        return self.seed * SEED_STRIDE + self.number

    @property
    def noise(self) -> int:
        """Seed of the noise."""
        return zlib.crc32(f"{self.key}/{self.seed}".encode())

    def example(self) -> Example:
        """The example, the same on every machine."""
        category = self.cell.categories[self.number % len(self.cell.categories)]
        return make_example(self.cell.suite.task, category, self.index, self.cell.setting)


@dataclass(frozen=True)
class Played:
    """An item with what was given to each turn and what came of it."""

    item: Item
    example: Example
    given: tuple[tuple[Clip, ...], ...]
    answers: tuple[Answer, ...]


def items_of(cell: Cell, n: int, seed: int, pictures: int | None = None) -> list[Item]:
    """The first `n` prompts of a cell, each with its pictures."""
    each = cell.suite.pictures if pictures is None else pictures
    return [Item(cell, seed, number, picture) for number in range(n) for picture in range(each)]


def play(items: Sequence[Item], answerer: Answerer) -> list[Played]:
    """All turns of all items; the k-th turns of all are answered together."""
    examples = [item.example() for item in items]
    given: list[list[tuple[Clip, ...]]] = [[] for _ in items]
    answers: list[list[Answer]] = [[] for _ in items]
    for k in range(max(len(example.turns) for example in examples)):
        places = [i for i, example in enumerate(examples) if len(example.turns) > k]
        asks = []
        for i in places:
            turn = examples[i].turns[k]
            last = next((a for a in reversed(answers[i]) if isinstance(a, Clip)), None)
            media = (last,) if last is not None and turn.inputs else tuple(clip_of(medium) for medium in turn.inputs)
            given[i].append(media)
            asks.append(Ask(turn, media, items[i].noise + k))
        for i, answer in zip(places, answerer.answer(asks), strict=True):
            answers[i].append(answer)
    return [Played(*parts) for parts in zip(items, examples, map(tuple, given), map(tuple, answers), strict=True)]
