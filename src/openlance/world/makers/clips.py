"""Clips from words and from a first frame."""

from dataclasses import replace

from openlance.world.draw import Draw
from openlance.world.examples import Turn
from openlance.world.language import Detail, clip_prompt, sample_detail
from openlance.world.scene import Scene, still

VIDEO_CLIPS = (1, 2)
MOST_OBJECTS = 3  # in a clip


def moving(draw: Draw, objects: tuple[int, int], **wishes: object) -> Scene | None:
    """A scene of a clip, None where nothing in it moves."""
    fewest, most = objects
    objects = max(fewest, min(draw.setting.fewest_objects, most)), most
    scene = draw.scene(**{"moving": True, "objects": objects, "repeats": 0.0, **wishes})
    return scene if scene.moves else None


def t2v(draw: Draw) -> tuple[Turn, ...] | None:
    """One to three objects and what they do."""
    scene = moving(draw, (1, MOST_OBJECTS))
    if scene is None:
        return None
    scene = draw.arrange(scene)
    detail = replace(sample_detail(draw.voice, scene), place=False, relation=False, size=False)
    text, facts = clip_prompt(draw.voice, scene, detail)
    return (Turn("t2v", text, target=draw.clip(scene), facts=facts),)


def i2v(draw: Draw) -> tuple[Turn, ...] | None:
    """The first frame is given, the words say what happens."""
    scene = moving(draw, VIDEO_CLIPS, **draw.given, steady=draw.setting.lattice > 0)
    if scene is None:
        return None
    scene = draw.welcome(scene)
    text, facts = clip_prompt(draw.voice, scene, Detail(texture=False, background=False), "first frame")
    return (Turn("i2v", text, (draw.image(still(scene)),), draw.clip(scene), facts=facts),)
