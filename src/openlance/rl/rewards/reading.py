"""How well what was read agrees with what should be written, ignoring spaces and case."""

from openlance.rl.rewards.score import Score


def letters_of(text: str) -> str:
    """Lower case without any white space."""
    return "".join(text.split()).lower()


def distance(first: str, second: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        row, above = [i], row
        for j, b in enumerate(second, 1):
            row.append(min(row[j - 1] + 1, above[j] + 1, above[j - 1] + (a != b)))
    return row[-1]


def agreement(read: str, wanted: str) -> Score:
    """1 if the wanted text is contained, else 1 - min(distance, length) / length.

    Containment and the stripping of spaces can be exploited, so `exact` (nothing but the wanted text was read) is measured beside it;
    `unread` counts pictures in which nothing was read, which score 0.
    """
    said, right = letters_of(read), letters_of(wanted)
    value = 1.0 if right in said else 1 - min(distance(said, right), len(right)) / len(right)
    return Score(value, {"exact": float(said == right), "unread": float(not said)})
