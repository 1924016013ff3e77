"""A clip -> the bytes of a file: png, jpeg, webp, gif or mp4. Everything is encoded in memory, so that a failure leaves nothing behind."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import IO, TYPE_CHECKING, Any

from openlance.errors import MediaError
from openlance.media.clip import Clip

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_FORMATS = ("png", "jpeg", "webp")
VIDEO_FORMATS = ("mp4", "gif", "webp")
PNG_LEVEL = 4
"""At least 2.5 times as fast as the usual 6, files 1 to 4 % longer (pictures of 128 and 256 px of the embedded model, LOG.md)."""


def encode(clip: Clip, format: str) -> bytes:
    """The clip as a file in `format`: png, jpeg (jpg) for one frame; mp4, gif for one or more; webp for either.

    mp4 is H.264 yuv420p with BT.709 colours, an index at the start, no audio: every browser plays it. 4:2:0 needs even sides: an odd one
    repeats its last row or column. gif has 256 colours a frame and times in steps of 10 ms. png is exact.
    Raises MediaError for an unknown format, a video as png or jpeg, and sizes that the format cannot hold.
    """
    name = {"jpg": "jpeg"}.get(format.lower().lstrip("."), format.lower().lstrip("."))
    if name not in _ENCODERS:
        raise MediaError(f"unknown format '{format}': use {', '.join(sorted(_ENCODERS))}")
    if not clip.is_image and name not in VIDEO_FORMATS:
        raise MediaError(f"a clip of {clip.num_frames} frames cannot be a {name}: use {', '.join(VIDEO_FORMATS)}, or save clip.image(i)")
    try:
        return _ENCODERS[name](clip)
    except MediaError:
        raise
    except Exception as error:  # encoders raise OSError, ValueError or their own errors for sizes they cannot hold
        raise MediaError(f"{clip!r} cannot be encoded as {name} ({error}): use another size or format") from error


def _png(clip: Clip) -> bytes:
    return _save_picture(clip, "PNG", compress_level=PNG_LEVEL)


def _jpeg(clip: Clip) -> bytes:
    return _save_picture(clip, "JPEG", quality=95, subsampling=0)


def _webp(clip: Clip) -> bytes:
    if clip.is_image:
        return _save_picture(clip, "WEBP", quality=95)
    return _save_animation(clip, "WEBP", frame_milliseconds(clip, 1), quality=90)


def _gif(clip: Clip) -> bytes:
    if clip.is_image:
        return _save_picture(clip, "GIF")
    return _save_animation(clip, "GIF", frame_milliseconds(clip, 10), disposal=1)


def _save_picture(clip: Clip, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    clip.image().save(file, format, **options)
    return file.getvalue()


def _save_animation(clip: Clip, format: str, durations: list[int], **options: Any) -> bytes:
    file = io.BytesIO()
    later = [clip.image(index) for index in range(1, clip.num_frames)]
    clip.image(0).save(file, format, save_all=True, append_images=later, duration=durations, loop=0, **options)
    return file.getvalue()


def frame_milliseconds(clip: Clip, step: int) -> list[int]:
    """Duration of each frame in whole steps of `step` ms without drift; a gif frame lasts 20 ms at least, since players slow down below."""
    marks = [round(index * 1000 / clip.fps / step) * step for index in range(clip.num_frames + 1)]
    least = 20 if step == 10 else 1
    return [max(stop - start, least) for start, stop in itertools.pairwise(marks)]


def _mp4(clip: Clip) -> bytes:
    import av
    from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

    file = _NamedBuffer()
    frames = even_sides(clip.frames)
    rate = Fraction(clip.fps).limit_denominator(1001)
    if rate <= 0:
        raise MediaError(f"{clip.fps} frames per second is too slow for mp4: use at least 0.001")
    with av.open(file, "w", format="mp4", options={"movflags": "faststart"}, io_open=file.reopen) as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "16", "preset": "medium"})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.colorspace = Colorspace.ITU709
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.color_primaries = ColorPrimaries.BT709
        stream.codec_context.color_trc = ColorTrc.BT709
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file.getvalue()


class _NamedBuffer(io.BytesIO):
    """The muxer moves the index to the start by opening its own output again to read: hand it a copy of what is written so far."""

    name = "clip.mp4"

    def reopen(self, url: str, flags: int, options: dict[str, str]) -> IO[bytes]:
        return io.BytesIO(self.getvalue())


def even_sides(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames whose odd height or width is made even by repeating the last row or column."""
    import numpy as np

    _, height, width, _ = frames.shape
    return np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge") if height % 2 or width % 2 else frames


_ENCODERS: dict[str, Callable[[Clip], bytes]] = {"png": _png, "jpeg": _jpeg, "webp": _webp, "gif": _gif, "mp4": _mp4}
