"""Numbers of a run on disk: one line of JSON an entry, and a line for people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openlance.files import whole_file
from openlance.train.tracking import Tracker, track


class Journal:
    """A file of entries, each of an iteration. After a crash, entries that come after the last checkpoint are dropped."""

    def __init__(self, path: Path, iteration: int, trackers: Sequence[Tracker] = ()) -> None:
        """Go on after `iteration` finished iterations. The trackers get the same numbers, those of an evaluation under its name."""
        self.path = path
        self.trackers = trackers
        if path.exists():
            lines = [line for line in path.read_bytes().split(b"\n")[:-1] if json.loads(line)["iteration"] <= iteration]
            with whole_file(path) as temporary:
                temporary.write_bytes(b"".join(line + b"\n" for line in lines))

    def add(self, values: dict[str, Any]) -> None:
        """Record an entry and print it."""
        rounded = {key: _rounded(value) for key, value in values.items()}
        with self.path.open("a") as file:
            file.write(json.dumps(rounded) + "\n")
        numbers = {key: value for key, value in rounded.items() if key != "iteration"}
        track(self.trackers, rounded["iteration"], {values["evaluation"]: numbers} if "evaluation" in values else numbers)
        print("  ".join(f"{key} {value}" for key, value in rounded.items()), flush=True)

    def entries(self) -> list[dict[str, Any]]:
        """All of them, in order."""
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def curve(self, key: str) -> list[float]:
        """One number over all entries that have it."""
        return [entry[key] for entry in self.entries() if key in entry]


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value
