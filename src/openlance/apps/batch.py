"""Many requests through one engine: some are active at a time, each leaves when it is done and the next one enters."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from openlance.apps.requests_file import Job
from openlance.media.read import read_media
from openlance.sequence.tasks import find_task

if TYPE_CHECKING:
    from openlance.engine.engine import Result, Ticket
    from openlance.engine.request import Request
    from openlance.pipeline import Lance

OnStep = Callable[[Job, Any], None]


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
