"""Several turns on one picture."""

from openlance.world.draw import Draw, Maker
from openlance.world.edits import IMAGE_EDITS
from openlance.world.examples import Turn
from openlance.world.language import Detail, prompt
from openlance.world.makers.edits import edit_turn, sample_edit
from openlance.world.makers.pictures import consistent
from openlance.world.questions import IMAGE_QUESTIONS
from openlance.world.scene import place_of


def story(turns: int, ask: bool) -> Maker:
    """A picture is drawn from words, edited `turns` - 1 times, and perhaps asked about at the end.

    The words say where everything is, and edits single out no object by its size: they speak of a picture that is not drawn yet.
    """

    def make(draw: Draw) -> tuple[Turn, ...] | None:
        scene = draw.scene(objects=(1, 3), repeats=0.0, named=1.0)
        if len(scene.objects) == 0 or not all(place_of(o.x, o.y) for o in scene.objects) or not consistent(scene, Detail()):
            return None
        text, facts = prompt(draw.voice, scene, Detail(texture=True, place=True, background=True))
        story = [Turn("t2i", text, target=draw.image(scene), facts=facts)]
        while len(story) < turns:
            edit = sample_edit(draw, draw.rng.choice(list(IMAGE_EDITS)), scene)
            if edit is None or (edit.before and edit.before.size):
                return None
            story.append(edit_turn(draw, scene, edit))
            scene = edit.scene
        if ask:
            name = draw.rng.choice(("what", "colour", "count", "position", "exists", "background"))
            question = IMAGE_QUESTIONS[name](draw.voice, scene) if scene.objects else None
            if question is None:
                return None
            story.append(Turn("understand", question.text, (draw.image(scene),), answer=question.answer))
        return tuple(story)

    return make
