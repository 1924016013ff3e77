"""Questions about still scenes with short answers."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from openlance.world.facts import NUMBERS, OPPOSITE, What, relation_between, unique_descriptions
from openlance.world.language import BESIDE, an, caption, noun_phrase, place_phrase, plain_phrase, the
from openlance.world.palette import COLOURS, NATURAL, SHAPES, THINGS
from openlance.world.phrasings import Voice
from openlance.world.render import box_of
from openlance.world.scene import Object, Scene, place_of


@dataclass(frozen=True)
class Question:
    """A question and the one right answer in canonical words."""

    text: str
    answer: str


Asker = Callable[[Voice, Scene], Question | None]


def pick(voice: Voice, scene: Scene, accept: Callable[[Object], bool] = lambda o: True, without: str = "") -> tuple[Object, What] | None:
    """An object and a description that singles it out and does not use the attribute the question asks for."""
    choices = [
        (o, w) for o in scene.objects if accept(o) for w in unique_descriptions(scene, o)[:3] if not without or getattr(w, without) is None
    ]
    return voice.rng.choice(choices) if choices else None


def ask_what(voice: Voice, scene: Scene) -> Question | None:
    """The kind of the object at a place, or of the only one."""
    if len(scene.objects) == 1:
        return Question(voice.say("ask what one"), scene.objects[0].kind)
    placed = [o for o in scene.objects if (p := place_of(o.x, o.y)) and What(place=p).count(scene) == 1]
    if not placed:
        return None
    o = voice.rng.choice(placed)
    return Question(voice.say("ask what", p=place_phrase(voice, place_of(o.x, o.y) or "")), o.kind)


def ask_colour(voice: Voice, scene: Scene) -> Question | None:
    """The colour of an object that has one."""
    picked = pick(voice, scene, lambda o: o.colour != NATURAL, "colour")
    return Question(_asked(voice, "ask colour", picked[1]), picked[0].colour) if picked else None


def _asked(voice: Voice, group: str, what: What) -> str:
    text = voice.say(group, x=the(voice, what))
    return text[0].upper() + text[1:]


def ask_count(voice: Voice, scene: Scene) -> Question | None:
    """How many of a kind, with or without its colour; now and then none."""
    if not scene.objects:
        return None
    o = voice.rng.choice(scene.objects)
    what = What(o.kind, o.colour if voice.rng.random() < 0.5 and o.colour != NATURAL else None)
    if voice.rng.random() < 0.15:
        what = What(voice.rng.choice(SHAPES if o.kind in SHAPES else THINGS))
    number = what.count(scene)
    return Question(voice.say("ask count", x=noun_phrase(voice, what, 2)), NUMBERS[number] if number else "zero")


def ask_position(voice: Voice, scene: Scene) -> Question | None:
    """The named place of an object."""
    picked = pick(voice, scene, lambda o: place_of(o.x, o.y) is not None, "place")
    return Question(voice.say("ask position", x=the(voice, picked[1])), place_of(picked[0].x, picked[0].y) or "") if picked else None


def ask_texture(voice: Voice, scene: Scene) -> Question | None:
    """The texture of a shape."""
    picked = pick(voice, scene, lambda o: o.kind in SHAPES, "texture")
    return Question(voice.say("ask texture", x=the(voice, picked[1])), picked[0].texture) if picked else None


def ask_exists(voice: Voice, scene: Scene) -> Question | None:
    """Half the time about something there, half about the same with one attribute changed."""
    if not scene.objects:
        return None
    o = voice.rng.choice(scene.objects)
    what = What(o.kind, None if o.colour == NATURAL else o.colour)
    if voice.rng.random() < 0.5:
        return Question(voice.say("ask exists", x=an(voice, what)), "yes")
    others = [replace(what, kind=k) for k in (SHAPES if o.kind in SHAPES else THINGS)]
    others += [replace(what, colour=c) for c in COLOURS] if what.colour else []
    absent = [w for w in others if not any(w.fits(p) for p in scene.objects)]
    return Question(voice.say("ask exists", x=an(voice, voice.rng.choice(absent))), "no") if absent else None


def ask_compare(voice: Voice, scene: Scene) -> Question | None:
    """Which of two is bigger, or whether a relation holds."""
    if len(scene.objects) < 2:
        return None
    a, b = voice.rng.sample(scene.objects, 2)
    wa, wb = (next(iter(unique_descriptions(scene, o)), None) for o in (a, b))
    if wa is None or wb is None:
        return None
    ratio = a.diameter / b.diameter
    if (ratio > 1.3 or ratio < 1 / 1.3) and not (wa.size or wb.size):
        bigger = wa if ratio > 1 else wb
        return Question(voice.say("ask bigger", a=the(voice, wa), b=the(voice, wb)), answer_phrase(bigger))
    relation = relation_between(a, b)
    if relation is None:
        return None
    true = voice.rng.random() < 0.5
    said = relation if true else OPPOSITE[relation]
    text = voice.say("ask relation", a=the(voice, wa), r=BESIDE[said], b=the(voice, wb))
    return Question(text, "yes" if true else "no")


def answer_phrase(what: What) -> str:
    """A description as an answer: "red circle", "circle at the top left"."""
    return plain_phrase(what) + (f" at the {what.place}" if what.place else "")


def ask_background(voice: Voice, scene: Scene) -> Question | None:
    """The name of the background."""
    return Question(voice.say("ask background"), scene.background)


def ask_word(voice: Voice, scene: Scene) -> Question | None:
    """The written word, letter for letter."""
    return Question(voice.say("ask word"), scene.word.text) if scene.word else None


def ask_box(voice: Voice, scene: Scene) -> Question | None:
    """The box of an object as "(left,top),(right,bottom)" in percent of the width and height."""
    picked = pick(voice, scene)
    if not picked:
        return None
    left, top, right, bottom = (round(100 * v) for v in box_of(picked[0], scene))
    return Question(voice.say("ask box", x=the(voice, picked[1])), f"({left},{top}),({right},{bottom})")


def ask_caption(voice: Voice, scene: Scene, brief: bool) -> Question:
    """A caption in canonical words."""
    medium = "video" if scene.moves else "picture"
    return Question(voice.say("ask caption brief" if brief else "ask caption full", m=medium), caption(scene, brief))


IMAGE_QUESTIONS: dict[str, Asker] = {
    "what": ask_what,
    "colour": ask_colour,
    "count": ask_count,
    "position": ask_position,
    "texture": ask_texture,
    "exists": ask_exists,
    "compare": ask_compare,
    "background": ask_background,
    "ocr": ask_word,
    "grounding": ask_box,
    "caption brief": lambda voice, scene: ask_caption(voice, scene, True),
    "caption full": lambda voice, scene: ask_caption(voice, scene, False),
}
