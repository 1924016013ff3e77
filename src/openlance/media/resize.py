"""Frames of any size -> the sizes the models take. All functions map uint8 (F, H, W, 3) to uint8 (F, H', W', 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from openlance.errors import MediaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BUCKET_MULTIPLE = 16
ASPECT_RATIOS = ((21, 9), (16, 9), (4, 3), (1, 1), (3, 4), (9, 16))
"""Width to height of the buckets, in their order."""


@dataclass(frozen=True)
class Preset:
    """Bucket resolutions (the side of the square bucket, in pixels) of the two streams of the released model."""

    vae_resolution: int
    vit_resolution: int


PRESETS = {
    "image_256res": Preset(256, 224),
    "image_512res": Preset(512, 448),
    "image_768res": Preset(768, 672),
    "video_192p": Preset(256, 224),
    "video_360p": Preset(480, 476),
    "video_480p": Preset(640, 616),
}


@lru_cache(maxsize=64)
def buckets(resolution: int) -> tuple[tuple[int, int], ...]:
    """(h, w) of the six buckets of about resolution^2 pixels, sides multiples of 16, in the order of `ASPECT_RATIOS`.

    Each side comes from rounding either the width first or the height first: the smaller error of the ratio wins, then that of the area.
    Raises MediaError for a resolution below 16.
    """
    if resolution < BUCKET_MULTIPLE:
        raise MediaError(f"a bucket resolution of {resolution} is below {BUCKET_MULTIPLE}: use one of PRESETS or a larger number")
    found = []
    for wide, high in ASPECT_RATIOS:
        ratio = wide / high
        width_first = _round_side(resolution * math.sqrt(ratio))
        height_first = _round_side(resolution / math.sqrt(ratio))
        candidates = ((_round_side(width_first / ratio), width_first), (height_first, _round_side(height_first * ratio)))
        found.append(min(candidates, key=lambda side: (abs(side[1] / side[0] - ratio), abs(side[0] * side[1] - resolution**2))))
    return tuple(found)


def _round_side(side: float) -> int:
    return max(1, round(side / BUCKET_MULTIPLE)) * BUCKET_MULTIPLE


def nearest_bucket(height: int, width: int, resolution: int) -> tuple[int, int]:
    """(h, w) of the bucket whose ratio w/h is nearest to that of the given size."""
    return min(buckets(resolution), key=lambda bucket: abs(bucket[1] / bucket[0] - width / height))


def crop_box(height: int, width: int, target_height: int, target_width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the largest centred box with the target's ratio, rounded to pixels.

    The full width is tried first, so that a box less than half a pixel too high still keeps all of the picture.
    """
    ratio = target_width / target_height
    box_height, box_width = max(1, round(width / ratio)), width
    if box_height > height:
        box_height, box_width = height, max(1, round(height * ratio))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def crop_and_resize(frames: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """Centre-crop to the ratio of height x width, then resize to it (Pillow bicubic; small frames are enlarged)."""
    import numpy as np
    from PIL import Image

    _check_frames(frames)
    top, left, box_height, box_width = crop_box(frames.shape[1], frames.shape[2], height, width)
    cropped = frames[:, top : top + box_height, left : left + box_width]
    if (box_height, box_width) == (height, width):
        return np.ascontiguousarray(cropped)
    resized = np.empty((len(frames), height, width, 3), np.uint8)
    for index, frame in enumerate(cropped):
        image = Image.fromarray(np.ascontiguousarray(frame))
        resized[index] = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
    return resized


def resize_to_bucket(frames: NDArray[np.uint8], resolution: int) -> NDArray[np.uint8]:
    """Frames cropped and resized to their nearest bucket. This is the preprocessing of both streams of the released model."""
    _check_frames(frames)
    return crop_and_resize(frames, *nearest_bucket(frames.shape[1], frames.shape[2], resolution))


def crop_to_multiple(frames: NDArray[np.uint8], multiple: int) -> NDArray[np.uint8]:
    """Centre-crop to sides that are multiples of `multiple` (28 for the ViT). Raises MediaError when a side is shorter than that."""
    import numpy as np

    _check_frames(frames)
    _, height, width, _ = frames.shape
    if min(height, width) < multiple:
        raise MediaError(f"frames of {width}x{height} are smaller than {multiple}x{multiple}: choose a larger resolution")
    new_height, new_width = height // multiple * multiple, width // multiple * multiple
    top, left = (height - new_height) // 2, (width - new_width) // 2
    return np.ascontiguousarray(frames[:, top : top + new_height, left : left + new_width])


@lru_cache(maxsize=1024)
def nearest_size(height: int, width: int, multiple: int, min_side: int, max_side: int, max_area: int | None = None) -> tuple[int, int]:
    """(h, w), multiples of `multiple` in min_side..max_side with h * w <= max_area, that distort and scale a picture the least.

    The wish is the given size, scaled (ratio kept) into the bounds where it is outside. Of all allowed sizes the one with the least
    4 * (log of the ratio's error)^2 + (log of the area's error)^2 is taken: a wrong ratio costs pixels at the border, a wrong area
    only detail.
    A size that is allowed already stays. Raises MediaError when no size is allowed.
    """
    if min(height, width, multiple) < 1:
        raise MediaError(f"sizes must be at least 1: got {width}x{height} with multiple {multiple}")
    low, high = -(-max(min_side, 1) // multiple) * multiple, max_side // multiple * multiple
    area = high * high if max_area is None else max_area
    if high < low or low * low > area:
        raise MediaError(f"no multiple of {multiple} has sides in {min_side}..{max_side} and at most {max_area} pixels: widen the bounds")
    scale = min(1.0, high / max(height, width), math.sqrt(area / (height * width)))
    scale = max(scale, low / min(height, width)) if scale == 1.0 else scale
    wished_height, wished_width = height * scale, width * scale
    ratio = width / height

    def cost(size: tuple[int, int]) -> float:
        return 4 * math.log(size[1] / size[0] / ratio) ** 2 + math.log(size[0] * size[1] / (wished_height * wished_width)) ** 2

    sides = range(low, high + 1, multiple)
    allowed = [(h, w) for h in sides for w in sides if h * w <= area]
    return min(allowed, key=cost)


def resize_to_multiple(
    frames: NDArray[np.uint8], multiple: int, min_side: int, max_side: int, max_area: int | None = None
) -> NDArray[np.uint8]:
    """Frames cropped and resized to their `nearest_size`: for models that take any size on a grid. Raises MediaError."""
    _check_frames(frames)
    return crop_and_resize(frames, *nearest_size(frames.shape[1], frames.shape[2], multiple, min_side, max_side, max_area))


def _check_frames(frames: NDArray[np.uint8]) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape or frames.dtype != "uint8":
        raise MediaError(f"frames must be uint8 (F, H, W, 3) with no empty side, not {frames.dtype} {frames.shape}")
