"""The embedded model, as it ships: small enough, does every task, follows what it has learned so far."""

from pathlib import Path

import numpy as np
import pytest

import openlance
from openlance import Lance
from openlance.media import Clip
from openlance.world.draw import Setting
from openlance.world.judge.segment import find_background
from openlance.world.render import render
from openlance.world.scene import Scene
from openlance.world.tasks import make_example

FOLDER = Path(openlance.__file__).parent / "nano"
FAST = {"num_inference_steps": 6}


@pytest.fixture(scope="module")
def nano() -> Lance:
    return Lance.from_pretrained("nano")


@pytest.fixture(scope="module")
def picture() -> Clip:
    medium = make_example("understand", "colour", 5, Setting()).turns[0].inputs[0]
    return Clip(medium.pixels(), 1.0)


def test_the_package_stays_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc") <= 48e6


def test_every_task_runs_from_the_package(nano: Lance, picture: Clip) -> None:
    image = nano.generate_image("a red circle", seed=1, **FAST)
    assert image.size == (128, 128)
    assert nano.generate_image("a red circle", height=64, width=96, **FAST).size == (96, 64)
    assert nano.edit(picture, "make the background black", **FAST).size == (picture.width, picture.height)
    assert nano.generate_image("the object on a white background", references=[picture], **FAST).size == (128, 128)
    clip = nano.generate_video("a red circle moves right", height=64, width=64, num_frames=5, **FAST)
    assert clip.frames.shape == (5, 64, 64, 3)
    animated = nano.generate_video("the object moves left", image=picture, num_frames=5, **FAST)
    assert animated.num_frames == 5
    assert nano.edit(clip, "make the circle blue", **FAST).frames.shape == clip.frames.shape
    assert isinstance(nano.ask([clip, picture], "what is shown?", max_new_tokens=8), str)


def test_given_frames_come_back(nano: Lance) -> None:
    """The first frame of image to video is the given picture, as far as the autoencoder can hold it."""
    plain = Clip(render(Scene(128, 128, "white", ()), 128, 128)[None], 1.0)
    first = nano.generate_video("a red circle appears", image=plain, num_frames=5, **FAST).frames[0].astype(float)
    assert 10 * np.log10(255**2 / ((first - plain.frames[0]) ** 2).mean()) > 25


def test_backgrounds_follow_the_prompt(nano: Lance) -> None:
    names = ["white", "black", "gray", "beige", "navy"]
    images = nano.generate_image([f"a red circle on a {name} background" for name in names], seed=[3] * 5, num_inference_steps=12)
    seen = [find_background(np.asarray(image)) for image in images]
    assert sum(a == b for a, b in zip(seen, names, strict=True)) >= 4, seen


def test_answers_are_of_the_right_kind(nano: Lance) -> None:
    """Questions of what colour are answered with colours, of how many with numbers: at least this has been learned."""
    right = {
        "colour": {"red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink"},
        "count": {"one", "two", "three", "four", "1", "2", "3", "4"},
    }
    for category, allowed in right.items():
        examples = [make_example("understand", category, seed, Setting(split="test")) for seed in range(8)]
        answers = [nano.ask([Clip(e.turns[0].inputs[0].pixels(), 1.0)], e.turns[0].text, max_new_tokens=8) for e in examples]
        assert sum(answer in allowed for answer in answers) >= 6, answers
