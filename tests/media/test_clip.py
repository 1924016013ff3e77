"""The type that carries pixels."""

import base64
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from openlance.errors import MediaError
from openlance.media import IMAGE_FPS, Clip, read_video
from tests.media.samples import movie


def test_a_clip_knows_its_sizes_and_keeps_the_array():
    frames = movie(6, 20, 30)
    clip = Clip(frames, 12)
    assert clip.frames is frames
    assert (clip.num_frames, clip.height, clip.width, clip.fps, clip.duration, clip.is_image) == (6, 20, 30, 12.0, 0.5, False)
    assert repr(clip) == "Clip(6 frames 30x20, 12 fps, 0.50 s)"
    np.testing.assert_array_equal(np.asarray(clip.image(-1)), frames[5])
    assert Clip(frames[:, ::2, ::-1], 1).frames.flags.c_contiguous


def test_an_image_is_a_clip_of_one_frame():
    pixels = movie(1, 20, 30)[0]
    for image in (pixels, Image.fromarray(pixels)):
        clip = Clip.from_image(image)
        assert clip.is_image
        assert clip.fps == IMAGE_FPS
        np.testing.assert_array_equal(clip.frames, pixels[None])
    assert repr(clip) == "Clip(image 30x20)"


@pytest.mark.parametrize(
    ("frames", "fps", "message"),
    [
        (np.zeros((2, 4, 4, 3)), 24, "uint8 in 0..255, not float64"),
        (np.zeros((4, 4, 3), np.uint8), 24, r"\(F, H, W, 3\).*\(4, 4, 3\)"),
        (np.zeros((0, 4, 4, 3), np.uint8), 24, "no empty side"),
        (np.zeros((1, 4, 4, 4), np.uint8), 24, r"\(1, 4, 4, 4\)"),
        ([[1]], 24, "not list"),
        (np.zeros((1, 4, 4, 3), np.uint8), 0, "finite and above 0, not 0"),
        (np.zeros((1, 4, 4, 3), np.uint8), float("nan"), "finite"),
        (np.zeros((1, 4, 4, 3), np.uint8), "fast", "must be a number, not 'fast'"),
    ],
)
def test_anything_else_is_refused(frames, fps, message):
    with pytest.raises(MediaError, match=message):
        Clip(frames, fps)


def test_a_frame_that_is_not_there():
    with pytest.raises(MediaError, match=r"no frame 3: the clip has 3 frame"):
        Clip(movie(3, 8, 8), 24).image(3)


def test_notebooks_show_images_as_images_and_videos_as_looping_players():
    image, video = Clip.from_image(movie(1, 8, 8)[0]), Clip(movie(5, 16, 16), 24)
    assert image._repr_png_().startswith(b"\x89PNG")
    assert image._repr_html_() is None
    assert video._repr_png_() is None
    html = video._repr_html_()
    assert " loop " in html
    shown = read_video(base64.b64decode(html.split("base64,")[1].split('"')[0]))
    assert shown.num_frames == 5


def test_importing_the_package_loads_no_heavy_library():
    code = "import sys, openlance.media; print([name for name in ('numpy', 'PIL', 'av', 'torch') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
