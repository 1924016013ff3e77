"""Several orders of samples that take turns, prepared ahead by worker processes.

Step s of a run is the next step of stream s mod K. A stream belongs to one worker, so what a run sees depends on K alone, not on how
many processes prepare it; and since every prepared step carries the state of its stream behind it, a run resumes exactly although
workers are ahead of it.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from openlance.data.batch import TrainingBatch
from openlance.data.loader import Loader
from openlance.errors import LanceError

Prepared = tuple[list[TrainingBatch], dict[str, Any]]
"""The batches of a step, and the state of its stream after it."""
AHEAD = 2
"""Steps that every worker has ready."""


class Streams:
    """Several loaders as one. They must differ in seed and in nothing else."""

    def __init__(self, loaders: Sequence[Loader], workers: int) -> None:
        self._loaders = list(loaders)
        self._workers = workers
        self._step = 0
        self._states: list[dict[str, Any]] = [loader.state() for loader in self._loaders]
        self._prepared: Iterator[Prepared] | None = None

    def step(self) -> list[TrainingBatch]:
        """This rank's batches of the next update, as of a `Loader`."""
        if self._prepared is None:
            self._prepared = self._start()
        batches, state = next(self._prepared)
        self._states[self._step % len(self._loaders)] = state
        self._step += 1
        return batches

    def place(self, index: int) -> int:
        """Where the `index`-th batch of this rank stands among those of the step."""
        return self._loaders[0].place(index)

    def refresh(self) -> None:
        """Let the sources grow, where this process prepares the batches; workers go on with what they found at their start."""
        if not self._workers:
            for loader in self._loaders:
                loader.refresh()

    def state(self) -> dict[str, Any]:
        """Integers only."""
        return {"step": self._step, "streams": list(self._states)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where another with as many streams stopped. Raises LanceError if it had another number of them."""
        if len(state.get("streams", ())) != len(self._loaders):
            found, ours = len(state.get("streams", ())) or 1, len(self._loaders)
            raise LanceError(f"the checkpoint was made with {found} streams, the recipe has {ours}: set batch.streams={found}")
        self._step, self._states = state["step"], list(state["streams"])
        for loader, own in zip(self._loaders, self._states, strict=True):
            loader.load_state(own)
        self._prepared = None

    def _start(self) -> Iterator[Prepared]:
        steps = _Steps(self._loaders, self._step)
        if not self._workers:
            return iter(steps)
        _allow_files()
        # The fast tokenizer has threads of its own, which must not be running when processes split.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        return iter(DataLoader(steps, batch_size=None, num_workers=self._workers, prefetch_factor=AHEAD, worker_init_fn=one_thread))


class _Steps(IterableDataset[Prepared]):
    """Endless steps from `first` on. Worker w of W yields those that the loader asks of it in turn: first + w, first + w + W, ..."""

    def __init__(self, loaders: Sequence[Loader], first: int) -> None:
        self._loaders = loaders
        self._first = first

    def __iter__(self) -> Iterator[Prepared]:
        worker = get_worker_info()
        step, stride = (self._first, 1) if worker is None else (self._first + worker.id, worker.num_workers)
        while True:
            loader = self._loaders[step % len(self._loaders)]
            batches = loader.step()
            yield batches, loader.state()
            step += stride


def _allow_files() -> None:
    """Every tensor on its way from a worker is an open file: the usual 1024 are too few for many workers."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def one_thread(_: int) -> None:
    """Start of a worker process: as many processes as cores, not as many threads in each."""
    torch.set_num_threads(1)
