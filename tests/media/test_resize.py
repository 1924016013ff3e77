"""Buckets, crops and grids: the golden numbers of the released preprocessing, and laws for every size."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openlance.errors import MediaError
from openlance.media import (
    PRESETS,
    buckets,
    crop_and_resize,
    crop_to_multiple,
    nearest_bucket,
    nearest_size,
    read_image,
    resize_to_bucket,
    resize_to_multiple,
    sample_frame_indices,
)
from openlance.media.resize import ASPECT_RATIOS, crop_box


def test_presets_equal_the_reference(golden):
    listed = golden("transforms")["presets"]
    assert set(listed) == set(PRESETS)
    for name, numbers in listed.items():
        preset = PRESETS[name]
        assert (preset.vae_resolution, preset.vit_resolution) == (numbers["vae_resolution"], numbers["vit_resolution"])
        assert [list(bucket) for bucket in buckets(preset.vae_resolution)] == numbers["vae_buckets_hw"]
        assert [list(bucket) for bucket in buckets(preset.vit_resolution)] == numbers["vit_buckets_hw_before_crop"]
        cropped = [list(crop_to_multiple(np.zeros((1, *bucket, 3), np.uint8), 28).shape[1:3]) for bucket in buckets(preset.vit_resolution)]
        assert cropped == numbers["vit_hw_after_crop28"]
    assert [f"{wide}:{high}" for wide, high in ASPECT_RATIOS] == listed["image_256res"]["aspect_ratios_w_h"]


def test_bucket_and_crop_of_many_sizes_equal_the_reference(golden):
    rows = golden("transforms")["bucket_choice_256"]
    assert len(rows) >= 50
    for row in rows:
        bucket = nearest_bucket(row["h"], row["w"], 256)
        assert [list(bucket), list(crop_box(row["h"], row["w"], *bucket))] == [row["bucket_hw"], row["crop_top_left_h_w"]], row


@pytest.mark.parametrize("index", range(4))
def test_pixels_of_both_streams_equal_the_reference(golden, index):
    case = golden("transforms")
    frames = case.tensor(f"in.{index}").numpy()
    np.testing.assert_array_equal(resize_to_bucket(frames, 256), case.tensor(f"vae_u8.{index}").numpy())
    np.testing.assert_array_equal(crop_to_multiple(resize_to_bucket(frames, 224), 28), case.tensor(f"vit_u8.{index}").numpy())


@pytest.mark.parametrize("kind", ["rgba", "gray"])
def test_transparent_and_grey_images_equal_the_reference(golden, kind):
    case = golden("transforms")
    ours = resize_to_bucket(read_image(case.tensor(f"{kind}.in").numpy()).frames, 96)
    theirs = case.tensor(f"{kind}.vae96")[:, 0].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(ours[0], np.round((theirs + 1) / 2 * 255).astype(np.uint8))


CASES = ["i2v", "image_edit", "image_edit_two_sources", "image_idip", "video_edit", "x2t_caption_string", "x2t_image", "x2t_video"]


@pytest.mark.usefixtures("full_golden")
@pytest.mark.parametrize("name", CASES)
def test_raw_media_of_the_tasks_become_the_reference_frames(golden, golden_media, name):
    case = golden(name)
    sources = [golden_media[key].numpy() for key in case["raw_media"].values()]
    checked = 0
    for key, tensor in case.tensors.items():
        if "_u8" not in key:
            continue
        source = sources[0] if key == "vae.first_frame_u8" else sources[int(key.rsplit(".", 1)[1])]
        frames = source[None] if source.ndim == 3 else source[sample_frame_indices(len(source), 24)]
        if key.startswith("vit"):
            ours = crop_to_multiple(resize_to_bucket(frames, case["vit_resolution"]), 28)
            if len(ours) > 1 and len(ours) % 2:  # the vision encoder repeats the last frame of an odd video
                ours = np.concatenate([ours, ours[-1:]])
        else:
            ours = resize_to_bucket(frames, case["vae_resolution"])
        np.testing.assert_array_equal(ours, tensor.numpy(), err_msg=key)
        checked += 1
    assert checked


@given(st.integers(16, 2048))
def test_buckets_are_on_the_grid_and_near_their_ratio_and_area(resolution):
    for (wide, high), (height, width) in zip(ASPECT_RATIOS, buckets(resolution), strict=True):
        assert height % 16 == width % 16 == 0
        assert height >= 16
        assert width >= 16
        short = resolution / math.sqrt(max(wide, high) / min(wide, high))
        # Each side is within one rounding (8 pixels, stretched by the ratio) of the exact one.
        slack = 8 * (1 + max(wide, high) / min(wide, high)) / short
        assert abs(math.log(width / height * high / wide)) <= 2 * slack
        assert abs(math.log(height * width / resolution**2)) <= 3 * slack + 1e-9 or resolution < 32


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 60), st.integers(1, 60))
def test_crop_box_is_inside_centred_and_the_largest(height, width, target_height, target_width):
    top, left, box_height, box_width = crop_box(height, width, target_height, target_width)
    assert top >= 0
    assert left >= 0
    assert 1 <= box_height <= height
    assert 1 <= box_width <= width
    assert box_height == height or box_width == width
    assert 0 <= (height - box_height) - 2 * top <= 1
    assert 0 <= (width - box_width) - 2 * left <= 1
    ratio = target_width / target_height
    assert abs(box_width - box_height * ratio) <= 0.5 * max(1, ratio) + max(1, ratio) * 0.5 or 1 in (box_height, box_width)


def test_pixels_outside_the_crop_do_not_leak_in():
    frames = np.zeros((1, 30, 90, 3), np.uint8)
    frames[:, :, 30:60] = 255
    assert crop_and_resize(frames, 64, 64).min() == 255


def test_frames_already_of_the_size_are_untouched():
    frames = np.random.default_rng(0).integers(0, 256, (3, 96, 96, 3), np.uint8)
    np.testing.assert_array_equal(resize_to_bucket(frames, 96), frames)
    np.testing.assert_array_equal(resize_to_multiple(frames, 16, 64, 288), frames)


def test_resizing_a_clip_is_resizing_each_frame_with_pillow():
    frames = np.random.default_rng(1).integers(0, 256, (3, 50, 80, 3), np.uint8)
    one_by_one = [np.asarray(Image.fromarray(frame).resize((160, 100), Image.Resampling.BICUBIC)) for frame in frames]
    np.testing.assert_array_equal(crop_and_resize(frames, 100, 160), np.stack(one_by_one))


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 1), (3, 2)])
def test_tiny_and_extreme_sizes_have_a_bucket(size):
    resized = resize_to_bucket(np.full((1, *size, 3), 7, np.uint8), 64)
    assert resized.shape[1:3] in buckets(64)
    assert (resized == 7).all()


SIDES = st.integers(1, 5000)


@given(SIDES, SIDES)
def test_grid_size_is_allowed_and_turns_with_the_picture(height, width):
    found = nearest_size(height, width, 16, 64, 288, 288 * 256)
    assert all(side % 16 == 0 and 64 <= side <= 288 for side in found)
    assert found[0] * found[1] <= 288 * 256
    turned = nearest_size(width, height, 16, 64, 288, 288 * 256)
    assert sorted(turned) == sorted(found)


@given(st.integers(4, 18), st.integers(4, 18))
def test_allowed_grid_sizes_stay(rows, columns):
    assert nearest_size(16 * rows, 16 * columns, 16, 64, 288) == (16 * rows, 16 * columns)


@given(st.integers(64, 288), st.integers(64, 288))
def test_grid_size_is_within_a_step_of_a_size_inside_the_bounds(height, width):
    found = nearest_size(height, width, 16, 64, 288)
    assert abs(found[0] - height) < 2 * 16
    assert abs(found[1] - width) < 2 * 16


@given(SIDES, SIDES)
def test_no_grid_size_of_the_same_area_has_a_better_ratio(height, width):
    found = nearest_size(height, width, 16, 64, 288)
    error = abs(math.log(found[1] / found[0] * height / width))
    for other_height in range(64, 289, 16):
        for other_width in range(64, 289, 16):
            if other_height * other_width == found[0] * found[1]:
                assert abs(math.log(other_width / other_height * height / width)) >= error - 1e-12


def test_what_cannot_be_sized_says_why():
    frame = np.zeros((1, 20, 40, 3), np.uint8)
    with pytest.raises(MediaError, match=r"40x20 are smaller than 28x28.*larger resolution"):
        crop_to_multiple(frame, 28)
    with pytest.raises(MediaError, match=r"multiple of 16 has sides in 50\.\.60"):
        resize_to_multiple(frame, 16, 50, 60)
    with pytest.raises(MediaError, match="at most 1000 pixels"):
        nearest_size(10, 10, 16, 64, 288, 1000)
    with pytest.raises(MediaError, match="resolution of 8 is below 16"):
        buckets(8)
    with pytest.raises(MediaError, match="uint8"):
        resize_to_bucket(frame.astype(np.float32), 64)  # type: ignore[arg-type]
