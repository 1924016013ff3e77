"""Scenes on a lattice: fewer pictures, the same world."""

import hashlib
import itertools
import json
import random
from dataclasses import replace

import numpy as np
import pytest

from openlance.train.attributes import letter_boxes
from openlance.world.draw import Setting
from openlance.world.judge.view import look
from openlance.world.render import columns_of, render
from openlance.world.sample import SceneOptions, fits, sample_scene
from openlance.world.scene import Scene, Word, check_scene, diameters
from openlance.world.tasks import CATEGORIES, make_example

BEFORE = "db4710bd3ba56edc96d419d02d45dc1baaa12cb607cf83aad2509289e245b6e4"
STORIES = "ca8920c2ef2afc6bfd2a3b63d442becde87c9571e549f5feec762c9bbd290031"
"""Of stories since their first turn says where everything is."""


@pytest.mark.parametrize(("height", "width", "lattice"), [(128, 128, 16), (64, 64, 16), (96, 192, 8), (256, 256, 16)])
def test_middles_lie_on_the_lattice(height: int, width: int, lattice: int) -> None:
    sizes = diameters(height, width)
    for seed in range(40):
        scene = sample_scene(random.Random(seed), height, width, SceneOptions(lattice=lattice))
        check_scene(scene)
        for o in scene.objects:
            assert o.x * width / lattice == pytest.approx(round(o.x * width / lattice), abs=1e-6)
            assert o.y * height / lattice == pytest.approx(round(o.y * height / lattice), abs=1e-6)
            assert o.diameter == sizes[o.size]
            assert fits(replace(scene, objects=tuple(other for other in scene.objects if other is not o)), o)


def test_an_object_too_wide_for_the_lattice_lies_anywhere() -> None:
    scene = sample_scene(random.Random(1), 64, 64, SceneOptions(objects=(1, 1), lattice=48))
    assert len(scene.objects) == 1


@pytest.mark.parametrize(("tasks", "expected"), [(tuple(task for task in CATEGORIES if task != "story"), BEFORE), (("story",), STORIES)])
def test_examples_without_a_lattice_are_as_they_were(tasks: tuple[str, ...], expected: str) -> None:
    """A digest of scenes, texts and answers, made before there was a lattice: scores stay comparable. What came later is left out."""
    digest = hashlib.sha256()
    for task, categories in CATEGORIES.items():
        for category in categories if task in tasks else ():
            for split, index in itertools.product(("train", "test"), range(6)):
                if category == "described":
                    continue
                for turn in make_example(task, category, index, Setting(128, 128, split=split, ring=1 + index % 2)).turns:
                    for medium in (*turn.inputs, *([turn.target] if turn.target else [])):
                        scene = medium.scene.to_dict()
                        if scene["word"]:
                            assert scene["word"].pop("pitch") == 0
                        digest.update(json.dumps(scene, sort_keys=True).encode())
                    digest.update(f"{turn.text}|{turn.answer}".encode())
    assert digest.hexdigest() == expected


def test_words_in_columns_are_read_and_boxed() -> None:
    right = 0
    for index in range(40):
        target = make_example("t2i", "word", index, Setting(lattice=16)).turns[0].target
        assert target is not None
        word = target.scene.word
        assert word is not None
        frame = render(target.scene, 128, 128)
        found = look(frame).word
        right += found is not None and found.text == word.text
        bare = render(replace(target.scene, objects=(), word=None), 128, 128)
        ink = np.abs(render(replace(target.scene, objects=()), 128, 128).astype(int) - bare).sum(-1) > 60
        for left, top, across, bottom in letter_boxes(word, 128, 128):
            box = (slice(round(top), round(bottom)), slice(round(left), round(across)))
            assert ink[box].any()
            ink[box] = False
        assert not ink.any()
    assert right >= 39


def test_letters_keep_their_columns_whatever_the_word() -> None:
    short, long = (Word(text, "red", "mono", "top", 0.5, 0.2, 3 / 16) for text in ("SUN", "SUNNY"))
    assert columns_of(long)[:3] == columns_of(short)
    first, second = (render(Scene(128, 128, "white", (), word), 128, 128) for word in (short, long))
    assert np.array_equal(first[:, :76], second[:, :76])
