"""Pixels: sizes, colours, first frames, motion."""

import random

import numpy as np
import pytest

from openlance.errors import LanceError
from openlance.world.palette import COLOURS, THINGS
from openlance.world.render import box_of, render, render_clip
from openlance.world.sample import SceneOptions, sample_scene
from openlance.world.scene import Motion, Object, Scene, still
from openlance.world.sprites import sprite


@pytest.mark.parametrize(("height", "width"), [(64, 64), (128, 288), (272, 64), (256, 256)])
def test_every_rectangle_is_drawn_at_its_size(height: int, width: int) -> None:
    scene = sample_scene(random.Random(3), height, width, SceneOptions(ring=2, moving=True))
    assert render(scene, height, width).shape == (height, width, 3)
    clip = render_clip(scene, height, width, num_frames=5)
    assert clip.shape == (5, height, width, 3)
    assert clip.dtype == np.uint8


def test_the_first_frame_of_a_clip_is_the_picture_of_its_still() -> None:
    rng = random.Random(5)
    for _ in range(25):
        scene = sample_scene(rng, 128, 128, SceneOptions(ring=2, moving=True, events=0.5))
        assert np.array_equal(render_clip(scene, 128, 128, num_frames=3)[0], render(still(scene), 128, 128))


def test_fast_clips_equal_frames_drawn_one_by_one() -> None:
    """The clip keeps what does not act as one drawn layer; its slow twin draws every moment of every object anew."""
    from openlance.world.render import _frame

    rng = random.Random(9)
    for _ in range(12):
        scene = sample_scene(rng, 128, 128, SceneOptions(ring=2, moving=True, objects=(2, 3)))
        slow = np.stack([_frame(scene, 128, 128, i / 16, i / 8) for i in range(17)])
        assert np.array_equal(render_clip(scene, 128, 128), slow)


def test_shapes_have_exactly_the_contract_colours() -> None:
    for colour, rgb in COLOURS.items():
        scene = Scene(128, 128, "gray", (Object("square", colour, "solid", "large", 0.5, 0.5, 0.5),))
        pixels = render(scene, 128, 128)
        assert tuple(pixels[64, 64]) == rgb
        assert tuple(pixels[4, 4]) == (128, 128, 128)


def test_a_moving_object_moves_its_way() -> None:
    o = Object("circle", "red", "solid", "small", 0.25, 0.5, 0.38, Motion("right", 0.4))
    clip = render_clip(Scene(128, 128, "white", (o,)), 128, 128).astype(int)
    red = (clip[..., 0] > 200) & (clip[..., 1] < 100)
    middles = [np.nonzero(frame)[1].mean() for frame in red]
    assert np.all(np.diff(middles) > 0)
    assert middles[-1] - middles[0] == pytest.approx(0.4 * 128, abs=2)


def test_boxes_enclose_the_pixels() -> None:
    rng = random.Random(2)
    for _ in range(40):
        scene = sample_scene(rng, 256, 256, SceneOptions(ring=2, objects=(1, 1), background="black", textures=0.0))
        bright = np.abs(render(scene, 256, 256).astype(int) - 20).max(-1) > 40
        ys, xs = np.nonzero(bright)
        drawn = (xs.min() / 256, ys.min() / 256, (xs.max() + 1) / 256, (ys.max() + 1) / 256)
        # dark parts of a pictogram vanish on black, so its drawn box may be smaller, never larger
        left, top, right, bottom = box_of(scene.objects[0], scene)
        assert drawn[0] >= left - 0.02
        assert drawn[1] >= top - 0.02
        assert drawn[2] <= right + 0.02
        assert drawn[3] <= bottom + 0.02


def test_things_are_forty_different_pictures_and_tints_show() -> None:
    natural = [np.asarray(sprite(t, "natural", 32), np.float32) for t in THINGS]
    assert all(p[..., 3].mean() > 30 for p in natural)
    assert all(np.abs(a - b).mean() > 5 for i, a in enumerate(natural) for b in natural[i + 1 :])
    blue = np.asarray(sprite("cat", "blue", 32), np.float32)
    solid = blue[..., 3] > 200
    assert blue[solid][:, 2].mean() > blue[solid][:, 0].mean() + 60


def test_bad_sizes_are_refused() -> None:
    scene = sample_scene(random.Random(0), 128, 128)
    with pytest.raises(LanceError, match="multiples of 16"):
        render(scene, 100, 128)
    with pytest.raises(LanceError, match="num_frames=0"):
        render_clip(scene, 128, 128, num_frames=0)
