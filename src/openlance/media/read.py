"""From what a caller has (a path, bytes, a file object, pictures, arrays) to a `Clip`. The content decides what it is, not the name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard, cast

from openlance.errors import MediaError
from openlance.media.clip import IMAGE_FPS, Clip
from openlance.media.limits import MediaLimits
from openlance.media.picture import is_animated, open_picture, read_animation, read_still, rgb_array
from openlance.media.sample import Sampler, Timeline
from openlance.media.source import Encoded, open_source
from openlance.media.video import read_stream

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    Source: TypeAlias = Encoded | Clip | Image | NDArray[Any] | Sequence[Image | NDArray[Any]]

DEFAULT_FPS = 24.0
"""Rate of arrays and lists of pictures, which carry none."""


def read_image(source: Source, *, limits: MediaLimits | None = None) -> Clip:
    """One picture as a Clip of one frame; of an animated image its first frame.

    source: a path, bytes, a binary file object, a Pillow image, a uint8 array (H, W[, 1|3|4]) or (1, H, W, 3), a Clip of one frame, or a
    list of one picture. Transparency is composited on white, EXIF orientation applied, 16 bits rounded to 8, CMYK and palettes made RGB.
    Raises MediaError for videos, damaged or unknown data, and sources beyond `limits`.
    """
    limits = limits or MediaLimits()
    if _is_picture(source):
        return read_still(source, limits, "the given image")
    clip = _from_memory(source, DEFAULT_FPS)
    if clip is not None:
        if not clip.is_image:
            raise MediaError(f"one image is wanted and {clip.num_frames} frames were given: pass one of them, or use read_video()")
        return Clip(clip.frames, IMAGE_FPS)
    with open_source(cast("Encoded", source), limits) as opened:
        if opened.kind == "video":
            raise MediaError(f"{opened.name} is a video and an image is wanted: use read_video() or read_media()")
        with open_picture(opened.file, limits, opened.name) as image:
            return read_still(image, limits, opened.name)


def read_video(source: Source, *, sampler: Sampler | None = None, fps: float = DEFAULT_FPS, limits: MediaLimits | None = None) -> Clip:
    """As `read_media`, for a video or an animated image only.

    Raises MediaError as `read_media`, and for a file or Pillow image that is a still picture.
    """
    return _read(source, sampler, fps, limits or MediaLimits(), stills=False)


def read_media(source: Source, *, sampler: Sampler | None = None, fps: float = DEFAULT_FPS, limits: MediaLimits | None = None) -> Clip:
    """Whatever it is: a still picture as one frame, a video or an animated image as frames at a constant rate.

    source: as in `read_image`, also a video, a uint8 array (F, H, W, 3), or a list of pictures of one size. sampler: chooses the frames to
    keep (`sample_frame_indices` for those the model looks at); only these are held in memory, and their rate is such that the duration
    stays. fps: rate of arrays and lists, which carry none. A varying frame rate is made constant (see `timeline`).
    Raises MediaError for damaged, cut, empty, audio-only or unknown data, and sources beyond `limits`.
    """
    return _read(source, sampler, fps, limits or MediaLimits(), stills=True)


def _read(source: Source, sampler: Sampler | None, fps: float, limits: MediaLimits, *, stills: bool) -> Clip:
    if _is_picture(source):
        return _read_picture(source, sampler, limits, "the given image", stills=stills)
    clip = _from_memory(source, fps)
    if clip is not None:
        view = Timeline(list(range(clip.num_frames)), clip.fps).pick(sampler)
        return clip if sampler is None else Clip(clip.frames[view.indices], view.fps)
    with open_source(cast("Encoded", source), limits) as opened:
        if opened.kind == "video":
            return read_stream(opened.file, sampler, limits, opened.name)
        with open_picture(opened.file, limits, opened.name) as image:
            return _read_picture(image, sampler, limits, opened.name, stills=stills)


def _read_picture(image: Image, sampler: Sampler | None, limits: MediaLimits, name: str, *, stills: bool) -> Clip:
    if is_animated(image):
        return read_animation(image, sampler, limits, name)
    if not stills:
        raise MediaError(f"{name} is a still image and a video is wanted: use read_image() or read_media()")
    return read_still(image, limits, name)


def _is_picture(source: Source) -> TypeGuard[Image]:
    from PIL.Image import Image

    return isinstance(source, Image)


def _from_memory(source: Source, fps: float) -> Clip | None:
    """The clip that `source` already is, or None when it is to be opened and decoded. Raises MediaError for a list of unlike pictures."""
    import numpy as np

    if isinstance(source, Clip):
        return source
    if isinstance(source, np.ndarray):
        return Clip(source, IMAGE_FPS if source.shape[0] == 1 else fps) if source.ndim == 4 else Clip.from_image(source)
    if not isinstance(source, (list, tuple)):
        return None
    if not source:
        raise MediaError("an empty list of pictures was given: a video needs at least one frame")
    frames = [rgb_array(picture) for picture in source]
    sizes = sorted({frame.shape[1::-1] for frame in frames})
    if len(sizes) > 1:
        named = ", ".join(f"{width}x{height}" for width, height in sizes[:4])
        raise MediaError(f"the pictures of a video must have one size, these have {named}: resize them first")
    return Clip(np.stack(frames), IMAGE_FPS if len(frames) == 1 else fps)
