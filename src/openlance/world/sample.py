"""Seeded samplers of scenes: the same `random.Random(seed)` gives the same scene on every machine."""

import json
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files

from openlance.world.palette import BACKGROUNDS, COLOURS, FONTS, NATURAL, SCENERIES, SHAPES, THINGS, visible
from openlance.world.scene import EVENT_MOMENTS, GROWTH, Event, Motion, Object, Scene, Word, check_canvas, diameters, pose
from openlance.world.splits import splits

GAP = 0.04
EDGE = 0.012
TURNING = 1.42  # a spinning square sweeps this many times its half side
COLUMN = 3 / 16  # of the width: five letters leave half a column on either side
COLUMN_FONT = "mono"
BAND = 0.34  # share of the height a word keeps for itself
ALWAYS_POSSIBLE = ("left", "right", "up", "down", "blink", "bounce")  # motions of any object on any canvas
SPINNING = tuple(k for k in SHAPES + THINGS if k not in ("circle", "ring", "football", "sun", "sunflower", "clock", "pizza"))
TRAVELS = dict.fromkeys(("left", "right", "up", "down"), (3 / 8, 0.28, 0.45)) | {"bounce": (1 / 4, 0.2, 0.3)}
"""Of motions that go somewhere: the steady way, the shortest and the longest of the others, shares of the canvas."""
TRIES, LAST_TRIES = 12, 96  # at finding room; one of 200 clips of 64 px came out empty after 12
FRAME_MOMENTS = tuple(i / 8 for i in range(9))


@dataclass(frozen=True)
class SceneOptions:
    """What a sampled scene may hold. Probabilities are shares in [0, 1].

    `objects` is (fewest, most); `size` fixes one size for all; `textures` is the share of textured shapes; `words` the share of scenes
    with a word; `named` the share of objects put at one of the nine named places; `repeats` the share of scenes of one kind only;
    `moving` makes a clip: every object moves or stands still and one may have an event; `motions`: how often each comes, 1 where it is
    not named; `held` asks for "seen" pairs only (training), "unseen" pairs for every object (evaluation), or "any". `lattice` puts
    middles on multiples of so many px and gives sizes no play: fewer pictures to learn, for a model that has seen few; 0 puts objects
    anywhere. On a lattice all ways have one length and all events one moment; `steady`: off the lattice too.
    """

    ring: int = 1
    objects: tuple[int, int] = (1, 4)
    size: str | None = None
    textures: float = 0.4
    words: float = 0.0
    named: float = 0.5
    repeats: float = 0.2
    moving: bool = False
    events: float = 0.2
    held: str = "seen"
    background: str | None = None
    lattice: int = 0
    motions: Mapping[str, float] = field(default_factory=dict, hash=False)
    steady: bool = False

    @property
    def is_steady(self) -> bool:
        """Whether motions that go somewhere all go as far, and events come at one moment: prompts say neither."""
        return self.steady or self.lattice > 0


def sample_scene(rng: random.Random, height: int = 128, width: int = 128, options: SceneOptions = SceneOptions()) -> Scene:
    """A scene that fits the canvas: at all moments objects are apart, on the canvas, and stand out from the background.

    Asking for more objects than fit gives as many as fit (at 64 px that is one).
    """
    check_canvas(height, width)
    background = options.background or sample_background(rng, options.ring)
    word = sample_word(rng, height, width, background, options.held, options.lattice) if rng.random() < options.words else None
    count = min(rng.randint(*options.objects), _capacity(height, width, word is not None))
    while count:
        for _ in range(TRIES if count > 1 else LAST_TRIES):
            objects = _sample_objects(rng, Scene(height, width, background, (), word), count, options)
            if objects:
                return Scene(height, width, background, objects, word)
        count -= 1
    return Scene(height, width, background, (), word)


def _capacity(height: int, width: int, word: bool) -> int:
    """How many of the smallest objects fit side by side."""
    step = min(diameters(height, width).values()) * 1.06 * min(height, width) + GAP * min(height, width)
    free = height * (1 - BAND) if word else height
    return max(1, int(width * 1.02 // step)) * max(1, int(free * 1.02 // step))


def sample_background(rng: random.Random, ring: int) -> str:
    """A plain background, in the second ring half the time a scenery."""
    return rng.choice(list(SCENERIES)) if ring == 2 and rng.random() < 0.5 else rng.choice(list(BACKGROUNDS))


@cache
def _faded() -> frozenset[tuple[str, str, str]]:
    raw = json.loads(files("openlance.world").joinpath("assets/faded.json").read_text())
    return frozenset((background, kind, colour) for background, pairs in raw.items() for kind, colour in pairs)


def stands_out(kind: str, colour: str, background: str) -> bool:
    """True when an object of this kind and colour can be seen on the background."""
    return visible(colour, background) if kind in SHAPES else (background, kind, colour) not in _faded()


def allowed(kind: str, colour: str, background: str, held: str) -> bool:
    """True when the pair may be sampled: visible, and on the asked side of the held-out split."""
    return stands_out(kind, colour, background) and (held == "any" or splits().holds(kind, colour) == (held == "unseen"))


def sample_looks(rng: random.Random, background: str, options: SceneOptions) -> tuple[str, str, str]:
    """(kind, colour, texture) allowed on the background."""
    while True:
        thing = options.ring == 2 and rng.random() < 0.7
        kind = rng.choice(THINGS if thing else SHAPES)
        natural = thing and options.held != "unseen" and rng.random() < 0.5
        colour = NATURAL if natural else rng.choice(list(COLOURS))
        if allowed(kind, colour, background, options.held):
            textured = not thing and rng.random() < options.textures
            return kind, colour, rng.choice(("striped", "dotted")) if textured else "solid"


def sample_word(rng: random.Random, height: int, width: int, background: str, held: str = "seen", lattice: int = 0) -> Word:
    """A word of the training list ("seen"), of the held-out list ("unseen") or of both, large enough to be read.

    On a lattice its letters stand in columns, all in one font.
    """
    lists = splits()
    text = rng.choice({"seen": lists.words, "unseen": lists.held_words}.get(held, lists.words + lists.held_words))
    colour = rng.choice([c for c in COLOURS if visible(c, background)])
    font, place, x = rng.choice(FONTS), rng.choice(("top", "bottom")), 0.5 + rng.uniform(-0.03, 0.03)
    word = Word(text, colour, font, place, x, word_height(text, height, width))
    return in_columns(word, height, width) if lattice else word


def in_columns(word: Word, height: int, width: int) -> Word:
    """The word with its letters in columns, all in one font."""
    return replace(word, font=COLUMN_FONT, x=0.5, height=word_height("I", height, width), pitch=COLUMN)


def word_height(text: str, height: int, width: int) -> float:
    """Height of the capitals in short sides: 0.2, less where the word would not fit (a capital takes up to 1.05 of its height)."""
    return min(0.2, 0.9 * width / min(height, width) / (1.05 * len(text)), 0.26 * height / min(height, width))


def _sample_objects(rng: random.Random, empty: Scene, count: int, options: SceneOptions) -> tuple[Object, ...] | None:
    """`count` objects placed one after the other, or None when one finds no room."""
    repeated = sample_looks(rng, empty.background, options) if count > 1 and rng.random() < options.repeats else None
    placed: list[Object] = []
    actor = rng.randrange(count)
    for index in range(count):
        looks = repeated or sample_looks(rng, empty.background, options)
        new = place_object(rng, replace(empty, objects=tuple(placed)), looks, options, active=index == actor)
        if new is None:
            return None
        placed.append(new)
    together = splits().holds_together({o.kind for o in placed})
    return None if options.held == "seen" and together else tuple(placed)


def place_object(
    rng: random.Random, scene: Scene, looks: tuple[str, str, str], options: SceneOptions, active: bool = False, tries: int = 30
) -> Object | None:
    """A new object with these looks somewhere free, None when no room was found. `active`: in a clip it must move or change."""
    sizes = diameters(scene.height, scene.width)
    act = _sample_act(rng, scene, looks[0], options, active)
    for _ in range(tries):
        size = options.size if options.size in sizes else rng.choice(list(sizes))
        diameter = sizes[size] * (1.0 if options.lattice else rng.uniform(1.0, 1.06))
        x, y = _sample_point(rng, scene, diameter, named=rng.random() < options.named, lattice=options.lattice)
        o = _act(rng, scene, Object(*looks, size, x, y, diameter), act, options)
        if fits(scene, o):
            return o
    return None


def _sample_point(rng: random.Random, scene: Scene, diameter: float, named: bool, lattice: int) -> tuple[float, float]:
    short = min(scene.height, scene.width)
    rx, ry = diameter / 2 * short / scene.width, diameter / 2 * short / scene.height
    if named:
        column, row = rng.randrange(3), rng.randrange(3)
        x, y = (column * 2 + 1) / 6 + rng.uniform(-0.06, 0.06), (row * 2 + 1) / 6 + rng.uniform(-0.06, 0.06)
    else:
        x, y = rng.uniform(0, 1), rng.uniform(0, 1)
    if lattice:
        return _on_lattice(x, rx, lattice / scene.width), _on_lattice(y, ry, lattice / scene.height)
    return inside(x, rx), inside(y, ry)


def _on_lattice(value: float, radius: float, step: float) -> float:
    """The nearest multiple of a step that keeps an object on the canvas, or anywhere on it if there is none."""
    low, high = math.ceil((radius + EDGE) / step), math.floor((1 - radius - EDGE) / step)
    return step * min(high, max(low, round(value / step))) if low <= high else inside(value, radius)


def inside(value: float, radius: float) -> float:
    """The nearest middle, as a share of a side, at which an object of this radius is on the canvas."""
    return min(1 - radius - EDGE, max(radius + EDGE, value))


def fits(scene: Scene, new: Object) -> bool:
    """True when the object stays on the canvas, out of the word's band and apart from every other object at all moments of a clip."""
    moments = FRAME_MOMENTS if scene.moves or new.motion.kind != "still" else (0.0,)
    return all(_fits_at(scene, new, u) for u in moments)


def _fits_at(scene: Scene, new: Object, u: float) -> bool:
    short = min(scene.height, scene.width)
    here = pose(new, u, 0.0)
    radius = here.diameter / 2 * (TURNING if new.motion.kind == "spin" else 1.0)
    rx, ry = radius * short / scene.width, radius * short / scene.height
    top = BAND if scene.word and scene.word.place == "top" else 0.0
    bottom = 1 - BAND if scene.word and scene.word.place == "bottom" else 1.0
    slack = 1e-6
    if not (rx - slack <= here.x <= 1 - rx + slack and top + ry - slack <= here.y <= bottom - ry + slack):
        return False
    for other in scene.objects:
        there = pose(other, u, 0.0)
        reach = radius + there.diameter / 2 * (TURNING if other.motion.kind == "spin" else 1.0) + GAP
        dx, dy = (here.x - there.x) * scene.width / short, (here.y - there.y) * scene.height / short
        if max(abs(dx), abs(dy)) < reach:
            return False
    return True


def _sample_act(rng: random.Random, scene: Scene, kind: str, options: SceneOptions, active: bool) -> str:
    """What a new object does in a clip: a motion, "event" or "still". The active one never just stands still."""
    if not options.moving or (not active and rng.random() < 0.7):
        return "still"
    if active and rng.random() < options.events:
        return "event"
    motions = motions_of(kind, scene)
    return rng.choices(motions, [options.motions.get(m, 1.0) for m in motions])[0] if options.motions else rng.choice(motions)


def _act(rng: random.Random, scene: Scene, o: Object, act: str, options: SceneOptions) -> Object:
    if act == "still":
        return o
    return sample_event(rng, scene, o, options) if act == "event" else with_motion(rng, o, act, options.is_steady)


def motions_of(kind: str, scene: Scene) -> list[str]:
    """Motions that can be seen: what looks the same from all sides does not spin, small canvases leave no room to grow."""
    room = min(scene.height, scene.width) >= 96
    return [*ALWAYS_POSSIBLE] + ["spin"] * (kind in SPINNING and room) + ["grow", "shrink"] * room


def with_motion(rng: random.Random, o: Object, kind: str, steady: bool = False) -> Object:
    """The object with this motion; the start is moved so that the way fits the canvas, if it can. `steady` ways are all as long."""
    if kind in TRAVELS:
        usual, shortest, longest = TRAVELS[kind]
        motion = Motion(kind, usual if steady else rng.uniform(shortest, longest))
        dx, dy = half_way(motion)
        return replace(o, x=o.x - dx, y=o.y - dy, motion=motion)
    if kind == "shrink":
        return replace(o, diameter=o.diameter * GROWTH, motion=Motion(kind))
    return replace(o, motion=Motion(kind))


def half_way(motion: Motion) -> tuple[float, float]:
    """From the start of a motion to the middle of its way, in shares of the canvas."""
    half = motion.travel / 2
    ways = {"left": (-half, 0.0), "right": (half, 0.0), "up": (0.0, -half), "down": (0.0, half), "bounce": (0.0, -half)}
    return ways.get(motion.kind, (0.0, 0.0))


def sample_event(rng: random.Random, scene: Scene, o: Object, options: SceneOptions) -> Object:
    """The object with an event a third or over half of the way through the clip; only a moving object can stop."""
    kind = rng.choice(("appear", "disappear", "recolour", "stop"))
    when = rng.choice(EVENT_MOMENTS)
    if options.is_steady:  # after the draw, so that nothing else of the scene depends on it
        when = EVENT_MOMENTS[1]
    if kind == "stop":
        moving = with_motion(rng, o, rng.choice(("left", "right", "up", "down")), options.is_steady)
        return replace(moving, event=Event("stop", EVENT_MOMENTS[1]))
    if kind == "recolour":
        others = [c for c in COLOURS if c != o.colour and allowed(o.kind, c, scene.background, "seen" if options.held == "seen" else "any")]
        return replace(o, event=Event("recolour", when, rng.choice(others))) if others else replace(o, event=Event("disappear", when))
    return replace(o, event=Event(kind, when))
