"""Many requests on many machines: Ray Data moves them in blocks through a pool of actors, each with a copy of the model.

Only the model must be found on every machine: media are read by this machine, results come back to it and are written here.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.apps.batch import Finished, Suffixes, failed, finish_jobs
from openlance.apps.cluster import Share, last_line
from openlance.apps.requests_file import Job

if TYPE_CHECKING:
    from numpy.typing import NDArray

RETRIES = 3
"""How often a block of requests is tried again when the actor that had it dies."""
JOB, FINISHED = "job", "finished"


class ClusterFailed(RuntimeError):
    """The replicas cannot work: the model cannot be loaded, or the cluster is gone."""


class ReplicaLost(RuntimeError):
    """A replica died of a request, again and again."""


class Replica:
    """An actor of the pool: one loaded model. A block of jobs in, what came of them out."""

    def __init__(self, load: Callable[[], Any], suffixes: Suffixes) -> None:
        self._lance = load()
        self._suffixes = suffixes

    def __call__(self, block: dict[str, NDArray[Any]]) -> dict[str, list[bytes]]:
        jobs = [pickle.loads(row) for row in block[JOB]]
        return {FINISHED: [pickle.dumps(each) for each in self._finish(jobs)]}

    def _finish(self, jobs: list[Job]) -> list[Finished]:
        """An error of the engine itself, like memory that runs out, is the fault of a job that was alone; several are tried again alone."""
        try:
            return list(finish_jobs(self._lance, jobs, len(jobs), self._suffixes))
        except Exception as error:
            if len(jobs) > 1:
                raise
            return [failed(jobs[0], error)]


@dataclass(frozen=True)
class ClusterBatch:
    """How a cluster works on requests. `load` makes the model in each replica; `batch_size`: requests active in one at a time."""

    load: Callable[[], Any]
    share: Share
    batch_size: int
    suffixes: Suffixes

    def run(self, jobs: Sequence[Job]) -> Iterator[Finished]:
        """Exactly one result a job, as they come.

        A block whose actor dies is tried again. Jobs whose blocks come to nothing even so are tried once more, each in a block of its
        own: one that kills its actor takes no other with it. Raises ClusterFailed.
        """
        left = {job.id: job for job in jobs}
        for size in (self.batch_size, 1):
            if left:
                for finished in self._pass(list(left.values()), size):
                    if left.pop(finished.id, None) is not None:
                        yield finished
        for job in left.values():
            yield failed(job, ReplicaLost(f"the replica died {RETRIES + 1} times at this request: ask for less, or give it more memory"))

    def _pass(self, jobs: list[Job], size: int) -> Iterator[Finished]:
        """What came of the jobs, in blocks of `size`, by which everything is read, sent, tried again and brought back."""
        import ray
        from ray.data import ActorPoolStrategy

        _quieten()
        blocks = -(-len(jobs) // size)
        here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
        requests = ray.data.from_items([{JOB: pickle.dumps(job)} for job in jobs], override_num_blocks=blocks)
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # max_task_retries has no successor yet
            finished = requests.map(_with_media, num_cpus=0, label_selector=here).map_batches(
                Replica,
                fn_constructor_args=(self.load, self.suffixes),
                batch_size=None,
                batch_format="numpy",
                compute=ActorPoolStrategy(size=min(self.share.replicas, blocks), max_tasks_in_flight_per_actor=2),
                num_cpus=self.share.cpus,
                num_gpus=self.share.gpus,
                max_task_retries=RETRIES,
            )
        try:
            for row in finished.iter_rows():
                yield pickle.loads(row[FINISHED])
        except ray.exceptions.RayError as error:
            raise ClusterFailed(last_line(error)) from error


def _with_media(row: dict[str, bytes]) -> dict[str, bytes]:
    """A job with the bytes of its media instead of their paths. What cannot be read stays a path: the replica says what is wrong."""
    job: Job = pickle.loads(row[JOB])
    return {JOB: pickle.dumps(replace(job, media=tuple(_content(medium) for medium in job.media)))}


def _content(medium: Path | bytes) -> Path | bytes:
    try:
        return medium.read_bytes() if isinstance(medium, Path) else medium
    except OSError:
        return medium


def _quieten() -> None:
    """Ray's own progress and reports give way to ours; blocks that fail are this module's affair, an actor that cannot start is not."""
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_errored_blocks = -1
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
