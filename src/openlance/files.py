"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openlance.errors import LanceError


@contextmanager
def whole_file(path: Path, refused: type[Exception] = LanceError) -> Iterator[Path]:
    """A new name in the folder of `path` to write to. It takes the place of `path` when the block ends well and vanishes otherwise.

    A reader sees the old file or the new one. What the name ends in says nothing of the format. Raises `refused` on OSError.
    Killed meanwhile, a process leaves the hidden `.tmp` file: another may be writing the same path, so no name is taken twice.
    """
    temporary = path.parent / f".{secrets.token_hex(8)}.tmp"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise refused(f"cannot write '{path}': {error.strerror or error}; free some space or choose another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """The whole text as UTF-8, or nothing of it. Raises LanceError."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """As `write_text`."""
    write_text(path, json.dumps(value, indent=1) + "\n")
