"""Where objects stand when the words leave it open: in rows and columns, in the order in which they are named.

Two objects whose places nobody said may stand anywhere, each at the other's place as well, and a model that has seen few pictures draws
the mean of it all: one object, or both melted together. A convention as of written text leaves one picture to learn instead of hundreds.
"""

import math
from dataclasses import replace

from openlance.world.facts import relation_between
from openlance.world.sample import BAND, fits, half_way, inside
from openlance.world.scene import GROWTH, Object, Scene, diameters, place_of

Points = list[tuple[float, float]]
"""One for every object in scene order, shares of the free part of the canvas."""
MIDDLE_FIRST: Points = [(0.5, 0.5), *((x / 6, y / 6) for y in (1, 3, 5) for x in (1, 3, 5) if (x, y) != (3, 3))]
"""The middles of the nine named places, those around the middle in reading order."""


def arrange(scene: Scene, related: bool = False) -> Scene:
    """The scene with its objects in reading order: one in the middle, others in a row, a column or rows of two.

    All get the largest size at which they fit, in a clip at all moments. `related`: two objects keep the relation in which they stand.
    Where nothing fits the scene comes back as it was.
    """
    relation = relation_between(*scene.objects) if related and len(scene.objects) == 2 else None
    sizes = diameters(scene.height, scene.width)
    for size in sorted(sizes, key=sizes.__getitem__, reverse=True):
        for points in _arrangements(len(scene.objects), relation):
            placed = _placed(scene, points, size)
            if placed is not None:
                return placed
    return scene


def at_place(scene: Scene, looks: tuple[str, str, str], x: float, y: float, crowded: bool = False) -> Object | None:
    """An object in the largest size (`crowded`: the smallest) that lets it stand at the named place of a point, moved only as far as the
    canvas asks; None where no size does, or something is in the way."""
    short = min(scene.height, scene.width)
    sizes = diameters(scene.height, scene.width)
    descending = sorted(sizes, key=sizes.__getitem__, reverse=True)
    for size in descending[-1:] if crowded else descending:
        rx, ry = (sizes[size] / 2 * short / side for side in (scene.width, scene.height))
        new = Object(*looks, size, inside(x, rx), inside(y, ry), sizes[size])
        if place_of(new.x, new.y) == place_of(x, y) and fits(scene, new):
            return new
    return None


def newcomers_in_the_middle(scene: Scene) -> Scene:
    """The scene with what appears in its clip, which a first frame does not show, plain and in the middle or, where something is in the
    way, at the first free one of the named places; as large as fits there. Words name neither texture nor place nor size of it."""
    for index, o in enumerate(scene.objects):
        if o.event is None or o.event.kind != "appear":
            continue
        others = scene.objects[:index] + scene.objects[index + 1 :]
        looks = (o.kind, o.colour, "solid")
        free = (at_place(replace(scene, objects=others), looks, x, y) for x, y in MIDDLE_FIRST)
        new = next((place for place in free if place is not None), None)
        if new is not None:
            scene = replace(scene, objects=(*scene.objects[:index], replace(new, event=o.event), *scene.objects[index + 1 :]))
    return scene


def _arrangements(count: int, relation: str | None) -> list[Points]:
    row: Points = [((i + 0.5) / count, 0.5) for i in range(count)]
    column: Points = [(0.5, (i + 0.5) / count) for i in range(count)]
    if relation:
        points = row if relation in ("left of", "right of") else column
        return [points if relation in ("left of", "above") else points[::-1]]
    if count <= 2:
        return [row, column]
    lines = math.ceil(count / 2)
    pairs: Points = [((i % 2 + 0.5) / 2, (i // 2 + 0.5) / lines) for i in range(count)]
    if count % 2:
        pairs[-1] = (0.5, pairs[-1][1])
    return [pairs, row, column]


def _placed(scene: Scene, points: Points, size: str) -> Scene | None:
    top = BAND if scene.word and scene.word.place == "top" else 0.0
    bottom = 1 - BAND if scene.word and scene.word.place == "bottom" else 1.0
    result = replace(scene, objects=())
    for o, (x, y) in zip(scene.objects, points, strict=True):
        new = _centred(_sized(o, scene, size), x, top + y * (bottom - top))
        if not fits(result, new):
            return None
        result = replace(result, objects=(*result.objects, new))
    return result


def _sized(o: Object, scene: Scene, size: str) -> Object:
    diameter = diameters(scene.height, scene.width)[size]
    return replace(o, size=size, diameter=diameter * GROWTH if o.motion.kind == "shrink" else diameter)


def _centred(o: Object, x: float, y: float) -> Object:
    """The object with the middle of its way at a point."""
    dx, dy = half_way(o.motion)
    return replace(o, x=x - dx, y=y - dy)
