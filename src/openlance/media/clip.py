"""The one type that carries pixels outside the model: a clip; an image is a clip of one frame."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.errors import MediaError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

IMAGE_FPS = 1.0
"""Frame rate of an image. Any positive rate would do: one frame has no motion. Not 0, so that durations and rates are always defined."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames in time order at a constant rate.

    frames: uint8 (F, H, W, 3), red green blue, F, H, W >= 1. fps: frames per second, finite and > 0 (`IMAGE_FPS` for an image).
    The array is kept as it is, not copied, when it is contiguous. Two clips are equal only when they are the same object.
    Raises MediaError when the array or the rate is anything else.
    """

    frames: NDArray[np.uint8]
    fps: float

    def __post_init__(self) -> None:
        import numpy as np

        frames = self.frames
        if not isinstance(frames, np.ndarray):
            raise MediaError(f"frames must be a uint8 array (F, H, W, 3), not {type(frames).__name__}: read_media() takes other types")
        if frames.dtype != np.uint8:
            raise MediaError(f"frames must be uint8 in 0..255, not {frames.dtype}: scale, round and cast first")
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise MediaError(f"frames must have shape (F, H, W, 3) with no empty side, not {frames.shape}: Clip.from_image() takes one")
        try:
            fps = float(self.fps)
        except (TypeError, ValueError) as error:
            raise MediaError(f"fps must be a number, not {self.fps!r}") from error
        if not (math.isfinite(fps) and fps > 0):
            raise MediaError(f"fps must be finite and above 0, not {fps}; an image has fps {IMAGE_FPS:g}")
        object.__setattr__(self, "frames", np.ascontiguousarray(frames))
        object.__setattr__(self, "fps", fps)

    @classmethod
    def from_image(cls, image: Image | NDArray[Any]) -> Clip:
        """One frame from a Pillow image of any mode, or from a uint8 array (H, W), (H, W, 1), (H, W, 3) or (H, W, 4).

        Transparency is composited on white. Raises MediaError for anything else.
        """
        from openlance.media.picture import rgb_array

        return cls(rgb_array(image)[None], IMAGE_FPS)

    @property
    def num_frames(self) -> int:
        return int(self.frames.shape[0])

    @property
    def height(self) -> int:
        return int(self.frames.shape[1])

    @property
    def width(self) -> int:
        return int(self.frames.shape[2])

    @property
    def duration(self) -> float:
        """Seconds: F / fps."""
        return self.num_frames / self.fps

    @property
    def is_image(self) -> bool:
        return self.num_frames == 1

    def image(self, index: int = 0) -> Image:
        """Frame `index` (negative counts from the end) as a Pillow RGB image. Raises MediaError when there is no such frame."""
        from PIL import Image

        if not -self.num_frames <= index < self.num_frames:
            raise MediaError(f"there is no frame {index}: the clip has {self.num_frames} frame(s)")
        return Image.fromarray(self.frames[index])

    def save(self, path: str | Path) -> Path:
        """Write to `path`, whose suffix decides the format (see `write_media`). Returns the path."""
        from openlance.media.write import write_media

        return write_media(self, path)

    def __repr__(self) -> str:
        if self.is_image:
            return f"Clip(image {self.width}x{self.height})"
        return f"Clip({self.num_frames} frames {self.width}x{self.height}, {self.fps:g} fps, {self.duration:.2f} s)"

    def _repr_png_(self) -> bytes | None:
        """Notebooks show an image as an image."""
        from openlance.media.encode import encode

        return encode(self, "png") if self.is_image else None

    def _repr_html_(self) -> str | None:
        """Notebooks show a video as a small player that loops."""
        from openlance.media.encode import encode

        if self.is_image:
            return None
        data = base64.b64encode(encode(self, "mp4")).decode("ascii")
        return f'<video autoplay loop muted playsinline controls width="{self.width}" src="data:video/mp4;base64,{data}"></video>'
