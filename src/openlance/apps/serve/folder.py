"""A folder that all replicas must share, known by a file in it."""

import secrets
import socket
from pathlib import Path

from openlance.apps.serve.jobs import StoreError

NAME = "folder-id"


def mark(folder: Path) -> str:
    """The id of a folder, given to it now if it has none. Raises StoreError when it cannot be used."""
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not path.exists():
            path.write_text(secrets.token_hex(8), encoding="ascii")
        return path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"the folder '{folder}' cannot be used ({error}): choose another with --data-dir") from error


def check_shared(folder: Path, mark: str) -> None:
    """Raises StoreError unless `folder` is, on this machine too, the one with this mark."""
    path = folder / NAME
    try:
        shared = path.read_text(encoding="ascii") == mark
    except (OSError, UnicodeDecodeError):
        shared = False
    if not shared:
        raise StoreError(
            f"{socket.gethostname()} does not see the folder '{folder}' of video jobs that the command was started with: "
            "give a --data-dir that all machines of the cluster share"
        )
