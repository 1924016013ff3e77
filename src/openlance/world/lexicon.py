"""Words of the world: nouns with plurals and synonyms, adjectives, names of places and backgrounds, and the way back from word to name."""

from functools import cache

from openlance.world.palette import BACKGROUNDS, COLOURS, PLACES, SCENERIES, SHAPES, SIZES, TEXTURES, THINGS

SYNONYMS: dict[str, tuple[str, ...]] = {
    "circle": ("disc",), "cross": ("plus sign",), "ring": ("hoop",), "diamond": ("rhombus",),
    "airplane": ("plane",), "football": ("soccer ball",), "bicycle": ("bike",), "gift": ("present",), "hamburger": ("burger",),
    "sailboat": ("sailing boat",), "rabbit": ("bunny",), "train": ("locomotive",),
    "small": ("little", "tiny"), "medium": ("medium-sized",), "large": ("big", "huge"),
    "purple": ("violet",), "cyan": ("turquoise",), "gray": ("grey",), "striped": ("stripy",), "dotted": ("spotted",),
}  # fmt: skip
IRREGULAR = {"grapes": "grapes", "fish": "fish", "cactus": "cacti", "rhombus": "rhombuses", "butterfly": "butterflies", "bunny": "bunnies",
             "strawberry": "strawberries"}  # fmt: skip
NO_ARTICLE = ("grapes",)
SCENERY_PHRASES = {"meadow": "a meadow", "beach": "a beach", "night": "a night sky", "snow": "a snowy field"}
PLACE_SYNONYMS: dict[str, tuple[str, ...]] = {
    "top left": ("upper left",), "top right": ("upper right",), "bottom left": ("lower left",), "bottom right": ("lower right",),
    "centre": ("center", "middle"),
}  # fmt: skip


def plural(noun: str) -> str:
    """The plural of a noun of the world."""
    if noun in IRREGULAR:
        return IRREGULAR[noun]
    return noun + ("es" if noun.endswith(("s", "x", "sh", "ch")) else "s")


def article(phrase: str) -> str:
    """ "a" or "an" in front of a phrase, "some" for what comes in bunches."""
    if phrase.split()[-1] in NO_ARTICLE or any(f" {n} " in f" {phrase} " for n in NO_ARTICLE):
        return f"some {phrase}"
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def background_phrase(name: str) -> str:
    """How a background is named in running text: "a meadow", "navy"."""
    return SCENERY_PHRASES.get(name, name)


@cache
def names() -> dict[str, str]:
    """Every word or two-word phrase of the language, lower case, to the name it stands for (nouns also in the plural)."""
    table: dict[str, str] = {}
    for kind in SHAPES + THINGS:
        for noun in (kind, *SYNONYMS.get(kind, ())):
            table[noun] = table[plural(noun)] = kind
    for name in (*COLOURS, *TEXTURES, *SIZES, *BACKGROUNDS):
        for word in (name, *SYNONYMS.get(name, ())):
            table[word] = name
    for place in PLACES:
        for phrase in (place, *PLACE_SYNONYMS.get(place, ())):
            table[phrase] = place
    table.update({"color": "colour", "stripes": "striped", "dots": "dotted", "night sky": "night", "snowy field": "snow"})
    table.update({name: name for name in SCENERIES})
    return table


def canonical(answer: str) -> str:
    """An answer in the world's own names: lower case, no articles or full stop, synonyms replaced, digits as words."""
    words = answer.strip().lower().rstrip(".!").replace(",", " ").split()
    words = [w for w in words if w not in ("a", "an", "the", "some", "it", "is", "at", "in")]
    digits = {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "no": "no"}
    text = " ".join(digits.get(w, w) for w in words)
    if text in names():
        return names()[text]
    singles = [names().get(w, w) for w in words]
    return " ".join(digits.get(w, w) for w in singles)
