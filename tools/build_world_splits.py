"""Build src/openlance/world/assets/splits.json: the words of the world and everything that is held out of training.

    python tools/build_world_splits.py --dictionary american-english --output src/openlance/world/assets/splits.json

Words are the most frequent English words of 3 to 5 letters (package wordfreq) that a spelling dictionary knows in lower case.
"""

import argparse
import itertools
import json
import random
from pathlib import Path

from openlance.world.palette import COLOURS, SHAPES, THINGS

WORDS, HELD_WORDS = 1500, 300
RUDE = {
    "anal", "anus", "arse", "ass", "balls", "bitch", "boob", "boobs", "butt", "cock", "crap", "cunt", "dick", "drug", "drugs", "dumb",
    "dyke", "fag", "fags", "fuck", "gay", "gays", "gun", "guns", "hell", "homo", "idiot", "jap", "jews", "kill", "kills", "lesbo",
    "milf", "naked", "nazi", "negro", "nude", "nudes", "orgy", "penis", "piss", "poop", "porn", "porno", "pussy", "rape", "raped",
    "rapes", "semen", "sex", "sexy", "shit", "slave", "slut", "sperm", "spic", "suck", "sucks", "tit", "tits", "vagin", "whore",
    "damn", "bomb", "bombs", "dead", "death", "die", "died", "dies", "hate", "hated", "hates", "trump", "obama",
}  # fmt: skip


def words(dictionary: Path) -> list[str]:
    from wordfreq import top_n_list

    known = set(dictionary.read_text(encoding="utf-8").split())
    fit = (w for w in top_n_list("en", 30_000) if w.isascii() and w.isalpha() and 3 <= len(w) <= 5 and w in known and w not in RUDE)
    return [w.upper() for w in itertools.islice(fit, WORDS)]


def held_shape_pairs() -> list[tuple[str, str]]:
    """One pair a shape and a colour: every single attribute is still seen seven times."""
    return [(shape, list(COLOURS)[(3 * i + 7) % 8]) for i, shape in enumerate(SHAPES)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dictionary", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    rng = random.Random(20260518)
    vocabulary = words(arguments.dictionary)
    held_words = sorted(rng.sample(vocabulary, HELD_WORDS))
    tinted = rng.sample([(thing, colour) for thing in THINGS for colour in COLOURS], 30)
    kinds = rng.sample(list(itertools.combinations(SHAPES, 2)), 3) + rng.sample(list(itertools.combinations(THINGS, 2)), 60)
    content = {
        "shape_colour_pairs": sorted(held_shape_pairs()),
        "thing_tint_pairs": sorted(tinted),
        "kind_pairs": sorted(kinds),
        "held_phrasings": 2,
        "evaluation_seeds": [900_000_000, 1_000_000_000],
        "held_words": held_words,
        "words": sorted(set(vocabulary) - set(held_words)),
    }
    lines = ",\n".join(f'  "{key}": {json.dumps(value, separators=(",", ":"))}' for key, value in content.items())
    arguments.output.write_text("{\n" + lines + "\n}\n")


if __name__ == "__main__":
    main()
