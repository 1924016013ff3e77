"""Pictures and videos made for the media tests; videos of any container and clock through PyAV."""

import io
import struct
from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray


def movie(num_frames: int = 17, height: int = 64, width: int = 96) -> NDArray[np.uint8]:
    """A grey disc that crosses a smooth gradient from left to right; its centre tells which frame it is."""
    y, x = np.mgrid[:height, :width].astype(float)
    frames = np.empty((num_frames, height, width, 3), np.uint8)
    for index in range(num_frames):
        centre = width * (0.2 + 0.6 * index / max(1, num_frames - 1))
        frames[index] = np.stack([60 + 130 * x / width, 60 + 130 * y / height, 100 + 0 * x], -1)
        frames[index][np.hypot(x - centre, y - height / 2) < height / 6] = 230
    return frames


def disc_position(frame: NDArray[np.uint8]) -> float:
    """Mean column of the bright pixels over the width: 0.2 in the first frame of `movie`, 0.8 in the last one."""
    return float(np.nonzero(frame.min(-1) > 200)[1].mean() / frame.shape[1])


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b) ** 2)))


def mux(frames: NDArray[np.uint8], container: str, codec: str = "libx264", rate: int = 24, milliseconds: list[int] | None = None) -> bytes:
    """A video file; `milliseconds` gives the start of each frame for a varying rate."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        if milliseconds:
            stream.codec_context.time_base = Fraction(1, 1000)
        for index, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format=stream.pix_fmt)
            if milliseconds:
                frame.pts, frame.time_base = milliseconds[index], Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def sound_only() -> bytes:
    """An MP4 with an AAC track and no pictures."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 44100
        output.mux(stream.encode(frame))
        output.mux(stream.encode())
    return file.getvalue()


def video_without_frames() -> bytes:
    """A Matroska file that declares a video stream and ends there."""
    whole = mux(movie(2), "matroska")
    return whole[: whole.index(b"\x1f\x43\xb6\x75")]  # the first cluster


def patched(data: bytes, box: bytes, offset: int, *values: int) -> bytes:
    """An MP4 with 32-bit big-endian `values` written `offset` bytes after the (last) box type `box`."""
    place = data.rindex(box) + 4 + offset
    new = struct.pack(f">{len(values)}I", *(value % 2**32 for value in values))
    return data[:place] + new + data[place + len(new) :]
