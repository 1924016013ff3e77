"""A scene is plain data: canvas, background, objects, at most one word; and where everything is at any moment.

Units: x and y are shares of the canvas width and height, diameters are shares of the short side (the longer side of an object's box),
moments u run from 0 (first frame) to 1 (last frame).
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from openlance.errors import LanceError
from openlance.world.palette import (
    BACKGROUNDS,
    COLOURS,
    EVENTS,
    FONTS,
    MOTIONS,
    NATURAL,
    PLACES,
    SCENERIES,
    SHAPES,
    SIZES,
    TEXTURES,
    THINGS,
)

CELL = 16
MIN_CELLS = 3
MIN_SIDE, MAX_SIDE = 64, 288
NOMINAL = {"small": 1 / 5, "medium": 1 / 4, "large": 2 / 5}
GROWTH = 1.7
EVENT_MOMENTS = (5 / 16, 9 / 16)
THIRD_MARGIN = 0.035


@dataclass(frozen=True)
class Motion:
    """What an object does in the clip. `travel` is the way it goes or the height it bounces, a share of the canvas."""

    kind: str = "still"
    travel: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that happens once, at moment `when`. `colour` is the new colour of "recolour"."""

    kind: str
    when: float
    colour: str | None = None


@dataclass(frozen=True)
class Object:
    """One shape or thing. `colour` is a colour name, or "natural" for a thing that keeps its own colours."""

    kind: str
    colour: str
    texture: str
    size: str
    x: float
    y: float
    diameter: float
    motion: Motion = Motion()
    event: Event | None = None

    @property
    def looks(self) -> tuple[str, str, str]:
        """(kind, colour, texture)"""
        return self.kind, self.colour, self.texture


@dataclass(frozen=True)
class Word:
    """3 to 5 capitals across the upper ("top") or lower ("bottom") third; `x` is the middle, `height` theirs in short sides.

    With a `pitch`, a share of the width, letters stand in columns of that width counted from the left edge, whatever the word.
    """

    text: str
    colour: str
    font: str
    place: str
    x: float
    height: float
    pitch: float = 0.0


@dataclass(frozen=True)
class Scene:
    """Everything in one picture or clip, sampled for a canvas (height, width) in px and drawn at any size."""

    height: int
    width: int
    background: str
    objects: tuple[Object, ...] = ()
    word: Word | None = None

    @property
    def moves(self) -> bool:
        """True when a clip of the scene differs from a still."""
        return any(o.motion.kind != "still" or o.event for o in self.objects)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Scene":
        """Inverse of `to_dict`. Raises LanceError when a name is unknown to the world."""
        objects = tuple(_object(o) for o in raw["objects"])
        word = Word(**raw["word"]) if raw["word"] else None
        scene = cls(raw["height"], raw["width"], raw["background"], objects, word)
        check_scene(scene)
        return scene


def _object(raw: dict[str, Any]) -> Object:
    event = Event(**raw["event"]) if raw["event"] else None
    return Object(**{**raw, "motion": Motion(**raw["motion"]), "event": event})


def _known(value: str, names: tuple[str, ...] | dict[str, Any], what: str) -> None:
    if value not in names:
        raise LanceError(f"unknown {what} {value!r}: the world knows {', '.join(names)}")


def check_scene(scene: Scene) -> None:
    """Raises LanceError on the first name or canvas side the world does not know."""
    check_canvas(scene.height, scene.width)
    _known(scene.background, {**BACKGROUNDS, **SCENERIES}, "background")
    for o in scene.objects:
        _known(o.kind, SHAPES + THINGS, "kind")
        _known(o.colour, (*COLOURS, NATURAL) if o.kind in THINGS else tuple(COLOURS), "colour")
        _known(o.texture, TEXTURES, "texture")
        _known(o.size, SIZES, "size")
        _known(o.motion.kind, MOTIONS, "motion")
        if o.event:
            _known(o.event.kind, EVENTS, "event")
    if scene.word:
        _known(scene.word.font, FONTS, "font")
        _known(scene.word.colour, COLOURS, "colour")


def check_canvas(height: int, width: int) -> None:
    """Raises LanceError unless both sides are multiples of 16 from 64 to 288."""
    for side in (height, width):
        if side % CELL or not MIN_SIDE <= side <= MAX_SIDE:
            raise LanceError(f"canvas {height}x{width}: sides must be multiples of {CELL} from {MIN_SIDE} to {MAX_SIDE} px")


def diameters(height: int, width: int) -> dict[str, float]:
    """Sizes that can be told apart on a canvas, as shares of its short side, none under MIN_CELLS latent cells.

    From 240 px all three at their nominal 1/5, 1/4, 2/5; below, small and large, with small lifted to three cells and large to 1.5 times
    that; under 96 px only large.
    """
    short = min(height, width)
    floor = MIN_CELLS * CELL / short
    if short >= 240:
        return dict(NOMINAL)
    if short < 96:
        return {"large": floor}
    small = max(NOMINAL["small"], floor)
    return {"small": small, "large": max(NOMINAL["large"], 1.5 * small)}


def place_of(x: float, y: float) -> str | None:
    """The named place of a point, None when it is too near the border of two places to say."""
    column, row = _third(x), _third(y)
    return None if column is None or row is None else PLACES[3 * row + column]


def _third(value: float) -> int | None:
    if value < 1 / 3 - THIRD_MARGIN:
        return 0
    if value > 2 / 3 + THIRD_MARGIN:
        return 2
    return 1 if 1 / 3 + THIRD_MARGIN < value < 2 / 3 - THIRD_MARGIN else None


@dataclass(frozen=True)
class Pose:
    """Where and how an object is at one moment; `angle` in degrees, counter-clockwise."""

    x: float
    y: float
    diameter: float
    angle: float
    colour: str
    visible: bool


def pose(o: Object, u: float, seconds: float) -> Pose:
    """Pose of an object at moment u of a clip, `seconds` after its start (blinking keeps real time: half a second on, half off)."""
    event, motion = o.event, o.motion
    after = event is not None and u >= event.when - 1e-9
    go = min(u, event.when) if event is not None and event.kind == "stop" else u
    dx = {"left": -motion.travel, "right": motion.travel}.get(motion.kind, 0.0) * go
    dy = {"up": -motion.travel, "down": motion.travel}.get(motion.kind, 0.0) * go
    if motion.kind == "bounce":
        dy = -motion.travel * hop(go)
    factor = {"grow": GROWTH**go, "shrink": GROWTH**-go}.get(motion.kind, 1.0)
    shown = not (motion.kind == "blink" and _dark(seconds))
    if event is not None and event.kind in ("appear", "disappear"):
        shown = shown and after == (event.kind == "appear")
    colour = event.colour if after and event is not None and event.colour else o.colour
    return Pose(o.x + dx, o.y + dy, o.diameter * factor, 180.0 * go if motion.kind == "spin" else 0.0, colour, shown)


def hop(u: float) -> float:
    """How high what bounces is at moment u of a clip, as a share of its height: twice up and down."""
    return abs(math.sin(2 * math.pi * u))


def _dark(seconds: float) -> bool:
    """The first frame stands alone (it is a latent frame of its own), then half-seconds alternate, lit first."""
    return seconds > 1e-9 and math.floor((seconds - 0.125) / 0.5 + 1e-6) % 2 == 1


def still(scene: Scene) -> Scene:
    """The first frame as a scene without motion: hidden objects are gone, the rest stand where they start."""
    seen = tuple(replace(o, motion=Motion(), event=None) for o in scene.objects if pose(o, 0.0, 0.0).visible)
    return replace(scene, objects=seen)
