"""What training never sees: pairs, phrasings, words and seeds, fixed once in assets/splits.json."""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

SPLITS = ("train", "test", "unseen pairs", "unseen phrasings", "unseen words")


@dataclass(frozen=True)
class Splits:
    """Held-out lists. `evaluation_seeds` is [first, after last]; the last `held_phrasings` phrasings of every fact are held out."""

    shape_colour_pairs: frozenset[tuple[str, str]]
    thing_tint_pairs: frozenset[tuple[str, str]]
    kind_pairs: frozenset[tuple[str, str]]
    held_phrasings: int
    evaluation_seeds: tuple[int, int]
    held_words: tuple[str, ...]
    words: tuple[str, ...]

    def holds(self, kind: str, colour: str) -> bool:
        """True when a thing or shape in this colour is held out of training."""
        return (kind, colour) in self.shape_colour_pairs or (kind, colour) in self.thing_tint_pairs

    def holds_together(self, kinds: set[str]) -> bool:
        """True when two of these kinds are never seen together in training."""
        return any(a in kinds and b in kinds for a, b in self.kind_pairs)


@cache
def splits() -> Splits:
    """The lists of the package."""
    raw = json.loads(files("openlance.world").joinpath("assets/splits.json").read_text())
    return Splits(
        shape_colour_pairs=frozenset((a, b) for a, b in raw["shape_colour_pairs"]),
        thing_tint_pairs=frozenset((a, b) for a, b in raw["thing_tint_pairs"]),
        kind_pairs=frozenset((a, b) for a, b in raw["kind_pairs"]),
        held_phrasings=raw["held_phrasings"],
        evaluation_seeds=(raw["evaluation_seeds"][0], raw["evaluation_seeds"][1]),
        held_words=tuple(raw["held_words"]),
        words=tuple(raw["words"]),
    )
