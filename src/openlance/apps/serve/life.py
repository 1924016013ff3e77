"""Whether the other processes that share a folder live: each keeps a lock there, which goes when it dies, however it dies.

The locks are SQLite's: they work wherever the table of jobs itself does, also on a folder that several machines share.
"""

import secrets
import sqlite3
from pathlib import Path

PREFIX = "holder_"


class Life:
    """The sign of life of one process in a folder. Made and asked only by whoever is alone with the folder."""

    def __init__(self, folder: Path) -> None:
        """Raises sqlite3.Error when the folder cannot be used."""
        self.folder = folder
        self.name = secrets.token_hex(8)
        self._lock = _open(self._path(self.name))
        self._lock.execute("BEGIN EXCLUSIVE")

    def goes_on(self, name: str | None) -> bool:
        """Whether the process of this name lives; of one that does not, its file is removed."""
        if name == self.name:
            return True
        path = self._path(name or "")
        if not path.exists():
            return False
        lock = _open(path)
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.OperationalError:
            return True
        finally:
            lock.close()
        path.unlink(missing_ok=True)
        return False

    def end(self) -> None:
        """No more."""
        self._lock.close()
        self._path(self.name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self.folder / f"{PREFIX}{name}"


def _open(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
