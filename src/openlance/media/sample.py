"""Which frames of a video the model looks at, and a constant-rate timeline for videos whose rate varies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from openlance.errors import MediaError
from openlance.media.limits import MediaLimits

Sampler: TypeAlias = Callable[[int, float], Sequence[int]]
"""(number of frames, frames per second) -> indices of the frames to keep, in the order wanted."""

SAMPLED_SECONDS = 6
SAMPLED_FPS = 12


def sample_frame_indices(total: int, fps: float) -> list[int]:
    """Indices of the frames shown to the model: 4k + 1 of them, evenly spread from the first to the last frame, at most 69.

    The count follows 12 frames for each of the first 6 seconds, with fps rounded to an integer; a slow video repeats frames.
    A video of one frame gives [0]. Raises MediaError for total < 1 or an fps that is not finite and positive.
    Source: the released model's sampler (its own one fails on one frame).
    """
    if total < 1:
        raise MediaError(f"cannot sample from {total} frames: give a video of at least one")
    if not (math.isfinite(fps) and fps > 0):
        raise MediaError(f"fps must be finite and above 0, not {fps}")
    if total == 1:
        return [0]
    wanted = round(min(total / max(round(fps), 1), SAMPLED_SECONDS) * SAMPLED_FPS)
    count = wanted // 4 * 4 + (1 if wanted % 4 else -3)
    return spread(total, max(count, 1))


def spread(total: int, count: int) -> list[int]:
    """`count` indices from 0 to total - 1, evenly spaced and truncated to integers; [0] when count is 1."""
    if count == 1:
        return [0]
    step = (total - 1) / (count - 1)
    return [int(index * step) for index in range(count - 1)] + [total - 1]


@dataclass(frozen=True)
class Timeline:
    """A constant-rate view of a source: shown frame k is source frame indices[k]."""

    indices: list[int]
    fps: float

    def pick(self, sampler: Sampler | None) -> Timeline:
        """What `sampler` keeps (all when None), at the rate that leaves the duration as it is.

        Raises MediaError when the sampler asks for no frame or for one that is not there.
        """
        if sampler is None:
            return self
        total = len(self.indices)
        chosen = [int(index) for index in sampler(total, self.fps)]
        wrong = [index for index in chosen if not 0 <= index < total]
        if wrong or not chosen:
            raise MediaError(f"the sampler asked for frames {wrong or 'none'} of a video of {total}: return indices in 0..{total - 1}")
        return Timeline([self.indices[index] for index in chosen], len(chosen) / total * self.fps)

    def places(self) -> dict[int, list[int]]:
        """Source frame -> every place where it is shown, in the order of the source."""
        places: dict[int, list[int]] = {}
        for place, index in sorted(enumerate(self.indices), key=lambda pair: pair[1]):
            places.setdefault(index, []).append(place)
        return places


def timeline(starts: Sequence[float], end: float, nominal_fps: float | None, limits: MediaLimits, name: str) -> Timeline:
    """Constant-rate timeline of source frames that start at `starts` (seconds, ascending, at least one), the last one ending at `end`.

    A source of constant rate keeps its frames one to one, whatever its clock rounds to. Otherwise frames are repeated or left out so that
    each shown frame is the one on screen in the middle of its slot. Raises MediaError when the timeline exceeds `limits`.
    """
    count = len(starts)
    limits.check_frames(count, name)
    limits.check_seconds(end - starts[0], name)
    ends = [*starts[1:], end]
    gaps = [stop - start for start, stop in zip(starts, ends, strict=True)]
    typical = sorted(gaps)[count // 2]
    usual = [gap for gap in gaps if 0.5 * typical < gap < 1.5 * typical]
    if count == 1 or not usual:
        rate = nominal_fps or (1 / gaps[0] if gaps[0] > 0 else 1.0)
        return Timeline(list(range(count)), rate)
    rate = len(usual) / sum(usual)
    if len(usual) == count:
        close = nominal_fps is not None and abs(nominal_fps / rate - 1) < 0.05
        return Timeline(list(range(count)), nominal_fps if close and nominal_fps else rate)
    total = max(1, round((end - starts[0]) * rate))
    limits.check_frames(total, name)
    indices: list[int] = []
    current = 0
    for slot in range(total):
        middle = starts[0] + (slot + 0.5) / rate
        while current + 1 < count and starts[current + 1] <= middle:
            current += 1
        indices.append(current)
    return Timeline(indices, rate)
