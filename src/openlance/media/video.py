"""Videos through PyAV: count first, decode once, hold only the frames that are wanted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from openlance.errors import MediaError
from openlance.media.clip import Clip
from openlance.media.limits import MediaLimits
from openlance.media.picture import damage_as_media_error
from openlance.media.sample import Sampler, Timeline, timeline

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONTAINERS = "mov,mp4,matroska,webm,avi,flv,mpeg,mpegts,mpegvideo,ogg,asf"
"""The only demuxers that may be tried: playlists and image sequences could name other files."""


@dataclass(frozen=True)
class Stream:
    """What the packets of a video stream say: when each shown frame starts and the last one ends (seconds), the nominal rate."""

    starts: list[float]
    end: float
    fps: float | None

    def timeline(self, limits: MediaLimits, name: str) -> Timeline:
        return timeline(self.starts, self.end, self.fps, limits, name)


def read_stream(file: IO[bytes], sampler: Sampler | None, limits: MediaLimits, name: str) -> Clip:
    """All frames, or those `sampler` keeps, of the first video stream, turned upright when the file says how.

    The frame rate is constant: a varying one goes through `timeline`. Raises MediaError.
    """
    with damage_as_media_error(name):
        stream = _scan(file, limits, name)
        view = stream.timeline(limits, name).pick(sampler)
        frames, shown = _decode(file, view, limits, name)
        if frames is None and shown:
            # Some codecs have packets that show no frame: now that the true frames are known, choose again.
            view = Stream(shown, max(stream.end, shown[-1]), stream.fps).timeline(limits, name).pick(sampler)
            frames, _ = _decode(file, view, limits, name)
        if frames is None:
            raise MediaError(f"no frame of {name} can be decoded out of {len(stream.starts)}: export or download it again")
        return Clip(frames, view.fps)


@contextmanager
def _open(file: IO[bytes], limits: MediaLimits, name: str, **options: str) -> Iterator[tuple[Any, Any]]:
    """(container, video stream) from position 0, both checked against what the header claims."""
    import av

    file.seek(0)
    with av.open(file, options=options | {"format_whitelist": CONTAINERS}) as container:
        streams = [stream for stream in container.streams.video if not stream.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            held = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
            raise MediaError(f"{name} has no video stream (it holds: {held}): give a file with pictures")
        stream = streams[0]
        if stream.codec_context is None:
            raise MediaError(f"{name} is encoded in a way that no decoder here knows: convert it to H.264 MP4")
        limits.check_size(stream.codec_context.width, stream.codec_context.height, name)
        stream.codec_context.options = {"max_pixels": str(limits.pixels)}  # the decoder itself stops at a frame that is larger after all
        limits.check_frames(stream.frames, name)
        if stream.duration is not None and stream.time_base is not None:
            limits.check_seconds(float(stream.duration * stream.time_base), name)
        yield container, stream


def _scan(file: IO[bytes], limits: MediaLimits, name: str) -> Stream:
    """Read every packet without decoding it. Raises MediaError when there is none or less than the header promises."""
    shown: list[tuple[float, float]] = []
    packets, latest = 0, 0.0
    with _open(file, limits, name) as (container, stream):
        promised, rate = stream.frames, stream.average_rate or stream.guessed_rate
        promised_end = float((container.start_time or 0) + (container.duration or 0)) / 1e6
        for packet in container.demux():
            time = packet.pts if packet.pts is not None else packet.dts
            if time is None or not packet.size:
                continue
            start, length = float(time * packet.time_base), float((packet.duration or 0) * packet.time_base)
            latest = max(latest, start + length)
            if packet.stream.index != stream.index:
                continue
            packets += 1
            limits.check_frames(packets, name)
            if packet.is_corrupt:
                raise MediaError(f"{name} is cut short or damaged at frame {packets}: export or download it again")
            if not packet.is_discard:
                shown.append((start, length))
    if packets < promised:
        packets = max(packets, _count_without_edits(file, limits, name))
    if packets < promised:
        raise MediaError(f"{name} promises {promised} frames and has {packets}: it is cut short or its header lies; export it again")
    if not shown:
        raise MediaError(f"{name} has a video stream without frames: give a video of at least one frame")
    shown.sort()
    starts = [start for start, _ in shown]
    gaps = sorted(after - before for before, after in itertools.pairwise(starts))
    if promised_end - latest > max(1.0, 0.05 * promised_end, 2 * max(gaps, default=0.0)):
        raise MediaError(f"{name} promises {promised_end:.1f} s and ends at {latest:.1f} s: it is cut short; export or download it again")
    last = shown[-1][1] or (gaps[len(gaps) // 2] if gaps else 0.0)
    return Stream(starts, starts[-1] + last, float(rate) if rate else None)


def _count_without_edits(file: IO[bytes], limits: MediaLimits, name: str) -> int:
    """Packets of the whole file: an edit list (a trimmed phone video) hides packets that the header counts."""
    with _open(file, limits, name, ignore_editlist="1") as (container, stream):
        return sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)


def _decode(file: IO[bytes], view: Timeline, limits: MediaLimits, name: str) -> tuple[NDArray[np.uint8] | None, list[float]]:
    """(frames of `view` (F, H, W, 3), starts of all decoded frames); no frames when the stream ends before the last one wanted."""
    import numpy as np

    places, count = view.places(), len(view.indices)
    last = max(places)
    frames: NDArray[np.uint8] | None = None
    starts: list[float] = []
    with _open(file, limits, name) as (container, stream):
        limits.check_decoded(count, stream.codec_context.width, stream.codec_context.height, name)
        for index, frame in enumerate(container.decode(stream)):
            limits.check_frames(index + 1, name)
            if frame.is_corrupt:
                raise MediaError(f"frame {index} of {name} is damaged: export or download the video again")
            starts.append(frame.time if frame.time is not None else float(index))
            if index in places:
                limits.check_size(frame.width, frame.height, name)
                pixels = _upright(frame)
                if frames is None:
                    limits.check_decoded(count, frame.width, frame.height, name)
                    frames = np.empty((count, *pixels.shape), np.uint8)
                if pixels.shape != frames.shape[1:]:
                    raise MediaError(
                        f"frame {index} of {name} is {pixels.shape[1]}x{pixels.shape[0]}, the first one was "
                        f"{frames.shape[2]}x{frames.shape[1]}: convert the video to one size"
                    )
                frames[places[index]] = pixels
            if index == last:
                return frames, starts
    return None, starts


def _upright(frame: Any) -> NDArray[np.uint8]:
    """uint8 (H, W, 3), turned by the display matrix as players do."""
    import numpy as np

    pixels: NDArray[np.uint8] = frame.to_ndarray(format="rgb24")
    turns = round(frame.rotation / 90) % 4
    return np.rot90(pixels, turns) if turns else pixels
