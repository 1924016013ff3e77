"""How much a picture or a video from outside may cost, checked before the cost is paid."""

from __future__ import annotations

import math
from dataclasses import dataclass

from openlance.errors import MediaError


@dataclass(frozen=True)
class MediaLimits:
    """Bounds on a source.

    bytes: size of the encoded source. pixels: H * W of a frame. frames: frames of a video, also of its constant-rate timeline.
    seconds: duration. decoded_bytes: size of the frames kept in memory, 3 F H W (with a sampler, only the sampled frames count).
    Every bound is checked against what the header claims and again against what decoding finds, because headers lie.
    """

    bytes: int = 512 * 2**20
    pixels: int = 64 * 2**20
    frames: int = 36_000
    seconds: float = 900.0
    decoded_bytes: int = 2 * 2**30

    def check_bytes(self, size: int, name: str) -> None:
        if size == 0:
            raise MediaError(f"{name} is empty (0 bytes): give an image or a video")
        if size > self.bytes:
            raise MediaError(f"{name} has {size} bytes, the limit is {self.bytes}: {_remedy('shrink it', 'bytes')}")

    def check_size(self, width: int, height: int, name: str) -> None:
        if width < 1 or height < 1:
            raise MediaError(f"{name} has frames of {width}x{height} pixels: give frames of at least 1x1")
        if width * height > self.pixels:
            remedy = _remedy("scale it down", "pixels")
            raise MediaError(f"{name} has {width}x{height} = {width * height} pixels a frame, the limit is {self.pixels}: {remedy}")

    def check_frames(self, count: int, name: str) -> None:
        if count > self.frames:
            raise MediaError(f"{name} has {count} frames or more, the limit is {self.frames}: {_remedy('cut it', 'frames')}")

    def check_seconds(self, seconds: float, name: str) -> None:
        if not math.isfinite(seconds) or seconds > self.seconds:
            raise MediaError(f"{name} lasts {seconds:.1f} s, the limit is {self.seconds:g} s: {_remedy('cut it', 'seconds')}")

    def check_decoded(self, frames: int, width: int, height: int, name: str) -> None:
        size = 3 * frames * width * height
        if size > self.decoded_bytes:
            raise MediaError(
                f"{frames} frames of {width}x{height} of {name} take {size} bytes, the limit is {self.decoded_bytes}: "
                + _remedy("read it with a sampler, cut it or scale it down", "decoded_bytes")
            )


def _remedy(action: str, field: str) -> str:
    return f"{action}, or raise MediaLimits({field}=...)"
