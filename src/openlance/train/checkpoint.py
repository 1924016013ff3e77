"""Checkpoints: written whole or not at all, the last few kept, read back to the very same state.

What is written has the suffix `.tmp` until it is complete. A folder of a step that is saved again has the suffix `.old` until the new one
has its name, and is a checkpoint as before meanwhile.

A run whose processes hold everything writes one file, `step-N.pt`. A run that splits its model writes a folder `step-N`, every process its
rows (torch.distributed.checkpoint), beside the steps that follow. Either kind of run goes on from either kind, on any number of processes.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openlance.errors import CheckpointError
from openlance.train.parallel import local

if TYPE_CHECKING:
    from openlance.train.shard import Shards

NAME = re.compile(r"step-(\d{8})(\.pt|\.old)?")
REST = "rest.pt"
"""File of a folder for what is no tensor."""


class Checkpoints:
    """The checkpoints of a run folder. With `shards` the run is one whose model is split, and all its ranks must make each call."""

    def __init__(self, folder: Path, keep: int = 2, shards: Shards | None = None) -> None:
        self.folder = folder
        self.keep = max(1, keep)
        self.shards = shards
        self._writer = ThreadPoolExecutor(1, "checkpoint")
        self._writing: Future[None] | None = None

    def steps(self) -> list[int]:
        """Steps with a checkpoint, ascending."""
        found = (NAME.fullmatch(path.name) for path in self.folder.glob("step-*"))
        return sorted({int(match[1]) for match in found if match})

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write the state after `step` steps; of a split model in the background, from the copies of which the state consists.

        Raises CheckpointError if the disk refuses, in the background at the next call; the last good checkpoint stays.
        """
        if self.shards is None:
            return self._save_file(step, state)
        self.wait()
        self._writing = self._writer.submit(self._save_folder, step, state, self.shards)
        return self._folder(step)

    def wait(self) -> None:
        """Until nothing is being written. Raises CheckpointError if what was could not be."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _save_file(self, step: int, state: dict[str, Any]) -> Path:
        path = self._file(step)
        temporary = path.with_suffix(".tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _remove(temporary)
            with temporary.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:
            temporary.unlink(missing_ok=True)
            raise _refused(path, error) from error
        for earlier in (self._old(step), self._folder(step)):
            _discard(earlier)
        self._forget()
        return path

    def _save_folder(self, step: int, state: dict[str, Any], shards: Shards) -> None:
        """Every rank its rows into a temporary folder, which takes its name when all are done."""
        dcp = _library()

        path = self._folder(step)
        temporary = path.with_suffix(".tmp")
        tensors: dict[str, Tensor] = {}
        rest = _without_tensors(state, "", tensors)
        try:
            shards.lead(lambda: self._begin(temporary, rest))
            dcp.save(tensors, storage_writer=dcp.FileSystemWriter(temporary), process_group=shards.saving)
            shards.lead(lambda: self._finish(temporary, path))
        except (OSError, RuntimeError, dcp.CheckpointException) as error:
            if shards.leads:
                # No other: one that has lost the first must not take away what that is giving its name.
                shutil.rmtree(temporary, ignore_errors=True)
            raise _refused(path, error) from error

    def _begin(self, temporary: Path, rest: Any) -> None:
        _remove(temporary)
        temporary.mkdir(parents=True)
        with (temporary / REST).open("wb") as file:
            torch.save(rest, file)
            file.flush()
            os.fsync(file.fileno())

    def _finish(self, temporary: Path, path: Path) -> None:
        """Let the complete folder take the place of an earlier one: at every moment one of them has a name that `load` knows."""
        old = path.with_suffix(".old")
        if path.exists():
            _remove(old)
            os.replace(path, old)
        os.replace(temporary, path)
        _remove(old)
        _remove(path.with_suffix(".pt"))
        self._forget()

    def _forget(self) -> None:
        """Remove all but the last ones, and what a killed run left half-written."""
        for step in self.steps()[: -self.keep]:
            for path in (self._old(step), self._folder(step), self._file(step)):
                _discard(path)
        for stale in self.folder.glob("step-*.tmp"):
            _remove(stale)

    def load(self) -> dict[str, Any] | None:
        """The newest state, None if there is none; of a split model this rank's rows of every tensor. In host memory.

        Raises CheckpointError if it is damaged.
        """
        steps = self.steps()
        if not steps:
            return None
        # A folder that was saved again over an old one, or over a file, is in front of it until that is gone.
        step = steps[-1]
        path = next(path for path in (self._folder(step), self._file(step), self._old(step)) if path.exists())
        try:
            state: dict[str, Any] = self._load_folder(path) if path.is_dir() else self._load_file(path)
        except Exception as error:
            raise CheckpointError(f"{path} cannot be read ({error}): remove it to go on from the one before") from error
        return state

    def _load_file(self, path: Path) -> Any:
        if self.shards is None:
            return torch.load(path, weights_only=True, map_location="cpu")
        # Mapped: of each tensor only the rows of this rank are read.
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
        tensors: dict[str, Tensor] = {}
        rest = _without_tensors(state, "", tensors)
        return _with_tensors(rest, "", {name: self.shards.part(tensor).clone() for name, tensor in tensors.items()})

    def _load_folder(self, path: Path) -> Any:
        dcp = _library()

        reader = dcp.FileSystemReader(path)
        tensors: dict[str, Any] = {}
        for name, entry in reader.read_metadata().state_dict_metadata.items():
            make = torch.empty if self.shards is None or not entry.size else self.shards.empty
            tensors[name] = make(entry.size, dtype=entry.properties.dtype)
        alone = self.shards is None
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            try:
                dcp.load(tensors, storage_reader=reader, no_dist=alone, process_group=None if self.shards is None else self.shards.saving)
            except dcp.CheckpointException as error:  # which is no Exception
                raise OSError(_reason(error)) from error
        tensors = {name: local(tensor) for name, tensor in tensors.items()}
        return _with_tensors(torch.load(path / REST, weights_only=True), "", tensors)

    def _file(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.pt"

    def _folder(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}"

    def _old(self, step: int) -> Path:
        return self.folder / f"step-{step:08d}.old"


def _discard(checkpoint: Path) -> None:
    """Remove a checkpoint. First its name: killed halfway, no part of it is taken for one."""
    if checkpoint.is_dir():
        temporary = checkpoint.with_suffix(".tmp")
        _remove(temporary)
        os.replace(checkpoint, temporary)
        checkpoint = temporary
    _remove(checkpoint)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _library() -> Any:
    """Imported where it is used, as it takes a moment; its functions carry no types."""
    import torch.distributed.checkpoint

    return torch.distributed.checkpoint


def _refused(path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(f"{path} cannot be written ({_reason(error)}): free some space; the checkpoint before is whole")


def _reason(error: BaseException) -> str:
    """What went wrong, without the traces of all ranks."""
    failures: dict[int, Any] = getattr(error, "failures", {})
    return "; ".join(f"rank {rank}: {failure[0]!r}" for rank, failure in failures.items()) or str(error)


def _without_tensors(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The same with None for its tensors, which go to `tensors` by their place."""
    if isinstance(value, Tensor):
        tensors[name] = value
        return None
    if isinstance(value, dict):
        return {key: _without_tensors(each, f"{name}/{key}", tensors) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_without_tensors(each, f"{name}/{i}", tensors) for i, each in enumerate(value))
    return value


def _with_tensors(rest: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """The way back of `_without_tensors`."""
    if rest is None:
        return tensors.get(name)
    if isinstance(rest, dict):
        return {key: _with_tensors(each, f"{name}/{key}", tensors) for key, each in rest.items()}
    if isinstance(rest, list | tuple):
        return type(rest)(_with_tensors(each, f"{name}/{i}", tensors) for i, each in enumerate(rest))
    return rest
