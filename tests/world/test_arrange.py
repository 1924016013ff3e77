"""Where objects stand when the words leave it open."""

import random
from dataclasses import replace

import pytest

from openlance.world.arrange import arrange
from openlance.world.draw import Setting
from openlance.world.facts import relation_between
from openlance.world.sample import TRAVELS, SceneOptions, fits, sample_scene
from openlance.world.scene import EVENT_MOMENTS, Scene, check_scene, diameters, place_of
from openlance.world.tasks import make_example

CANVASES = [(128, 128), (256, 256), (96, 192), (192, 96), (64, 64)]


def _scenes(height: int, width: int, **wishes: object) -> list[Scene]:
    options = SceneOptions(lattice=16, **wishes)  # type: ignore[arg-type]
    return [s for s in (sample_scene(random.Random(seed), height, width, options) for seed in range(60)) if s.objects]


def _alone(scene: Scene, place: int) -> bool:
    others = tuple(o for i, o in enumerate(scene.objects) if i != place)
    return fits(replace(scene, objects=others), scene.objects[place])


@pytest.mark.parametrize(("height", "width"), CANVASES)
def test_arranged_objects_fit_and_keep_what_they_are(height: int, width: int) -> None:
    for scene in _scenes(height, width, words=0.3) + _scenes(height, width, moving=True, objects=(1, 2)):
        arranged = arrange(scene)
        check_scene(arranged)
        assert [(o.looks, o.motion, o.event) for o in arranged.objects] == [(o.looks, o.motion, o.event) for o in scene.objects]
        assert all(_alone(arranged, i) for i in range(len(arranged.objects)))


def test_objects_stand_in_reading_order_at_places_that_follow_from_their_number() -> None:
    found: dict[int, set[tuple[tuple[float, float], ...]]] = {}
    for scene in _scenes(128, 128, objects=(1, 4)):
        points = tuple((o.x, o.y) for o in arrange(scene).objects)
        assert list(points) == sorted(points, key=lambda point: (point[1], point[0]))
        found.setdefault(len(points), set()).add(points)
    assert found == {
        1: {((0.5, 0.5),)},
        2: {((0.25, 0.5), (0.75, 0.5))},
        3: {((0.25, 0.25), (0.75, 0.25), (0.5, 0.75))},
        4: {((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))},
    }


def test_sizes_are_the_largest_that_fit() -> None:
    sizes = diameters(128, 128)
    for scene in _scenes(128, 128, objects=(1, 3)):
        arranged = arrange(scene)
        assert {o.size for o in arranged.objects} == {"large" if len(arranged.objects) == 1 else "small"}
        assert {o.diameter for o in arranged.objects} <= set(sizes.values())


def test_a_relation_is_kept_where_it_is_asked_for() -> None:
    relations = set()
    for scene in _scenes(128, 128, objects=(2, 2)):
        before = relation_between(*scene.objects) if len(scene.objects) == 2 else None
        if before:
            assert relation_between(*arrange(scene, related=True).objects) == before
            assert relation_between(*arrange(scene).objects) == "left of"
            relations.add(before)
    assert relations == {"left of", "right of", "above", "below"}


def test_movers_are_centred_on_their_way() -> None:
    seen = set()
    for scene in _scenes(128, 128, moving=True, objects=(1, 1), events=0.0):
        (o,) = arrange(scene).objects
        seen.add(o.motion.kind)
        travel = TRAVELS.get(o.motion.kind, (0.0,))[0]
        assert o.motion.travel == travel
        assert abs(o.x - 0.5) + abs(o.y - 0.5) == pytest.approx(travel / 2)
    assert seen >= set(TRAVELS)


@pytest.mark.parametrize("category", ["two", "attribute", "position", "count"])
def test_prompts_still_say_what_is_seen(category: str) -> None:
    setting = Setting(lattice=16, arranged=True)
    for index in range(30):
        turn = make_example("t2i", category, index, setting).turns[0]
        assert turn.target is not None
        scene = turn.target.scene
        for fact in turn.facts:
            if fact.about == "object" and fact.what:
                assert fact.what.count(scene) >= int(fact.value.rstrip("+"))
            if fact.about == "relation" and fact.what and fact.other:
                (a,) = (o for o in scene.objects if fact.what.fits(o))
                (b,) = (o for o in scene.objects if fact.other.fits(o))
                assert relation_between(a, b) == fact.value


def test_words_that_edits_write_stand_in_columns_and_others_as_they_stood() -> None:
    written = coloured = 0
    for index in range(60):
        free, arranged = (make_example("image_edit", "text", index, Setting(arranged=a)).turns[0] for a in (False, True))
        assert (free.text, free.facts, free.inputs) == (arranged.text, arranged.facts, arranged.inputs)
        assert free.target is not None
        assert arranged.target is not None
        (before,), scene, usual = arranged.inputs, arranged.target.scene, free.target.scene
        check_scene(scene)
        assert scene.word is not None
        assert usual.word is not None
        assert (scene.objects, scene.word.text, scene.word.colour, scene.word.place) == (
            usual.objects,
            usual.word.text,
            usual.word.colour,
            usual.word.place,
        )
        rewritten = before.scene.word is None or before.scene.word.text != scene.word.text
        assert (scene.word.pitch > 0) == rewritten
        written, coloured = written + rewritten, coloured + (not rewritten)
    assert written > 30
    assert coloured > 5


def test_stories_say_where_everything_is_and_name_no_sizes_in_edits() -> None:
    for category in ("two turns", "four turns"):
        for index in range(40):
            first, *rest = make_example("story", category, index, Setting()).turns
            assert all(fact.what is not None and fact.what.place for fact in first.facts if fact.about == "object")
            assert all(turn.before is None or turn.before.size is None for turn in rest)


def _turns(task: str, category: str = "free", **settings: object) -> list[tuple[Scene, Scene]]:
    """(given, asked for) of some examples on a lattice."""
    setting = Setting(lattice=16, arranged=True, **settings)  # type: ignore[arg-type]
    turns = [make_example(task, category, index, setting).turns[0] for index in range(40)]
    return [(turn.inputs[0].scene, turn.target.scene) for turn in turns if turn.target]


def _on_lattice(scene: Scene) -> bool:
    return all((o.x * scene.width / 16).is_integer() and (o.y * scene.height / 16).is_integer() for o in scene.objects)


@pytest.mark.parametrize(
    ("task", "category"), [("i2v", "free"), ("subject_image", "free"), ("subject_video", "free"), ("image_edit", "colour")]
)
def test_what_is_given_may_lie_on_no_lattice(task: str, category: str) -> None:
    anywhere, usual = ([_on_lattice(scene) for scene, _ in _turns(task, category, given_anywhere=asked)] for asked in (True, False))
    assert sum(anywhere) < 4 < sum(usual)


def test_what_the_words_leave_open_follows_the_lattice_where_what_is_given_does_not() -> None:
    """A first frame does not tell how far its objects will go, nor a subject where its clip begins."""
    for _, clip in _turns("i2v", given_anywhere=True) + _turns("subject_video", given_anywhere=True):
        assert all(o.motion.travel == TRAVELS[o.motion.kind][0] for o in clip.objects if o.motion.kind in TRAVELS)
    for _, clip in _turns("subject_video", given_anywhere=True):
        assert clip == arrange(clip)
    for _, clip in _turns("i2v", given_anywhere=True, events=1.0):
        assert {o.event.when for o in clip.objects if o.event} <= {EVENT_MOMENTS[1]}
    moments = {o.event.when for index in range(40) for o in make_example("i2v", "free", index).turns[0].target.scene.objects if o.event}  # type: ignore[union-attr]
    assert moments == set(EVENT_MOMENTS)
    ways = {o.motion.travel for index in range(40) for o in make_example("i2v", "free", index).turns[0].target.scene.objects}  # type: ignore[union-attr]
    assert len(ways) > 8


def test_what_appears_after_a_first_frame_does_so_in_the_middle_or_where_there_is_room() -> None:
    places: list[str | None] = []
    for index in range(150):
        scenes = []
        for arranged in (False, True):
            setting = Setting(lattice=16, arranged=arranged, given_anywhere=True, events=1.0)
            (turn,) = make_example("i2v", "free", index, setting).turns
            assert turn.target is not None
            check_scene(turn.target.scene)
            scenes.append((turn.text, turn.facts, turn.target.scene))
        (text, facts, free), (same_text, same_facts, usual) = scenes
        assert (text, facts) == (same_text, same_facts)
        for anywhere, here in zip(free.objects, usual.objects, strict=True):
            if here.event is None or here.event.kind != "appear":
                assert anywhere == here
                continue
            places.append(place_of(here.x, here.y))
            assert here.texture == "solid"
            assert here.event == anywhere.event
            alone = arrange(replace(usual, objects=(replace(here, event=None),))).objects[0]
            assert len(usual.objects) == 2 or here.diameter == alone.diameter
    assert len(places) > 25
    assert places.count("centre") > len(places) / 2


def test_subjects_stand_in_the_middle_of_their_place_and_their_company_across_from_them() -> None:
    scenes = [scene for _, scene in _turns("subject_image", given_anywhere=True)]
    by_place: dict[str | None, set[tuple[float, float, float]]] = {}
    for scene in scenes:
        first = scene.objects[0]
        by_place.setdefault(place_of(first.x, first.y), set()).add((first.x, first.y, first.diameter))
    assert len(by_place) == 9
    assert all(len(poses) <= 2 for poses in by_place.values())  # alone, in company
    pairs = [scene.objects for scene in scenes if len(scene.objects) == 2]
    assert len(pairs) > 5
    assert all(place_of(b.x, b.y) == place_of(1 - a.x, 1 - a.y) for a, b in pairs)
