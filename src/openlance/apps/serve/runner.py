"""Runs stored jobs on the worker, a few at a time, and keeps the store within its bounds."""

import asyncio
import dataclasses
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from openlance.apps.serve.admission import Refused
from openlance.apps.serve.errors import api_error
from openlance.apps.serve.jobs import Job, JobStore, StoreError
from openlance.apps.serve.media import MediaDoor
from openlance.apps.serve.pool import Pool
from openlance.apps.serve.worker import Handle, Worker
from openlance.errors import Cancelled

if TYPE_CHECKING:
    from openlance.engine.request import Progress, Request
    from openlance.media.clip import Clip

log = logging.getLogger("openlance.serve")
SWEEP_SECONDS = 30.0
POLL_SECONDS = 1.0
"""How soon a job that came in at another process is noticed, and another process sees how far one is here."""
RETRY_SECONDS = 0.5
SHEET_FRAMES = 8
JOB_DEADLINE = 3600.0


class JobRunner:
    """`start` in an event loop; `nudge` when a job was added; `close` to start no more, `stop` before the worker stops."""

    def __init__(self, worker: Worker | Pool, store: JobStore, media: MediaDoor, at_once: int) -> None:
        self.worker = worker
        self.store = store
        self.media = media
        self.at_once = at_once
        self._more = asyncio.Event()
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self._running: dict[str, Handle] = {}

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self.at_once)] + [
            asyncio.create_task(self._sweep()),
            asyncio.create_task(self._publish()),
        ]

    def nudge(self) -> None:
        """There is a new job."""
        self._more.set()

    def cancel(self, job_id: str) -> None:
        """End a job; it becomes `failed` with code `cancelled`."""
        self.store.fail(job_id, "cancelled", "the job was cancelled")
        handle = self._running.get(job_id)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Start no other job."""
        self._closing = True

    async def stop(self) -> None:
        """End everything; jobs that are not finished are queued again."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self) -> None:
        while not self._closing:
            job = await asyncio.to_thread(self.store.next)
            if job is None:
                self._more.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._more.wait(), POLL_SECONDS)
                continue
            await self._run(job)

    async def _run(self, job: Job) -> None:
        """One job to its end. Whatever happens, it is finished or queued again afterwards."""
        try:
            request = dataclasses.replace(await self.request_of(job), on_progress=lambda progress: self._report(job, progress))
            handle = await self._submit(request)
            self._running[job.id] = handle
            try:
                result = await asyncio.wrap_future(handle.future)
            finally:
                self._running.pop(job.id, None)
                handle.cancel()
            assert result.clip is not None
            files = await asyncio.to_thread(encode_result, result.clip)
            await asyncio.to_thread(self.store.complete, job.id, files)
        except asyncio.CancelledError:
            self.store.requeue(job.id)
            raise
        except Refused:
            self.store.requeue(job.id)
            await asyncio.sleep(RETRY_SECONDS)
        except Exception as error:
            if self._closing and isinstance(error, Cancelled):
                self.store.requeue(job.id)
                return
            told = api_error(error)
            code = "storage" if isinstance(error, StoreError) else told.code or told.kind
            await asyncio.to_thread(self._fail, job.id, code, str(told.detail))

    def _fail(self, job_id: str, code: str, message: str) -> None:
        try:
            self.store.fail(job_id, code, message)
        except Exception:
            log.exception("job %s could not be marked as failed; it runs again after a restart", job_id)

    async def _submit(self, request: "Request") -> Handle:
        """Queue the request as soon as there is room: the job is promised already."""
        while True:
            try:
                return await asyncio.to_thread(self.worker.submit, request, JOB_DEADLINE)
            except Refused:
                if not self.worker.alive:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def request_of(self, job: Job) -> "Request":
        """The engine's request of a job, its medium read from the store."""
        path = self.store.path(job.id, "input")
        clips = [await self.media.from_bytes(await asyncio.to_thread(path.read_bytes))] if path.exists() else []
        return build_request(self.worker, job.request, clips)

    def _report(self, job: Job, progress: "Progress") -> None:
        self.store.report(job.id, min(99, 100 * progress.step // progress.total))

    async def _publish(self) -> None:
        """Other processes see how far jobs are, and may end them."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            for job_id in await asyncio.to_thread(self.store.publish, list(self._running)):
                if handle := self._running.get(job_id):
                    handle.cancel()

    async def _sweep(self) -> None:
        while True:
            for job_id in await asyncio.to_thread(self.store.sweep):
                log.info("job %s expired", job_id)
            for status in ("queued", "in_progress", "completed", "failed"):
                self.worker.metrics.jobs.labels(status).set(self.store.counts().get(status, 0))
            await asyncio.sleep(SWEEP_SECONDS)


def build_request(worker: Worker | Pool, stored: dict[str, Any], clips: "list[Clip]") -> "Request":
    """A video request: from nothing, from a first frame, or from a clip that is changed. Raises RequestError."""
    from openlance.sequence.tasks import infer_task

    kinds = tuple("image" if clip.is_image else "video" for clip in clips)
    task = infer_task("video", kinds, first_frame=kinds == ("image",))
    return worker.lance.request(task, stored["prompt"], clips, seed=stored["seed"], **stored["parameters"])


def encode_result(clip: "Clip") -> dict[str, bytes]:
    """The files of a finished job by suffix: the clip, its first frame, all its frames on one sheet."""
    from openlance.media.clip import Clip
    from openlance.media.encode import encode
    from openlance.media.sheet import contact_sheet

    sheet = contact_sheet([clip], columns=1, frames_per_clip=SHEET_FRAMES)
    return {
        "mp4": encode(clip, "mp4"),
        "webp": encode(Clip.from_image(clip.image()), "webp"),
        "jpg": encode(Clip.from_image(sheet), "jpeg"),
    }
