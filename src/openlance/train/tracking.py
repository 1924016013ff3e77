"""Curves to look at, beside the numbers that a run writes to its own files: TensorBoard, and Weights & Biases where it is asked for."""

from __future__ import annotations

import importlib.util
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

from openlance.errors import LanceError, MissingExtra


class Tracker(Protocol):
    """A place where curves are drawn."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Add a point to each curve. Steps do not fall, but for a resumed run, which goes on from its checkpoint."""


class TensorBoard:
    """Files for `tensorboard --logdir`, opened at the first point."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a killed run drew behind its last checkpoint is drawn again.
            self._writer = SummaryWriter(str(self._folder), purge_step=step)
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


class WeightsAndBiases:
    """A run of wandb."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, values: Mapping[str, float]) -> None:
        # It takes no point behind its last one: what a killed run logged after its last checkpoint stays, and is the same.
        if step >= self._run.step:
            self._run.log(dict(values), step=step)


@contextmanager
def open_trackers(output: Path, name: str, project: str | None, recipe: Mapping[str, Any]) -> Iterator[list[Tracker]]:
    """The trackers of the run in the folder `output`: TensorBoard where tensorboard is installed; wandb, which may use the network, only
    if the recipe names a `project`. An error inside marks the run of wandb as failed.

    Raises MissingExtra if wandb is asked for and not installed, LanceError if it cannot begin.
    """
    with ExitStack() as opened:
        trackers: list[Tracker] = []
        if importlib.util.find_spec("tensorboard") is not None:
            trackers.append(opened.enter_context(closing(TensorBoard(output / "tensorboard"))))
        if project is not None:
            trackers.append(WeightsAndBiases(opened.enter_context(_begin_wandb(output, name, project, recipe))))
        yield trackers


def track(trackers: Sequence[Tracker], step: int, entry: Mapping[str, Any]) -> None:
    """Give the numbers of an entry to all trackers; those of a mapping in it are called `its name/their name`."""
    numbers = dict(_numbers("", entry))
    for tracker in trackers:
        tracker.log(step, numbers)


def _numbers(prefix: str, entry: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    for key, value in entry.items():
        if isinstance(value, Mapping):
            yield from _numbers(f"{prefix}{key}/", value)
        elif isinstance(value, int | float):
            yield f"{prefix}{key}", value


def _begin_wandb(output: Path, name: str, project: str, recipe: Mapping[str, Any]) -> Any:
    try:
        # By name: the folder `wandb` that it leaves beside a run can be imported too, as an empty package.
        from wandb import Error, init
    except ImportError as error:
        raise MissingExtra("wandb", "track") from error
    try:
        return init(project=project, name=name, id=_run_id(output / "wandb-id.txt"), resume="allow", dir=str(output), config=dict(recipe))
    except Error as error:
        raise LanceError(
            f"wandb cannot begin a run of the project '{project}' ({error}): call  wandb login , set WANDB_MODE=offline, "
            "or leave wandb out of the recipe"
        ) from error


def _run_id(path: Path) -> str:
    """What wandb calls the run in this folder, whenever it goes on."""
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_text(secrets.token_hex(8))
        os.replace(temporary, path)
    return path.read_text()
