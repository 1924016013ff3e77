"""Names and colour values of the world. They are a contract: prompts use the names and any judge may measure the colours (RGB, 0..255)."""

import math

Colour = tuple[int, int, int]

COLOURS: dict[str, Colour] = {
    "red": (225, 40, 40),
    "orange": (245, 140, 30),
    "yellow": (245, 215, 40),
    "green": (40, 170, 60),
    "cyan": (50, 205, 215),
    "blue": (45, 80, 225),
    "purple": (145, 50, 185),
    "pink": (245, 130, 190),
}
BACKGROUNDS: dict[str, Colour] = {
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "gray": (128, 128, 128),
    "beige": (225, 205, 165),
    "navy": (25, 30, 80),
}
# A scenery is bands from top to bottom: (lower edge as a share of the height, colour). Night has stars on its one band.
SCENERIES: dict[str, tuple[tuple[float, Colour], ...]] = {
    "meadow": ((0.55, (165, 210, 245)), (1.0, (125, 205, 105))),
    "beach": ((0.45, (190, 225, 250)), (0.66, (70, 140, 190)), (1.0, (235, 215, 160))),
    "night": ((1.0, (15, 15, 45)),),
    "snow": ((0.5, (175, 190, 215)), (1.0, (240, 245, 252))),
}
STAR_COLOUR: Colour = (235, 235, 200)
NATURAL = "natural"

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross", "ring", "diamond")
THINGS = (
    "cat", "dog", "frog", "fish", "bird", "butterfly", "turtle", "rabbit", "bear", "cow",
    "tree", "cactus", "sunflower", "mushroom", "apple", "banana", "grapes", "strawberry", "pizza", "hamburger",
    "car", "bus", "bicycle", "airplane", "rocket", "sailboat", "train", "house", "football", "balloon",
    "moon", "sun", "umbrella", "gift", "book", "key", "clock", "chair", "guitar", "cup",
)  # fmt: skip
NATURAL_COLOURS = {
    "car": "red", "balloon": "red", "strawberry": "red", "book": "red", "apple": "red",
    "moon": "yellow", "sun": "yellow", "key": "yellow", "banana": "yellow", "cat": "yellow", "sunflower": "yellow",
    "tree": "green", "cactus": "green", "turtle": "green", "frog": "green", "grapes": "purple", "fish": "blue", "bird": "blue",
    "hamburger": "orange", "pizza": "orange", "butterfly": "orange", "chair": "orange", "airplane": "blue",
}  # fmt: skip
"""The colour people would give a thing in its natural colours: asked for a red car, the natural one will do."""
TEXTURES = ("solid", "striped", "dotted")
SIZES = ("small", "medium", "large")
MOTIONS = ("still", "left", "right", "up", "down", "grow", "shrink", "spin", "blink", "bounce")
EVENTS = ("appear", "disappear", "recolour", "stop")
PLACES = ("top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right")
FONTS = ("roboto", "lato", "serif", "mono")

MIN_CONTRAST = 60.0
"""Smallest RGB distance between an object's colour and any colour of its background that is ever sampled."""


def distance(a: Colour, b: Colour) -> float:
    """Euclidean RGB distance, 0..442."""
    return math.dist(a, b)


def background_colours(name: str) -> tuple[Colour, ...]:
    """Every colour of a background or scenery (the stars of the night are too small to count)."""
    if name in BACKGROUNDS:
        return (BACKGROUNDS[name],)
    return tuple(colour for _, colour in SCENERIES[name])


def second_colour(colour: str, background: str) -> Colour:
    """Colour of stripes and dots on `colour`: a light tint or a dark shade, whichever stands out more from the background."""
    light: Colour = tuple(round(0.35 * v + 0.65 * 255) for v in COLOURS[colour])  # type: ignore[assignment]
    dark: Colour = tuple(round(0.42 * v) for v in COLOURS[colour])  # type: ignore[assignment]
    around = background_colours(background)
    return max((light, dark), key=lambda c: min(distance(c, b) for b in around))


def visible(colour: str, background: str) -> bool:
    """True when a colour stands out from every colour of a background."""
    return all(distance(COLOURS[colour], b) >= MIN_CONTRAST for b in background_colours(background))
