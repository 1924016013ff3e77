"""Every word that the world's language has, and what to tell people who use others: the `words.json` of models that speak it.

python -m openlance.data.known_words FOLDER     # into a checkpoint that was trained on the world alone
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from openlance.sequence.known_words import QUOTED, WORD, KnownWords
from openlance.world.draw import Setting
from openlance.world.lexicon import names
from openlance.world.more_phrasings import MORE
from openlance.world.palette import BACKGROUNDS, COLOURS, EVENTS, MOTIONS, PLACES, SCENERIES, SHAPES, SIZES, TEXTURES, THINGS
from openlance.world.phrasings import PHRASINGS
from openlance.world.tasks import CATEGORIES, make_example

EXAMPLES = 20
"""Of each category and ring: what joins phrasings ("and", "two", "it") is all said by then; 40 others of each add nothing."""
LETTERS = (3, 5)
"""Of a word in a picture."""


def world_words() -> KnownWords:
    """The words of all phrasings, held-out ones too, of all names, and of what joins them."""
    words = {word.lower() for text in _texts() for word in WORD.findall(QUOTED.sub(" ", text))}
    knows = {
        "shapes": SHAPES,
        "things": THINGS,
        "colours": tuple(COLOURS),
        "patterns": TEXTURES,
        "sizes": SIZES,
        "backgrounds": tuple(BACKGROUNDS),
        "sceneries": tuple(SCENERIES),
        "places": PLACES,
        "motions": tuple(map(_deed, MOTIONS)),
        "events": tuple(map(_deed, EVENTS)),
        "words to write": (f"{LETTERS[0]} to {LETTERS[1]} capital letters in quotes",),
    }
    return KnownWords(frozenset(words), knows, LETTERS)


def _deed(name: str) -> str:
    """How a motion or an event is said first: "moving to the left", "turning another colour"."""
    return PHRASINGS[name][0].format(x="", c="another colour").strip().removeprefix("and then ")


def _texts() -> Iterator[str]:
    for group in (PHRASINGS, MORE):
        for phrasings in group.values():
            yield from (re.sub(r"\{\w+\}", " ", phrasing) for phrasing in phrasings)
    yield from names()
    for ring in (1, 2):
        setting = Setting(256, 256, ring=ring)
        for task, categories in CATEGORIES.items():
            for category in categories:
                for index in range(EXAMPLES):
                    yield from (turn.text for turn in make_example(task, category, index, setting).turns)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the generator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a checkpoint in our own layout")
    path = parser.parse_args(arguments).folder / "words.json"
    if not path.with_name("config.json").is_file():
        parser.error(f"{path.parent} is no checkpoint: there is no config.json in it")
    world_words().save(path)
    print(path)


if __name__ == "__main__":
    main()
