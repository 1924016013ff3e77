"""Words: phrasings, splits of language, examples of every task."""

import json
import random
import re

import pytest

from openlance.errors import LanceError
from openlance.sequence.tasks import TASKS
from openlance.world.draw import Setting
from openlance.world.examples import Example
from openlance.world.language import caption
from openlance.world.lexicon import article, canonical, plural
from openlance.world.more_phrasings import MORE
from openlance.world.phrasings import PHRASINGS, Voice
from openlance.world.sample import SceneOptions, sample_scene
from openlance.world.splits import SPLITS, splits
from openlance.world.tasks import CATEGORIES, make_example
from openlance.world.video_questions import WHO_VERBS, acts, deed

EVERYTHING = [(task, category) for task, categories in CATEGORIES.items() for category in categories]


def test_every_fact_has_eight_phrasings_to_train_on_or_more() -> None:
    for group, phrasings in PHRASINGS.items():
        assert len(phrasings) >= 10, group
        assert len(set(phrasings)) == len(phrasings), group
        fields = {frozenset(re.findall(r"{(\w)}", p)) for p in phrasings} - {frozenset()}
        assert len(fields) <= 1, group


def test_held_out_phrasings_are_never_said_in_training() -> None:
    rng = random.Random(0)
    for group, phrasings in PHRASINGS.items():
        parts = {f: f"<{f}>" for f in re.findall(r"{(\w)}", " ".join(phrasings))}
        said = {Voice(rng).say(group, **parts) for _ in range(120)}
        held = {Voice(rng, held=True).say(group, **parts) for _ in range(30)}
        assert not said & held
        assert held <= {p.format(**parts) for p in phrasings[-splits().held_phrasings :]}


def test_further_phrasings_say_the_same_and_only_where_they_are_asked_for() -> None:
    for group, further in MORE.items():
        fields = [set(re.findall(r"{(\w)}", phrasing)) for phrasing in (*further, PHRASINGS[group][0])]
        assert all(named == fields[0] for named in fields), group
        assert not set(further) & set(PHRASINGS[group]), group
        parts = {f: f"<{f}>" for f in fields[0]}
        filled = {phrasing.format(**parts) for phrasing in further}
        rng = random.Random(0)
        assert filled <= {Voice(rng, more=True).say(group, **parts) for _ in range(300)}, group
        assert not filled & {Voice(rng, held=held).say(group, **parts) for _ in range(100) for held in (False, True)}, group
        for held in PHRASINGS[group][-splits().held_phrasings :]:  # not even within a longer one, though single words may be
            words = [piece.strip(" .?,:") for piece in re.split(r"{\w}", held) if piece.strip(" .?,:")]
            said = words[0] if len(words) == 1 and " " in words[0] else held.strip(".?")
            assert not any(said in phrasing for phrasing in further), (group, held)


def test_training_asks_who_does_something_in_the_words_of_prompts_and_evaluation_in_its_own() -> None:
    rng, further = random.Random(0), 0
    options = SceneOptions(moving=True, events=0.5, motions={"spin": 4, "grow": 4, "shrink": 4})
    for index in range(400):
        scene = sample_scene(random.Random(index), options=options)
        for o in scene.objects:
            kind = acts(o)
            if kind is None:
                continue
            assert deed(Voice(rng), o) == deed(Voice(rng, held=True), o) == WHO_VERBS[kind]
            verb = deed(Voice(rng, more=True), o)
            colour = o.event.colour if o.event else None
            known = {p.format(x="", c=colour).strip() for p in PHRASINGS[kind][: -splits().held_phrasings] + MORE[kind]}
            assert verb == WHO_VERBS[kind] or {f"that {verb}", verb.removeprefix("is ")} & known, verb
            further += verb != WHO_VERBS[kind]
    assert further > 100


@pytest.mark.parametrize(("task", "category"), EVERYTHING)
def test_examples_are_seeded_plain_data(task: str, category: str) -> None:
    for index in range(3):
        setting = Setting(128, 128, ring=1 + index % 2)
        example = make_example(task, category, index, setting)
        assert example == make_example(task, category, index, setting)
        assert Example.from_dict(json.loads(json.dumps(example.to_dict()))) == example
        for turn in example.turns:
            assert turn.task in TASKS
            assert turn.text
            assert (turn.answer is None) != (turn.target is None)
            assert turn.answer != ""
            assert turn.facts or turn.answer is not None


@pytest.mark.parametrize("split", SPLITS[1:])
def test_evaluation_splits_take_their_own_seeds(split: str) -> None:
    example = make_example("t2i", "free", 5, Setting(split=split))
    first, last = splits().evaluation_seeds
    assert first <= example.seed < last
    with pytest.raises(LanceError, match="outside its seeds"):
        make_example("t2i", "free", first, Setting())


def test_unseen_words_and_pairs_reach_the_prompts() -> None:
    for index in range(10):
        word = make_example("t2i", "word", index, Setting(split="unseen words")).target
        assert word is not None
        assert word.scene.word is not None
        assert word.scene.word.text in splits().held_words
        pair = make_example("t2i", "colour", index, Setting(split="unseen pairs")).target
        assert pair is not None
        assert all(splits().holds(o.kind, o.colour) for o in pair.scene.objects)


def test_said_facts_are_true_of_the_target_scene() -> None:
    for category in ("single", "two", "count", "colour", "attribute", "dense"):
        for index in range(20):
            example = make_example("t2i", category, index, Setting(128, 128))
            assert example.target is not None
            for fact in example.facts:
                if fact.about == "object" and fact.what:
                    number = fact.what.count(example.target.scene)
                    assert number >= int(fact.value[:-1]) if fact.value.endswith("+") else number == int(fact.value)


def test_edits_change_the_scene_and_keep_the_canvas() -> None:
    for category in CATEGORIES["image_edit"]:
        for index in range(10):
            turn = make_example("image_edit", category, index).turns[0]
            assert turn.target is not None
            assert turn.inputs[0].scene != turn.target.scene
            assert (turn.inputs[0].height, turn.inputs[0].width) == (turn.target.height, turn.target.width)


def test_unknown_requests_are_refused() -> None:
    with pytest.raises(LanceError, match="no category 'smell'"):
        make_example("t2i", "smell", 0)
    with pytest.raises(LanceError, match="unknown split"):
        make_example("t2i", "free", 0, Setting(split="secret"))
    with pytest.raises(LanceError, match="larger canvas"):
        make_example("t2i", "two", 0, Setting(64, 64))


def test_grammar() -> None:
    assert [plural(n) for n in ("circle", "cross", "cactus", "strawberry", "bus", "fish")] == [
        "circles", "crosses", "cacti", "strawberries", "buses", "fish",
    ]  # fmt: skip
    assert article("orange circle") == "an orange circle"
    assert article("red grapes") == "some red grapes"
    assert canonical("The violet disc.") == "purple circle"
    assert canonical("3") == canonical("three")


def test_captions_are_one_for_a_scene() -> None:
    scene = sample_scene(random.Random(4), 128, 128, SceneOptions(words=1.0))
    assert caption(scene, brief=False) == caption(scene, brief=False)
    assert scene.word is not None
    assert f'"{scene.word.text}"' in caption(scene, brief=True)
