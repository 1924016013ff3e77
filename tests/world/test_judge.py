"""Judges: right outputs pass, also worn ones; wrong ones fail."""

import io
import random

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from openlance.errors import LanceError
from openlance.world.draw import Setting
from openlance.world.facts import Fact, What
from openlance.world.judge import judge, judge_story
from openlance.world.judge.answers import box_overlap, caption_scores, same_answer
from openlance.world.judge.segment import _label
from openlance.world.judge.track import event_of, motion_of, track
from openlance.world.judge.view import look
from openlance.world.render import render, render_clip
from openlance.world.scene import Event, Motion, Object, Scene
from openlance.world.tasks import CATEGORIES, make_example

MEDIA_TASKS = ("t2i", "image_edit", "subject_image")


def worn(frame: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Slightly blurred, JPEG of quality 70, noise of sigma 6."""
    buffer = io.BytesIO()
    Image.fromarray(frame).filter(ImageFilter.GaussianBlur(0.6)).save(buffer, "JPEG", quality=70)
    pixels = np.asarray(Image.open(buffer), np.float32) + np.random.default_rng(seed).normal(0, 6, frame.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(("task", "category"), [(t, c) for t in MEDIA_TASKS for c in CATEGORIES[t]])
def test_right_pictures_pass(task: str, category: str) -> None:
    scores = []
    for index in range(5):
        example = make_example(task, category, index, Setting(128, 128, split="test"))
        assert example.target is not None
        scores.append(judge(example, example.target.pixels()).score)
    assert np.mean(scores) >= 0.97


def test_worn_pictures_still_pass() -> None:
    scores = []
    for task, category in (("t2i", "attribute"), ("t2i", "dense"), ("t2i", "count"), ("image_edit", "colour"), ("image_edit", "remove")):
        for index in range(5):
            example = make_example(task, category, index, Setting(128, 128, split="test"))
            assert example.target is not None
            scores.append(judge(example, worn(example.target.pixels()[0], index)).score)
    assert np.mean(scores) >= 0.95


@pytest.mark.parametrize("category", [c for c in CATEGORIES["t2i"] if c != "dense"])
def test_the_picture_of_another_prompt_fails(category: str) -> None:
    wrong = 0
    for index in range(6):
        example = make_example("t2i", category, index, Setting(128, 128, split="test"))
        empty = Scene(128, 128, "white" if example.target is None or example.target.scene.background != "white" else "black")
        wrong += judge(example, render(empty, 128, 128)).score == 0.0
    assert wrong == 6


@pytest.mark.parametrize("category", list(CATEGORIES["image_edit"]))
def test_an_edit_not_done_and_an_edit_that_ruins_the_rest_fail(category: str) -> None:
    for index in range(4):
        example = make_example("image_edit", category, index, Setting(128, 128, split="test"))
        source = example.inputs[0].pixels()
        untouched = judge(example, source)
        assert untouched.preserved >= 0.99
        assert untouched.done < 1.0
        noise = np.random.default_rng(index).integers(0, 255, source.shape).astype(np.uint8)
        assert judge(example, noise).score <= 0.35


def test_clips_and_video_edits_pass() -> None:
    scores = []
    for task, category in (("t2v", "free"), ("i2v", "free"), ("video_edit", "colour"), ("video_edit", "remove"), ("subject_video", "free")):
        for index in range(2):
            example = make_example(task, category, index, Setting(128, 128, split="test", num_frames=17))
            assert example.target is not None
            scores.append(judge(example, example.target.pixels()).score)
    assert np.mean(scores) >= 0.9


@pytest.mark.parametrize("kind", ["still", "left", "right", "up", "down", "grow", "shrink", "spin", "blink", "bounce"])
def test_motions_are_told_apart(kind: str) -> None:
    o = Object("heart", "red", "solid", "small", 0.5, 0.5, 0.38, Motion(kind, 0.3 if kind not in ("left", "up") else 0.2))
    tracks, _ = track(render_clip(Scene(128, 128, "white", (o,)), 128, 128))
    assert [motion_of(t) for t in tracks] == [kind]


@pytest.mark.parametrize(("kind", "expected"), [("bounce", "bounce"), ("still", "spin")])
def test_what_goes_up_and_down_bounces_though_its_outline_changes(kind: str, expected: str) -> None:
    shapes = (Object(shape, "red", "solid", "small", 0.5, 0.6, 0.38, Motion(kind, 0.25)) for shape in ("triangle", "diamond"))
    clip, other = (render_clip(Scene(128, 128, "white", (o,)), 128, 128) for o in shapes)
    clip[1::2] = other[1::2]
    tracks, _ = track(clip)
    assert [motion_of(t) for t in tracks] == [expected]


@pytest.mark.parametrize("kind", ["bicycle", "cactus", "chair"])
def test_things_that_bounce_do_not_spin(kind: str) -> None:
    for x, y, diameter in ((0.4, 0.7, 0.38), (0.5, 0.62, 0.5), (0.35, 0.65, 0.4)):
        o = Object(kind, "natural", "solid", "small", x, y, diameter, Motion("bounce", 0.25))
        tracks, _ = track(render_clip(Scene(128, 128, "black", (o,)), 128, 128))
        assert [motion_of(t) for t in tracks] == ["bounce"]


@pytest.mark.parametrize(("kind", "colour"), [("appear", None), ("disappear", None), ("recolour", "blue")])
def test_events_are_told_apart(kind: str, colour: str | None) -> None:
    o = Object("star", "red", "solid", "small", 0.5, 0.5, 0.38, event=Event(kind, 9 / 16, colour))
    tracks, _ = track(render_clip(Scene(128, 128, "white", (o,)), 128, 128))
    assert [event_of(t) for t in tracks] == [kind]


@pytest.mark.parametrize("ring", [1, 2])
def test_words_are_read_letter_by_letter(ring: int) -> None:
    for index in range(12):
        example = make_example("t2i", "word", index, Setting(128, 128, ring=ring, split="test"))
        assert example.target is not None
        word = example.target.scene.word
        seen = look(example.target.pixels()[0]).word
        assert word is not None
        assert seen is not None
        assert (seen.text, seen.colour, seen.place) == (word.text, word.colour, word.place)


def test_labels_equal_a_flood_fill() -> None:
    rng = random.Random(0)
    for _ in range(20):
        mask = np.array([[rng.random() < 0.45 for _ in range(17)] for _ in range(13)])
        labels, filled = _label(mask), _flood(mask)
        pairs = set(zip(labels[mask].tolist(), filled[mask].tolist(), strict=True))
        assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs})
        assert not labels[~mask].any()


def _flood(mask: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The slow twin of the run-based labels: fill every region from a seed, across corners too."""
    labels = np.zeros(mask.shape, np.int64)
    for seed in zip(*np.nonzero(mask), strict=True):
        if labels[seed]:
            continue
        stack, label = [seed], labels.max() + 1
        while stack:
            y, x = stack.pop()
            if 0 <= y < mask.shape[0] and 0 <= x < mask.shape[1] and mask[y, x] and not labels[y, x]:
                labels[y, x] = label
                stack += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return labels


def test_stories_are_judged_turn_by_turn_on_what_came_before() -> None:
    example = make_example("story", "four turns", 3, Setting(128, 128))
    outputs = [t.answer if t.answer is not None else t.target.pixels() if t.target else "" for t in example.turns]
    assert min(v.score for v in judge_story(example, outputs)) >= 0.95


def test_answers() -> None:
    assert same_answer("A violet disc.", "purple circle")
    assert same_answer("3", "three")
    assert not same_answer("red", "blue")
    assert same_answer('"CRANE"', "CRANE")
    assert not same_answer("CRANES", "CRANE")
    assert box_overlap("(10,10),(50,50)", "(10,10),(50,50)") == 1.0
    assert box_overlap("(10,10),(30,50)", "(10,10),(50,50)") == pytest.approx(0.5)
    assert box_overlap("nowhere", "(10,10),(50,50)") == 0.0


def test_captions_are_scored_by_statements() -> None:
    right = "a small striped red circle at the top left and two blue stars, on a navy background"
    assert caption_scores(right, right) == (1.0, 1.0)
    recall, precision = caption_scores("a red circle", right)
    assert recall < 0.5
    assert precision == 1.0
    _, wrong = caption_scores("a green circle", right)
    assert wrong == 0.5
    swapped = caption_scores("a small striped blue circle at the top left and two red stars, on a navy background", right)
    assert swapped[0] < 1.0


def test_text_for_pixels_is_refused() -> None:
    example = make_example("t2i", "colour", 0)
    with pytest.raises(LanceError, match="makes pixels"):
        judge(example, "a red circle")


def test_facts_survive_json() -> None:
    fact = Fact("relation", "left of", What("circle", "red"), What("star", place="top left"))
    assert Fact.from_dict(fact.to_dict()) == fact
