"""Questions about pictures and about clips."""

from dataclasses import replace

from openlance.world.draw import Draw, Maker
from openlance.world.examples import Turn
from openlance.world.makers.clips import MOST_OBJECTS, moving
from openlance.world.questions import IMAGE_QUESTIONS
from openlance.world.scene import EVENT_MOMENTS, Event, Scene
from openlance.world.video_questions import VIDEO_QUESTIONS


def image_question(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        words = {"ocr": 1.0, "caption full": 0.15, "caption brief": 0.15}.get(name, 0.05)
        most = 0 if name == "ocr" and draw.setting.split == "unseen words" else 4
        scene = draw.scene(words=words, objects=(0 if name == "ocr" else 1, most), repeats=0.5 if name == "count" else 0.15)
        question = IMAGE_QUESTIONS[name](draw.voice, scene) if scene.objects or name == "ocr" else None
        return (Turn("understand", question.text, (draw.image(scene),), answer=question.answer),) if question else None

    return make


def video_question(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        scene = _two_events(draw) if name == "order" else moving(draw, (1, MOST_OBJECTS), events=0.8 if name == "state change" else 0.2)
        question = VIDEO_QUESTIONS[name](draw.voice, scene) if scene else None
        return (Turn("understand", question.text, (draw.clip(scene),), answer=question.answer),) if scene and question else None

    return make


def _two_events(draw: Draw) -> Scene | None:
    """Two objects that do the same at different moments."""
    scene = draw.scene(objects=(2, 2), repeats=0.0)
    if len(scene.objects) < 2:
        return None
    kind = draw.rng.choice(("appear", "disappear"))
    moments = draw.rng.sample(EVENT_MOMENTS, 2)
    return replace(scene, objects=tuple(replace(o, event=Event(kind, m)) for o, m in zip(scene.objects, moments, strict=True)))
