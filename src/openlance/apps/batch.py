"""Many requests through one engine: some are active at a time, each leaves when it is done and the next one enters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from openlance.apps.requests_file import Job
from openlance.media.encode import encode
from openlance.media.read import read_media
from openlance.sequence.tasks import find_task

if TYPE_CHECKING:
    from openlance.engine.engine import Result, Ticket
    from openlance.engine.request import Request
    from openlance.pipeline import Lance

OnStep = Callable[[Job, Any], None]


@dataclass(frozen=True)
class Suffixes:
    """The formats that media are written in, with their dots."""

    image: str = ".png"
    video: str = ".mp4"


@dataclass(frozen=True)
class Finished:
    """What came of a job, ready to be written: the bytes of a file and its suffix, or text, or an error."""

    id: str
    task: str
    file: bytes | None = None
    suffix: str = ""
    text: str | None = None
    seconds: float = 0.0
    error: str | None = None
    notices: tuple[str, ...] = ()


def finish_jobs(lance: Lance, jobs: Iterable[Job], batch_size: int, suffixes: Suffixes) -> Iterator[Finished]:
    """`run_jobs`, its media encoded."""
    for job, result in run_jobs(lance, jobs, batch_size):
        yield _finished(job, result, suffixes)


def failed(job: Job, error: Exception) -> Finished:
    """A job that came to nothing."""
    return Finished(job.id, job.task, error=str(error) or type(error).__name__)


def _finished(job: Job, result: Result | Exception, suffixes: Suffixes) -> Finished:
    if isinstance(result, Exception):
        return failed(job, result)
    seconds, notices = round(result.seconds, 3), tuple(result.notices)
    if result.clip is None:
        return Finished(job.id, job.task, text=result.text, seconds=seconds, notices=notices)
    suffix = suffixes.image if result.clip.is_image else suffixes.video
    try:
        return Finished(job.id, job.task, encode(result.clip, suffix), suffix, seconds=seconds, notices=notices)
    except Exception as error:  # a size that the format cannot hold is the request's own affair
        return failed(job, error)


def run_jobs(lance: Lance, jobs: Iterable[Job], batch_size: int, on_step: OnStep | None = None) -> Iterator[tuple[Job, Result | Exception]]:
    """Results as they come, in the order in which requests finish; what one request fails with stops no other.

    At most `batch_size` requests are active. Closing the iterator cancels those that are.
    """
    waiting = iter(jobs)
    active: list[tuple[Job, Ticket]] = []
    try:
        while True:
            while len(active) < batch_size and (job := next(waiting, None)) is not None:
                try:
                    active.append((job, lance.engine.submit(_request(lance, job, on_step))))
                except Exception as error:  # whatever a request brings is its own affair
                    yield job, error
            if not active:
                return
            lance.engine.step()
            finished = [(job, ticket) for job, ticket in active if ticket.future.done()]
            active = [(job, ticket) for job, ticket in active if not ticket.future.done()]
            for job, ticket in finished:
                yield job, _outcome(ticket.future)
    finally:
        for _, ticket in active:
            ticket.cancel()
        if active:
            lance.engine.step([])


def _request(lance: Lance, job: Job, on_step: OnStep | None) -> Request:
    clips = [read_media(path) for path in job.media]
    request = lance.request(find_task(job.task), job.prompt, clips, **job.parameters)
    if on_step is None:
        return request
    return dataclasses.replace(request, on_progress=lambda progress: on_step(job, progress))


def _outcome(future: Future[Result]) -> Result | Exception:
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, Exception):
        return error
    raise error
