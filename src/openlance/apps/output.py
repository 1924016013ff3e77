"""Where results are written: names out of prompts, nothing overwritten unless told so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.errors import LanceError, MediaError, RequestError

if TYPE_CHECKING:
    from openlance.media.clip import Clip

LONGEST_NAME = 60
"""Characters of a name that come from a prompt or an id."""
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
VIDEO_SUFFIXES = (".mp4", ".gif", ".webp")


class OutputFailed(RuntimeError):
    """A result could not be written."""


def slug(text: str, otherwise: str = "untitled") -> str:
    """A file name out of any text: lower case, words joined by dashes, no path in it."""
    words = re.findall(r"\w+", text.lower())
    return "-".join(words)[:LONGEST_NAME].strip("-_") or otherwise


class Destination:
    """Turns `--output`, `--format` and `--overwrite` into paths, checked before any work is done."""

    def __init__(self, output: str | None, suffix: str, count: int, overwrite: bool) -> None:
        """`suffix` of the files, with its dot, where `output` names none; `count` results are to come. Raises RequestError."""
        path = Path(output) if output else Path()
        names_file = path.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        self.file = path if names_file and not path.is_dir() else None
        self.folder = path.parent if self.file else path
        self.suffix = suffix
        self.overwrite = overwrite
        if self.file and count > 1:
            raise RequestError(f"--output {path} names one file and {count} results will be made: name a folder")
        if self.file and self.file.exists() and not overwrite:
            raise RequestError(f"{self.file} exists: choose another name, or pass --overwrite")
        if self.folder.exists() and not self.folder.is_dir():
            raise RequestError(f"{self.folder} is a file: --output must be a folder or the name of an image or a video")

    def path(self, name: str) -> Path:
        """The path for a result called `name`: with a number behind it if there is such a file already."""
        if self.file:
            return self.file
        path = self.folder / f"{name}{self.suffix}"
        number = 2
        while path.exists() and not self.overwrite:
            path = self.folder / f"{name}-{number}{self.suffix}"
            number += 1
        return path

    def write(self, clip: Clip, name: str) -> Path:
        """Write a clip. Raises OutputFailed."""
        return write_clip(clip, self.path(name))


def write_clip(clip: Clip, path: Path) -> Path:
    """Write a clip to `path`, making its folder. Raises OutputFailed; nothing half-written is left."""
    from openlance.media.write import write_media

    return _written(lambda: write_media(clip, path), path)


def write_file(data: bytes, path: Path) -> Path:
    """Write an encoded medium, as `write_clip`."""
    from openlance.media.write import write_bytes

    return _written(lambda: write_bytes(data, path), path)


def _written(write: Callable[[], object], path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write()
    except MediaError as error:
        raise OutputFailed(str(error)) from error
    except OSError as error:
        raise OutputFailed(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    return path


def suffix_of(video: bool, format: str | None) -> str:
    """The suffix of results, `format` or the default. Raises LanceError naming the formats."""
    known = VIDEO_SUFFIXES if video else IMAGE_SUFFIXES
    suffix = f".{(format or ('mp4' if video else 'png')).lower().lstrip('.')}"
    if suffix not in known:
        raise LanceError(f"a {'video' if video else 'picture'} cannot be written as '{suffix}': use {', '.join(known)}")
    return suffix
