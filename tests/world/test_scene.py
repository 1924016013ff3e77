"""Scenes: seeds, splits, geometry, JSON."""

import json
import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from openlance.errors import LanceError
from openlance.world.palette import (
    BACKGROUNDS,
    COLOURS,
    MIN_CONTRAST,
    SCENERIES,
    SHAPES,
    THINGS,
    background_colours,
    distance,
    second_colour,
)
from openlance.world.sample import SceneOptions, sample_scene, stands_out
from openlance.world.scene import CELL, MIN_CELLS, Scene, diameters, place_of, pose, still
from openlance.world.splits import splits

SIDES = st.integers(4, 18).map(lambda n: 16 * n)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), SIDES, SIDES, st.sampled_from((1, 2)), st.booleans())
@example(12, 64, 64, 1, True)  # needs more tries than most
def test_objects_stay_on_the_canvas_apart_and_visible(seed: int, height: int, width: int, ring: int, moving: bool) -> None:
    scene = sample_scene(random.Random(seed), height, width, SceneOptions(ring=ring, moving=moving))
    short = min(height, width)
    assert 1 <= len(scene.objects) <= 4
    for o in scene.objects:
        assert stands_out(o.kind, o.colour, scene.background)
        assert o.diameter * short >= MIN_CELLS * CELL - 1e-6
        for u in (0.0, 0.25, 0.5, 0.75, 1.0):
            where = pose(o, u, 0.0)
            rx, ry = where.diameter / 2 * short / width, where.diameter / 2 * short / height
            assert rx - 1e-6 <= where.x <= 1 - rx + 1e-6
            assert ry - 1e-6 <= where.y <= 1 - ry + 1e-6
    for u in (0.0, 0.5, 1.0):
        poses = [pose(o, u, 0.0) for o in scene.objects]
        for i, a in enumerate(poses):
            for b in poses[i + 1 :]:
                dx, dy = abs(a.x - b.x) * width / short, abs(a.y - b.y) * height / short
                reach = (a.diameter + b.diameter) / 2
                assert max(dx, dy) >= reach or (dx * dx + dy * dy) ** 0.5 >= reach


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.booleans())
def test_json_round_trip(seed: int, moving: bool) -> None:
    scene = sample_scene(random.Random(seed), 128, 128, SceneOptions(ring=2, words=0.5, moving=moving))
    assert Scene.from_dict(json.loads(json.dumps(scene.to_dict()))) == scene


def test_a_seed_gives_one_scene() -> None:
    scene = sample_scene(random.Random(7), 128, 128, SceneOptions(ring=2, words=1.0))
    assert scene == sample_scene(random.Random(7), 128, 128, SceneOptions(ring=2, words=1.0))
    assert scene != sample_scene(random.Random(8), 128, 128, SceneOptions(ring=2, words=1.0))


def test_training_never_sees_what_is_held_out() -> None:
    held = splits()
    rng = random.Random(0)
    for _ in range(400):
        scene = sample_scene(rng, 256, 256, SceneOptions(ring=rng.choice((1, 2)), words=0.3, moving=rng.random() < 0.3, events=0.5))
        for o in scene.objects:
            assert not held.holds(o.kind, o.colour)
            assert not (o.event and o.event.colour and held.holds(o.kind, o.event.colour))
        assert not held.holds_together({o.kind for o in scene.objects})
        assert scene.word is None or scene.word.text not in held.held_words


def test_unseen_scenes_hold_only_held_out_pairs_and_words() -> None:
    rng = random.Random(1)
    for _ in range(60):
        scene = sample_scene(rng, 128, 128, SceneOptions(ring=2, words=0.5, held="unseen"))
        assert all(splits().holds(o.kind, o.colour) for o in scene.objects)
        assert scene.word is None or scene.word.text in splits().held_words


def test_the_splits_have_the_documented_sizes() -> None:
    held = splits()
    assert len(held.shape_colour_pairs) == 8
    assert {k for k, _ in held.shape_colour_pairs} == set(SHAPES)
    assert {c for _, c in held.shape_colour_pairs} == set(COLOURS)
    assert len(held.thing_tint_pairs) == 30
    assert len(held.held_words) == 300
    assert len(held.words) == 1200
    assert not set(held.words) & set(held.held_words)
    assert all(3 <= len(w) <= 5 and w.isalpha() and w.isupper() for w in held.words + held.held_words)
    assert held.evaluation_seeds[0] < held.evaluation_seeds[1]


def test_no_shape_can_fade_into_its_background() -> None:
    for background in (*BACKGROUNDS, *SCENERIES):
        for colour in COLOURS:
            for around in background_colours(background):
                assert not stands_out("circle", colour, background) or distance(COLOURS[colour], around) >= MIN_CONTRAST
                assert distance(second_colour(colour, background), around) >= MIN_CONTRAST


def test_world_names_are_the_contract() -> None:
    assert len(SHAPES) == 8
    assert len(THINGS) == 40
    assert COLOURS["red"] == (225, 40, 40)
    assert BACKGROUNDS["navy"] == (25, 30, 80)
    assert diameters(256, 256) == {"small": 0.2, "medium": 0.25, "large": 0.4}
    assert list(diameters(128, 128)) == ["small", "large"]
    assert place_of(0.1, 0.9) == "bottom left"
    assert place_of(0.5, 0.5) == "centre"
    assert place_of(0.34, 0.5) is None


def test_a_hidden_object_is_not_in_the_first_frame() -> None:
    rng = random.Random(0)
    scenes = [sample_scene(rng, 128, 128, SceneOptions(moving=True, events=1.0)) for _ in range(60)]
    appearing = [s for s in scenes if any(o.event and o.event.kind == "appear" for o in s.objects)]
    assert appearing
    assert all(len(still(s).objects) < len(s.objects) for s in appearing)


@pytest.mark.parametrize(("height", "width"), [(60, 128), (128, 304), (128, 100)])
def test_a_bad_canvas_is_refused(height: int, width: int) -> None:
    with pytest.raises(LanceError, match="multiples of 16 from 64 to 288"):
        sample_scene(random.Random(0), height, width)


def test_unknown_names_are_refused() -> None:
    raw = sample_scene(random.Random(0), 128, 128).to_dict()
    raw["background"] = "mars"
    with pytest.raises(LanceError, match="mars"):
        Scene.from_dict(raw)
