"""A clip -> a file. The suffix decides the format; a file is there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.errors import MediaError
from openlance.files import whole_file
from openlance.media.clip import Clip
from openlance.media.encode import IMAGE_FORMATS, VIDEO_FORMATS, encode

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

_FORMAT_OF_SUFFIX = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp", ".gif": "gif", ".mp4": "mp4"}


def write_media(clip: Clip, path: str | os.PathLike[str]) -> Path:
    """Write a clip in the format of the suffix: .png, .jpg, .jpeg, .webp, .gif, .mp4 (see `encode`). Returns the path.

    Raises MediaError for an unknown suffix (before any work), a video as .png or .jpg, a missing or unwritable folder, a full disk.
    """
    return _write(clip, path, tuple(_FORMAT_OF_SUFFIX.values()))


def write_image(image: Clip | Image | NDArray[Any], path: str | os.PathLike[str]) -> Path:
    """Write one picture as .png, .jpg, .jpeg or .webp. Raises MediaError as `write_media`, and for a clip of several frames."""
    clip = image if isinstance(image, Clip) else Clip.from_image(image)
    if not clip.is_image:
        raise MediaError(f"one image is wanted and the clip has {clip.num_frames} frames: use write_video(), or write clip.image(i)")
    return _write(clip, path, IMAGE_FORMATS)


def write_video(clip: Clip, path: str | os.PathLike[str]) -> Path:
    """Write a clip as .mp4, .gif or .webp. Raises MediaError as `write_media`."""
    return _write(clip, path, VIDEO_FORMATS)


def _write(clip: Clip, path: str | os.PathLike[str], formats: tuple[str, ...]) -> Path:
    target = Path(path)
    format = _FORMAT_OF_SUFFIX.get(target.suffix.lower())
    if format not in formats:
        known = ", ".join(suffix for suffix, name in _FORMAT_OF_SUFFIX.items() if name in formats)
        raise MediaError(f"'{target}' has the suffix '{target.suffix}', known here are {known}: choose one of them")
    if not target.parent.is_dir():
        raise MediaError(f"there is no folder '{target.parent}' to write '{target.name}' into: create it first")
    write_bytes(encode(clip, format), target)
    return target


def write_bytes(data: bytes, target: Path) -> None:
    """Write a file; a reader sees the old one or the new one. Raises MediaError."""
    with whole_file(target, MediaError) as temporary:
        temporary.write_bytes(data)
