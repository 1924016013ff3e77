"""Judges of text: short answers, boxes, words, captions."""

import re
from collections import Counter

from openlance.world.language import ACTIONS
from openlance.world.lexicon import canonical, names
from openlance.world.palette import BACKGROUNDS, COLOURS, PLACES, SCENERIES, SHAPES, SIZES, TEXTURES, THINGS

BOX = re.compile(r"\((\d+),\s*(\d+)\)\s*,\s*\((\d+),\s*(\d+)\)")
ENOUGH_OVERLAP = 0.5
NUMBER_WORDS = {"a": 1, "an": 1, "some": 1, "one": 1, "two": 2, "three": 3, "four": 4, "1": 1, "2": 2, "3": 3, "4": 4}


def same_answer(said: str, right: str) -> bool:
    """True when both mean the same name, whatever the articles, synonyms and digits; words in capitals must agree letter by letter."""
    if right.isupper():
        return said.strip().strip('"').rstrip(".").upper() == right
    return canonical(said) == canonical(right)


def box_overlap(said: str, right: str) -> float:
    """Intersection over union of two "(left,top),(right,bottom)" boxes, 0 when what was said is no box."""
    a, b = BOX.search(said), BOX.search(right)
    if not a or not b:
        return 0.0
    p, q = [int(v) for v in a.groups()], [int(v) for v in b.groups()]
    wide, high = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
    both = max(0, wide) * max(0, high)
    areas = sum(max(0, r[2] - r[0]) * max(0, r[3] - r[1]) for r in (p, q))
    return both / (areas - both) if areas > both else 0.0


def statements(caption: str) -> Counter[str]:
    """The single facts a caption states, with how often: kinds, their attributes, places and actions, the word, the background."""
    found: Counter[str] = Counter()
    for word in re.findall(r'"([^"]*)"', caption):
        found[f"word {word}"] += 1
    tokens = re.findall(r"[a-z]+(?:-[a-z]+)?|\d+|,", re.sub(r'"[^"]*"', "", caption.lower()))
    pending: list[str] = []
    item, number, index = "", 1, 0
    while index < len(tokens):
        name, used = _longest(tokens, index)
        if name == "background" or (name in SCENERIES):
            behind = name if name in SCENERIES else next((p for p in reversed(pending) if p in BACKGROUNDS), "")
            found[f"background {behind}"] += 1
            pending, item = [], ""
        elif name in SHAPES or name in THINGS:
            item = name
            found[name] += number
            for attribute in pending:
                found[f"{name} {attribute}"] += number
            pending, number = [], 1
        elif name in ACTION_NAMES and item:
            found[f"{item} {name}"] += 1
        elif name == "turning":
            found[f"{item} turning {tokens[index + 1] if index + 1 < len(tokens) else ''}"] += 1
            used = 2
        elif name in PLACES and item:
            found[f"{item} at {name}"] += 1
        elif name in ATTRIBUTES:
            pending.append(name)
        elif name in NUMBER_WORDS:
            number, pending = NUMBER_WORDS[name], []
        index += used
    return found


ACTION_NAMES = {a: a for a in (*ACTIONS.values(), "stopping")}
ATTRIBUTES = (*COLOURS, *TEXTURES, *SIZES, *BACKGROUNDS)


def _longest(tokens: list[str], index: int) -> tuple[str, int]:
    """The name of the longest known phrase at a position, and how many tokens it takes."""
    for used in (2, 1):
        phrase = " ".join(tokens[index : index + used])
        if phrase in ACTION_NAMES:
            return phrase, used
        if phrase in names() and len(tokens[index : index + used]) == used:
            return names()[phrase], used
    return tokens[index], 1


def caption_scores(said: str, right: str) -> tuple[float, float]:
    """(recall, precision): shares of the right caption's statements that were said, and of the said ones that are right."""
    a, b = statements(said), statements(right)
    both = sum((a & b).values())
    return both / max(1, sum(b.values())), both / max(1, sum(a.values()))
