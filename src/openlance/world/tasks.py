"""Seeded generators of examples for every task. `make_example` is the entry; CATEGORIES lists what there is.

The task names are those of the sequence table; "story" is several turns of them in one conversation.
"""

import random
from collections.abc import Callable
from dataclasses import replace

from openlance.errors import LanceError
from openlance.world.draw import Draw, Setting
from openlance.world.edits import IMAGE_EDITS, VIDEO_EDITS, Edit, keeps_looks
from openlance.world.examples import Example, Turn
from openlance.world.facts import Fact, What, relation_between
from openlance.world.language import (
    BRIEF,
    Detail,
    action_facts,
    action_phrase,
    an,
    background_after,
    clip_prompt,
    full_detail,
    object_groups,
    place_phrase,
    prompt,
    sample_detail,
)
from openlance.world.palette import BACKGROUNDS, NATURAL
from openlance.world.phrasings import Voice
from openlance.world.questions import IMAGE_QUESTIONS
from openlance.world.sample import place_object, sample_background, sample_looks, sample_scene, stands_out
from openlance.world.scene import EVENT_MOMENTS, Event, Object, Scene, diameters, place_of, still
from openlance.world.splits import SPLITS, splits
from openlance.world.video_questions import VIDEO_QUESTIONS

ATTEMPTS = 200
PICTURE = Setting()
VIDEO_CLIPS = (1, 2)


Maker = Callable[[Draw], tuple[Turn, ...] | None]


def example_seed(index: int, split: str) -> int:
    """Seed of the index-th example of a split: training seeds lie below the evaluation range, all others in it."""
    first, last = splits().evaluation_seeds
    seed = index if split == "train" else first + index
    if index < 0 or (split == "train" and index >= first) or seed >= last:
        raise LanceError(f"index {index} of split {split!r} is outside its seeds: training has {first}, evaluation {last - first}")
    return seed


def make_example(task: str, category: str, index: int, setting: Setting = PICTURE) -> Example:
    """The index-th example of a category, the same on every machine.

    Raises LanceError for an unknown task, category or split, and where the setting has no room for the category (64 px hold one object).
    """
    if category not in CATEGORIES.get(task, {}):
        known = "; ".join(f"{t}: {', '.join(c)}" for t, c in CATEGORIES.items())
        raise LanceError(f"no category {category!r} of task {task!r}; the world has {known}")
    if setting.split not in SPLITS:
        raise LanceError(f"unknown split {setting.split!r}: choose one of {', '.join(SPLITS)}")
    seed = example_seed(index, setting.split)
    rng = random.Random(f"{task}/{category}/{seed}")
    draw = Draw(rng, Voice(rng, setting.split == "unseen phrasings", more=setting.more_phrasings), setting)
    for _ in range(ATTEMPTS):
        turns = CATEGORIES[task][category](draw)
        if turns:
            return Example(task, category, setting.split, seed, turns)
    raise LanceError(f"{task} {category!r} finds no example at {setting.height}x{setting.width}: use a larger canvas or another category")


# ---- text to image -------------------------------------------------------------------------------------------------------------


def _consistent(scene: Scene, detail: Detail) -> bool:
    """Every "three red circles" of a prompt must be all there are."""
    return all(n == 1 or what.count(scene) == n for what, n in object_groups(scene, detail))


def _t2i(draw: Draw, scene: Scene, detail: Detail) -> tuple[Turn, ...] | None:
    if not _consistent(scene, detail):
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


# ---- clips ---------------------------------------------------------------------------------------------------------------------


def _moving(draw: Draw, **wishes: object) -> Scene | None:
    scene = draw.scene(**{"moving": True, "objects": VIDEO_CLIPS, "repeats": 0.0, **wishes})
    return scene if scene.moves else None


def t2v(draw: Draw) -> tuple[Turn, ...] | None:
    """One or two objects and what they do."""
    scene = _moving(draw, objects=(1, 3))
    if scene is None:
        return None
    scene = draw.arrange(scene)
    detail = replace(sample_detail(draw.voice, scene), place=False, relation=False, size=False)
    text, facts = clip_prompt(draw.voice, scene, detail)
    return (Turn("t2v", text, target=draw.clip(scene), facts=facts),)


def i2v(draw: Draw) -> tuple[Turn, ...] | None:
    """The first frame is given, the words say what happens."""
    scene = _moving(draw)
    if scene is None:
        return None
    text, facts = clip_prompt(draw.voice, scene, Detail(texture=False, background=False), "first frame")
    return (Turn("i2v", text, (draw.image(still(scene)),), draw.clip(scene), facts=facts),)


# ---- edits ---------------------------------------------------------------------------------------------------------------------


def _image_edit(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        words = {"text": 0.7}.get(name, 0.1)
        fewest = 2 if name == "remove" else 1
        source_options = draw.options(objects=(fewest, 3), words=words, held="seen")
        scene = sample_scene(draw.rng, draw.setting.height, draw.setting.width, source_options)
        edit = _sample_edit(draw, name, scene)
        return (_edit_turn(draw, scene, edit),) if edit else None

    return make


def _sample_edit(draw: Draw, name: str, scene: Scene) -> Edit | None:
    edit = IMAGE_EDITS[name](draw.voice, scene, draw.options()) if scene.objects else None
    return replace(edit, scene=draw.edited(scene, edit.scene)) if edit else None


def _edit_turn(draw: Draw, source: Scene, edit: Edit) -> Turn:
    inputs, target = (draw.image(source),), draw.image(edit.scene)
    return Turn("image_edit", edit.text, inputs, target, facts=edit.facts, before=edit.before, after=edit.after)


def _video_edit(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        scene = _moving(draw, objects=(2, 3) if name == "remove" else VIDEO_CLIPS, events=0.0, held="seen")
        edit = VIDEO_EDITS[name](draw.voice, scene, draw.options()) if scene else None
        if not scene or not edit:
            return None
        inputs, target = (draw.clip(scene),), draw.clip(edit.scene)
        return (Turn("video_edit", edit.text, inputs, target, facts=edit.facts, before=edit.before, after=edit.after),)

    return make


# ---- subjects ------------------------------------------------------------------------------------------------------------------


def _reference(draw: Draw) -> Scene | None:
    background = draw.rng.choice(list(BACKGROUNDS))
    size = list(diameters(draw.setting.height, draw.setting.width))[-1]
    scene = draw.scene(objects=(1, 1), background=background, size=size)
    return scene if scene.objects else None


def subject_image(draw: Draw) -> tuple[Turn, ...] | None:
    """The object of a picture at another place, before another background, perhaps with company."""
    reference = _reference(draw)
    if reference is None:
        return None
    o = reference.objects[0]
    background = sample_background(draw.rng, draw.setting.ring)
    if not _same_on(o, reference.background, background):
        return None
    scene = draw.scene(objects=(0, 0), background=background)
    options = draw.options(named=1.0, held="any", size=None)
    placed = place_object(draw.rng, scene, o.looks, options)
    if placed is None or (place := place_of(placed.x, placed.y)) is None:
        return None
    scene = replace(scene, objects=(placed,))
    look = What(o.kind, o.colour, o.texture)
    parts, facts = [place_phrase(draw.voice, place)], [Fact("object", "1+", replace(look, place=place))]
    company = _company(draw, scene) if draw.rng.random() < 0.4 else None
    if company:
        scene = replace(scene, objects=(placed, company))
        what = What(company.kind, None if company.colour == NATURAL else company.colour, None)
        parts.append(f"with {an(draw.voice, what)}")
        facts.append(Fact("object", "1+", what))
    parts.append(background_after(draw.voice, background))
    facts.append(Fact("background", background))
    text = draw.voice.say("subject", r=" ".join(parts))
    return (Turn("subject_image", text, (draw.image(reference),), draw.image(scene), facts=tuple(facts)),)


def _company(draw: Draw, scene: Scene) -> Object | None:
    options = draw.options(held="seen", textures=0.0)
    looks = sample_looks(draw.rng, scene.background, options)
    kinds = {looks[0], scene.objects[0].kind}
    return place_object(draw.rng, scene, looks, options) if len(kinds) == 2 and not splits().holds_together(kinds) else None


def _same_on(o: Object, old: str, new: str) -> bool:
    """True when the object looks the same and is seen on both backgrounds."""
    return old != new and stands_out(o.kind, o.colour, new) and keeps_looks(Scene(128, 128, old, (o,)), new)


def subject_video(draw: Draw) -> tuple[Turn, ...] | None:
    """The object of a picture in motion before another background."""
    reference = _reference(draw)
    if reference is None:
        return None
    o = reference.objects[0]
    background = sample_background(draw.rng, draw.setting.ring)
    if not _same_on(o, reference.background, background):
        return None
    scene = draw.scene(objects=(0, 0), background=background)
    moved = place_object(draw.rng, scene, o.looks, draw.options(moving=True, events=0.0, held="any"), active=True)
    if moved is None:
        return None
    what = What(o.kind, o.colour, o.texture)
    rest = f"{action_phrase(draw.voice, moved, '')} {background_after(draw.voice, background)}".strip()
    facts = (Fact("object", "1+", what), *action_facts(moved, what), Fact("background", background))
    text = draw.voice.say("subject clip", r=rest)
    return (Turn("subject_video", text, (draw.image(reference),), draw.clip(replace(scene, objects=(moved,))), facts=facts),)


# ---- understanding -------------------------------------------------------------------------------------------------------------


def _image_question(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        words = {"ocr": 1.0, "caption full": 0.15, "caption brief": 0.15}.get(name, 0.05)
        most = 0 if name == "ocr" and draw.setting.split == "unseen words" else 4
        scene = draw.scene(words=words, objects=(0 if name == "ocr" else 1, most), repeats=0.5 if name == "count" else 0.15)
        question = IMAGE_QUESTIONS[name](draw.voice, scene) if scene.objects or name == "ocr" else None
        return (Turn("understand", question.text, (draw.image(scene),), answer=question.answer),) if question else None

    return make


def _video_question(name: str) -> Maker:
    def make(draw: Draw) -> tuple[Turn, ...] | None:
        scene = _two_events(draw) if name == "order" else _moving(draw, objects=(1, 3), events=0.8 if name == "state change" else 0.2)
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


# ---- stories -------------------------------------------------------------------------------------------------------------------


def _story(turns: int, ask: bool) -> Maker:
    """A picture is drawn from words, edited `turns` - 1 times, and perhaps asked about at the end.

    The words say where everything is, and edits single out no object by its size: they speak of a picture that is not drawn yet.
    """

    def make(draw: Draw) -> tuple[Turn, ...] | None:
        scene = draw.scene(objects=(1, 3), repeats=0.0, named=1.0)
        if len(scene.objects) == 0 or not all(place_of(o.x, o.y) for o in scene.objects) or not _consistent(scene, Detail()):
            return None
        text, facts = prompt(draw.voice, scene, Detail(texture=True, place=True, background=True))
        story = [Turn("t2i", text, target=draw.image(scene), facts=facts)]
        while len(story) < turns:
            edit = _sample_edit(draw, draw.rng.choice(list(IMAGE_EDITS)), scene)
            if edit is None or (edit.before and edit.before.size):
                return None
            story.append(_edit_turn(draw, scene, edit))
            scene = edit.scene
        if ask:
            name = draw.rng.choice(("what", "colour", "count", "position", "exists", "background"))
            question = IMAGE_QUESTIONS[name](draw.voice, scene) if scene.objects else None
            if question is None:
                return None
            story.append(Turn("understand", question.text, (draw.image(scene),), answer=question.answer))
        return tuple(story)

    return make


CATEGORIES: dict[str, dict[str, Maker]] = {
    "t2i": {
        "single": t2i_single,
        "two": t2i_two,
        "count": t2i_count,
        "colour": t2i_colour,
        "position": t2i_position,
        "attribute": t2i_attribute,
        "dense": t2i_dense,
        "described": t2i_described,
        "word": t2i_word,
        "free": t2i_free,
    },
    "t2v": {"free": t2v},
    "i2v": {"free": i2v},
    "image_edit": {name: _image_edit(name) for name in IMAGE_EDITS},
    "video_edit": {name: _video_edit(name) for name in VIDEO_EDITS},
    "subject_image": {"free": subject_image},
    "subject_video": {"free": subject_video},
    "understand": {name: _image_question(name) for name in IMAGE_QUESTIONS} | {f"video {n}": _video_question(n) for n in VIDEO_QUESTIONS},
    "story": {"two turns": _story(2, False), "three turns": _story(3, False), "four turns": _story(3, True)},
}
