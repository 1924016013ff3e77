"""Changes of a picture and of a clip."""

from dataclasses import replace

from openlance.world.draw import Draw, Maker
from openlance.world.edits import IMAGE_EDITS, VIDEO_EDITS, Edit
from openlance.world.examples import Turn
from openlance.world.makers.clips import MOST_OBJECTS, VIDEO_CLIPS, moving
from openlance.world.sample import sample_scene
from openlance.world.scene import Scene


def image_edit(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        words = {"text": 0.7}.get(name, 0.1)
        fewest = 2 if name == "remove" else 1
        source_options = draw.options(objects=(fewest, 3), words=words, held="seen", **draw.given)
        scene = sample_scene(draw.rng, draw.setting.height, draw.setting.width, source_options)
        edit = sample_edit(draw, name, scene)
        return (edit_turn(draw, scene, edit),) if edit else None

    return make


def sample_edit(draw: Draw, name: str, scene: Scene) -> Edit | None:
    """An edit of this kind of a picture, None where the picture has nothing for it."""
    edit = IMAGE_EDITS[name](draw.voice, scene, draw.options()) if scene.objects else None
    return replace(edit, scene=draw.edited(scene, edit.scene)) if edit else None


def edit_turn(draw: Draw, source: Scene, edit: Edit) -> Turn:
    """The turn that asks for an edit of a picture."""
    inputs, target = (draw.image(source),), draw.image(edit.scene)
    return Turn("image_edit", edit.text, inputs, target, facts=edit.facts, before=edit.before, after=edit.after)


def video_edit(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        scene = moving(draw, (2, MOST_OBJECTS) if name == "remove" else VIDEO_CLIPS, events=0.0, held="seen", **draw.given)
        edit = VIDEO_EDITS[name](draw.voice, scene, draw.options()) if scene else None
        if not scene or not edit:
            return None
        inputs, target = (draw.clip(scene),), draw.clip(edit.scene)
        return (Turn("video_edit", edit.text, inputs, target, facts=edit.facts, before=edit.before, after=edit.after),)

    return make
