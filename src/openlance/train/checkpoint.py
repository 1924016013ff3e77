"""Checkpoints: written whole or not at all, the last few kept, read back to the very same state."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import torch

from openlance.errors import CheckpointError

NAME = re.compile(r"step-(\d{8})\.pt")


class Checkpoints:
    """The checkpoints of a run folder."""

    def __init__(self, folder: Path, keep: int = 2) -> None:
        self.folder = folder
        self.keep = max(1, keep)

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        found = (NAME.fullmatch(path.name) for path in self.folder.glob("step-*.pt"))
        return sorted(int(match[1]) for match in found if match)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` steps. Raises CheckpointError if the disk refuses; the last good checkpoint stays."""
        path = self._path(step)
        temporary = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise CheckpointError(f"{path} cannot be written ({error}): free some space; the checkpoint before is whole") from error
        for old in self.steps()[: -self.keep]:
            self._path(old).unlink(missing_ok=True)
        return path

    def load(self) -> dict[str, Any] | None:
        """The newest state, None if there is none. Raises CheckpointError if the file is damaged."""
        steps = self.steps()
        if not steps:
            return None
        path = self._path(steps[-1])
        try:
            state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read ({error}): remove it to go on from the one before") from error
        return state

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"
