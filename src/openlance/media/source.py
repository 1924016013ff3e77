"""Open what the caller gave (a path, bytes or a file object) and tell by its first bytes, never by its name, what it is."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

from openlance.errors import MediaError
from openlance.media.limits import MediaLimits

Encoded: TypeAlias = str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes]
Kind: TypeAlias = Literal["image", "video"]

HEAD_BYTES = 192  # enough for the second sync byte of MPEG-TS
KNOWN = "PNG, JPEG, WebP, GIF, AVIF, BMP, TIFF, PPM, MP4/MOV, WebM/MKV, AVI, FLV, MPEG, MPEG-TS, Ogg or ASF/WMV"
_IMAGE_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*")
_VIDEO_SIGNATURES = (b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"\x30\x26\xb2\x75")
_MOVIE_BOXES = (b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
_AVIF_BRANDS = (b"avif", b"avis", b"mif1")
_HEIC_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"msf1")


@dataclass(frozen=True)
class OpenSource:
    """A seekable binary file at position 0, what its first bytes say it is, and how messages call it."""

    file: IO[bytes]
    kind: Kind
    name: str


@contextmanager
def open_source(source: Encoded, limits: MediaLimits) -> Iterator[OpenSource]:
    """Open a source within `limits.bytes`. A path is opened, not loaded; a file object is read up to the limit from where it stands.

    A string is always a path: nothing is fetched from a network. Raises MediaError.
    """
    if isinstance(source, (str, os.PathLike)):
        name = f"'{os.fspath(source)}'"
        with _open_path(Path(source), name) as file:
            limits.check_bytes(os.fstat(file.fileno()).st_size, name)
            yield OpenSource(file, sniff(_head(file), name), name)
        return
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, data = "the given data", bytes(source)
    elif not hasattr(source, "read"):
        accepted = "a path, bytes, a binary file object, a Pillow image, a uint8 array, a list of pictures or a Clip"
        raise MediaError(f"cannot take {type(source).__name__} as an image or a video: give {accepted}")
    else:
        name, data = "the given file", _read_file_object(source, limits.bytes + 1)
    limits.check_bytes(len(data), name)
    yield OpenSource(io.BytesIO(data), sniff(data[:HEAD_BYTES], name), name)


def sniff(head: bytes, name: str) -> Kind:
    """'image' or 'video' from the first `HEAD_BYTES` bytes. Raises MediaError when they are neither."""
    brand = head[8:12]
    if head[4:8] == b"ftyp":
        if brand in _HEIC_BRANDS:
            raise MediaError(f"{name} is a HEIC/HEIF picture, which is not supported: convert it to JPEG or PNG")
        return "image" if brand in _AVIF_BRANDS else "video"
    if head[:4] == b"RIFF" and brand in (b"WEBP", b"AVI "):
        return "image" if brand == b"WEBP" else "video"
    if head.startswith(_IMAGE_SIGNATURES) or (head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace()):
        return "image"
    if head.startswith(_VIDEO_SIGNATURES) or head[4:8] in _MOVIE_BOXES or head[0:1] == head[188:189] == b"\x47":
        return "video"
    raise MediaError(f"{name} starts with {head[:12]!r}, which is no image or video known here: give {KNOWN}")


def _open_path(path: Path, name: str) -> IO[bytes]:
    try:
        if not path.exists():
            raise MediaError(f"there is no file {name}: check the path")
        if not path.is_file():
            raise MediaError(f"{name} is not a regular file: give the path of an image or a video")
        return path.open("rb")
    except (OSError, ValueError) as error:
        if isinstance(error, MediaError):
            raise
        raise MediaError(f"{name} cannot be opened: {error}") from error


def _head(file: IO[bytes]) -> bytes:
    head = file.read(HEAD_BYTES)
    file.seek(0)
    return head


def _read_file_object(file: IO[bytes], limit: int) -> bytes:
    """At most `limit` bytes; a raw stream may return fewer than asked, so read until it ends."""
    pieces: list[bytes] = []
    size = 0
    while size < limit:
        try:
            piece = file.read(min(limit - size, 2**20))
        except (OSError, ValueError) as error:
            raise MediaError(f"cannot read the given {type(file).__name__}: {error}") from error
        if not isinstance(piece, (bytes, bytearray)):
            raise MediaError(f"the given {type(file).__name__} yields {type(piece).__name__}, not bytes: open it in binary mode")
        if not piece:
            break
        pieces.append(bytes(piece))
        size += len(piece)
    return b"".join(pieces)
