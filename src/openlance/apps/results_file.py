"""results.jsonl of a batch: one line a finished request, readable after any interruption."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openlance.apps.output import OutputFailed
from openlance.files import whole_file


@dataclass(frozen=True)
class Outcome:
    """What became of one request: `files` (relative to the folder) or `text`, or an `error`."""

    id: str
    task: str
    files: tuple[str, ...] | None = None
    text: str | None = None
    seconds: float = 0.0
    error: str | None = None

    def values(self) -> dict[str, Any]:
        """The keys of its line: `error` is always there, null where it went well."""
        return {key: value for key, value in asdict(self).items() if value is not None or key == "error"}


class ResultsFile:
    """Appends outcomes; `done` are the ids that need no work any more."""

    def __init__(self, folder: Path, fresh: bool = False) -> None:
        """Take up what an earlier run left: a half-written last line and requests that failed or whose files are gone are dropped."""
        self.path = folder / "results.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            kept = [] if fresh else [line for line in self._lines() if self._finished(line, folder)]
        except OSError as error:
            raise OutputFailed(f"cannot write {self.path}: {error.strerror or error}; choose another --output") from error
        with whole_file(self.path, OutputFailed) as temporary:
            temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
        self.done = {line["id"] for line in kept}

    def _lines(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = []
        for text in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                value = json.loads(text)
            except ValueError:
                continue
            if isinstance(value, dict):
                lines.append(value)
        return lines

    @staticmethod
    def _finished(line: dict[str, Any], folder: Path) -> bool:
        if not isinstance(line.get("id"), str) or line.get("error"):
            return False
        files = line.get("files", [])
        return "text" in line or (bool(files) and all((folder / name).is_file() for name in files))

    def add(self, outcome: Outcome) -> None:
        """Append a line and make sure that it is on the disk."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(outcome.values(), ensure_ascii=False) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise OutputFailed(f"cannot write {self.path}: {error.strerror or error}; free some space and start again") from error
