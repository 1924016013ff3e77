"""Pictures from words."""

from dataclasses import replace

from openlance.world.draw import Draw
from openlance.world.examples import Turn
from openlance.world.facts import Fact, What, relation_between
from openlance.world.language import BRIEF, Detail, an, full_detail, object_groups, prompt, sample_detail
from openlance.world.palette import NATURAL
from openlance.world.scene import Scene


def consistent(scene: Scene, detail: Detail) -> bool:
    """Every "three red circles" of a prompt must be all there are."""
    return all(n == 1 or what.count(scene) == n for what, n in object_groups(scene, detail))


def _t2i(draw: Draw, scene: Scene, detail: Detail) -> tuple[Turn, ...] | None:
    if not consistent(scene, detail):
        return None
    text, facts = prompt(draw.voice, scene, detail)
    return (Turn("t2i", text, target=draw.image(scene), facts=facts),)


def t2i_single(draw: Draw) -> tuple[Turn, ...] | None:
    """ "a circle": the colour is free."""
    scene = draw.arrange(draw.scene(objects=(1, 1), repeats=0.0))
    what = What(scene.objects[0].kind)
    return (Turn("t2i", draw.voice.say("picture", x=an(draw.voice, what)), target=draw.image(scene), facts=(Fact("object", "1+", what),)),)


def t2i_two(draw: Draw) -> tuple[Turn, ...] | None:
    """ "a circle and a star" """
    scene = draw.arrange(draw.scene(objects=(2, 2), repeats=0.0))
    if len({o.kind for o in scene.objects}) < 2:
        return None
    a, b = (What(o.kind) for o in scene.objects)
    text = draw.voice.say("picture", x=f"{an(draw.voice, a)} and {an(draw.voice, b)}")
    return (Turn("t2i", text, target=draw.image(scene), facts=(Fact("object", "1+", a), Fact("object", "1+", b))),)


def t2i_count(draw: Draw) -> tuple[Turn, ...] | None:
    """ "three red circles" """
    scene = draw.arrange(draw.scene(objects=(2, 4), repeats=1.0, textures=0.0))
    return _t2i(draw, scene, BRIEF) if len(scene.objects) > 1 else None


def t2i_colour(draw: Draw) -> tuple[Turn, ...] | None:
    """ "a red circle" """
    scene = draw.arrange(draw.scene(objects=(1, 1)))
    return None if scene.objects[0].colour == NATURAL else _t2i(draw, scene, BRIEF)


def t2i_position(draw: Draw) -> tuple[Turn, ...] | None:
    """ "a red circle left of a blue star" """
    scene = draw.scene(objects=(2, 2), repeats=0.0)
    if len(scene.objects) < 2 or relation_between(*scene.objects) is None or scene.objects[0].looks[:2] == scene.objects[1].looks[:2]:
        return None
    return _t2i(draw, draw.arrange(scene, related=True), replace(BRIEF, relation=True))


def t2i_attribute(draw: Draw) -> tuple[Turn, ...] | None:
    """ "a red circle and a blue star" """
    scene = draw.arrange(draw.scene(objects=(2, 2), repeats=0.0))
    colours = {o.colour for o in scene.objects}
    return _t2i(draw, scene, BRIEF) if len(colours) == 2 and NATURAL not in colours else None


def t2i_dense(draw: Draw) -> tuple[Turn, ...] | None:
    """Four objects with all attributes, places and background."""
    scene = draw.scene(objects=(4, 4), repeats=0.0, named=1.0)
    if len(scene.objects) < 4:
        return None
    return _t2i(draw, scene, full_detail(scene))


def t2i_described(draw: Draw) -> tuple[Turn, ...] | None:
    """One to three objects with all attributes, places and background: the words leave little open."""
    scene = draw.scene(objects=(1, 3), named=1.0)
    if not scene.objects:
        return None
    return _t2i(draw, scene, full_detail(scene))


def t2i_word(draw: Draw) -> tuple[Turn, ...] | None:
    """A word, sometimes with an object or two."""
    held = {"unseen words": "unseen"}.get(draw.setting.split, "seen")
    scene = draw.arrange(draw.scene(objects=(0, 2) if held == "seen" else (0, 0), words=1.0, held=held))
    return _t2i(draw, scene, replace(sample_detail(draw.voice, scene), relation=False))


def t2i_free(draw: Draw) -> tuple[Turn, ...] | None:
    """Anything at any level of detail: the bulk of training."""
    scene = draw.arrange(draw.scene(words=0.1))
    return _t2i(draw, scene, sample_detail(draw.voice, scene)) if scene.objects or scene.word else None
