"""Clips from words and from a first frame."""

from dataclasses import replace

from openlance.world.draw import Draw
from openlance.world.examples import Turn
from openlance.world.language import Detail, clip_prompt, sample_detail
from openlance.world.scene import Scene, still

VIDEO_CLIPS = (1, 2)


def moving(draw: Draw, **wishes: object) -> Scene | None:
    """A scene of a clip, None where nothing in it moves."""
    scene = draw.scene(**{"moving": True, "objects": VIDEO_CLIPS, "repeats": 0.0, **wishes})
    return scene if scene.moves else None


def t2v(draw: Draw) -> tuple[Turn, ...] | None:
    """One or two objects and what they do."""
    scene = moving(draw, objects=(1, 3))
    if scene is None:
        return None
    scene = draw.arrange(scene)
    detail = replace(sample_detail(draw.voice, scene), place=False, relation=False, size=False)
    text, facts = clip_prompt(draw.voice, scene, detail)
    return (Turn("t2v", text, target=draw.clip(scene), facts=facts),)


def i2v(draw: Draw) -> tuple[Turn, ...] | None:
    """The first frame is given, the words say what happens."""
    scene = moving(draw, **draw.given, steady=draw.setting.lattice > 0)
    if scene is None:
        return None
    text, facts = clip_prompt(draw.voice, scene, Detail(texture=False, background=False), "first frame")
    return (Turn("i2v", text, (draw.image(still(scene)),), draw.clip(scene), facts=facts),)
