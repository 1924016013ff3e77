"""The table of jobs: what was promised, written down before it is promised. SQLite for what is known, a folder for files.

A job is `queued`, `in_progress`, `completed` or `failed`. Files are named by the job's own id, never by anything a client sent.
Whatever moment the process dies at, the next start finds every acknowledged job and no half-written file. Several processes, on machines
that share the folder, may work on one table: a job that is in progress names its holder, and goes to another when its holder is dead.
"""

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from openlance.apps.serve.life import Life
from openlance.errors import LanceError
from openlance.media.write import write_bytes

ID_BYTES = 24
MAX_ATTEMPTS = 3
FINISHED = ("completed", "failed")
COLUMNS = (
    "id TEXT PRIMARY KEY, owner TEXT NOT NULL, created REAL NOT NULL, status TEXT NOT NULL, attempts INTEGER NOT NULL, "
    "finished REAL, bytes INTEGER NOT NULL, request TEXT NOT NULL, error TEXT"
)
ADDED = {"holder": "TEXT", "progress": "INTEGER NOT NULL DEFAULT 0"}
"""Columns that tables of earlier servers lack."""
BUSY_SECONDS = 60.0
"""Time that another process may keep the table to itself, which it does while it writes the files of a job."""


class StoreError(LanceError):
    """The job store cannot be opened or written."""


@dataclass(frozen=True)
class Job:
    """One job. `request`: what is to be made, as JSON; `error`: {code, message}; times are seconds since 1970."""

    id: str
    owner: str
    created: float
    request: dict[str, Any]
    status: str = "queued"
    attempts: int = 0
    finished: float | None = None
    bytes: int = 0
    error: dict[str, str] | None = None
    holder: str | None = None
    """The `JobStore` that works on it."""
    progress: int = field(default=0, compare=False)
    """Percent; of a job that another process works on, as of its last `publish`."""


class JobStore:
    """Thread-safe; any number of processes may use a folder."""

    def __init__(self, folder: Path, max_age: float, max_bytes: int) -> None:
        """Raises StoreError when the folder cannot be used."""
        self.folder = folder
        self.max_age = max_age
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        self._progress: dict[str, int] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(folder / "jobs.sqlite", check_same_thread=False, isolation_level=None, timeout=BUSY_SECONDS)
            # No write-ahead log: it needs memory that all processes share, which machines that share a folder do not have.
            self._db.execute("PRAGMA journal_mode=DELETE")
            self._db.execute("PRAGMA synchronous=FULL")
            with self._alone():
                self._db.execute(f"CREATE TABLE IF NOT EXISTS jobs ({COLUMNS})")
                there = {row[1] for row in self._db.execute("PRAGMA table_info(jobs)")}
                for name in ADDED.keys() - there:
                    self._db.execute(f"ALTER TABLE jobs ADD COLUMN {name} {ADDED[name]}")
                self._life = Life(folder)
                self._take_over()
                self._remove_orphans()
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"the job folder '{folder}' cannot be used ({error}): choose another with --data-dir") from error

    def close(self) -> None:
        """What is still in progress here goes to another process, or waits for the next start."""
        with self._lock:
            self._life.end()
            self._db.close()

    def create(self, owner: str, request: dict[str, Any], given: bytes | None = None) -> Job:
        """Write a new job down, with the medium it starts from. Raises StoreError when there is no space."""
        job = Job(f"video_{secrets.token_urlsafe(ID_BYTES)}", owner, time.time(), request, bytes=len(given or b""))
        with self._writing(), self._alone():
            if given is not None:
                write_bytes(given, self.path(job.id, "input"))
            self._write(job)
        return job

    def get(self, job_id: str, owner: str) -> Job | None:
        """The job of this owner, or None."""
        with self._lock:
            rows = self._read("WHERE id = ? AND owner = ?", (job_id, owner))
        return rows[0] if rows else None

    def listed(self, owner: str, after: str | None = None, limit: int = 20, newest_first: bool = True) -> list[Job]:
        """Jobs of an owner by age; `after`: the id of the last one already seen."""
        order = "DESC" if newest_first else "ASC"
        with self._lock:
            jobs = self._read(f"WHERE owner = ? ORDER BY created {order}, id {order}", (owner,))
        start = next((i + 1 for i, job in enumerate(jobs) if job.id == after), 0)
        return jobs[start : start + limit]

    def next(self) -> Job | None:
        """Take the oldest queued job: it is in progress here from now on."""
        if not self.counts().get("queued"):
            return None
        with self._alone():
            rows = self._read("WHERE status = 'queued' ORDER BY created LIMIT 1", ())
            if not rows:
                return None
            job = replace(rows[0], status="in_progress", attempts=rows[0].attempts + 1, holder=self._life.name, progress=0)
            self._write(job)
            return job

    def requeue(self, job_id: str) -> None:
        """Give an unfinished job back; the try does not count."""
        with self._lock:
            self._db.execute(
                "UPDATE jobs SET status = 'queued', attempts = MAX(attempts - 1, 0) WHERE id = ? AND status = 'in_progress' AND holder = ?",
                (job_id, self._life.name),
            )
            self._progress.pop(job_id, None)

    def publish(self, job_ids: Sequence[str]) -> list[str]:
        """Tell other processes how far jobs that run here are. Returns those that need not go on: cancelled or deleted elsewhere."""
        with self._lock:
            rows = self._db.execute("SELECT id, progress FROM jobs WHERE status = 'in_progress' AND holder = ?", (self._life.name,))
            told = dict(rows.fetchall())
            for job_id in job_ids:
                percent = self._progress.get(job_id, 0)
                if told.get(job_id, percent) != percent:
                    self._db.execute("UPDATE jobs SET progress = ? WHERE id = ?", (percent, job_id))
        return [job_id for job_id in job_ids if job_id not in told]

    def complete(self, job_id: str, files: dict[str, bytes]) -> None:
        """Store the results of a job, by suffix. A job that was deleted meanwhile leaves nothing. Raises StoreError."""
        with self._writing(), self._alone():
            job = self._one(job_id)
            if job is None or job.status in FINISHED:
                return
            for suffix, data in files.items():
                write_bytes(data, self.path(job_id, suffix))
            size = job.bytes + sum(len(data) for data in files.values())
            self._write(replace(job, status="completed", finished=time.time(), bytes=size))
            self._progress.pop(job_id, None)

    def fail(self, job_id: str, code: str, message: str) -> None:
        """Record why a job came to nothing; one that is finished already stays as it is."""
        with self._alone():
            self._fail(job_id, code, message)

    def _fail(self, job_id: str, code: str, message: str) -> None:
        job = self._one(job_id)
        if job is not None and job.status not in FINISHED:
            self._write(replace(job, status="failed", finished=time.time(), error={"code": code, "message": message}))
        self._progress.pop(job_id, None)

    def delete(self, job_id: str) -> None:
        """Forget a job and remove its files."""
        with self._lock:
            self._db.execute("DELETE FROM jobs WHERE id = ?", (job_id,))
            self._progress.pop(job_id, None)
        for path in self.folder.glob(f"{job_id}.*"):
            path.unlink(missing_ok=True)

    def report(self, job_id: str, percent: int) -> None:
        """Remember how far a running job is."""
        self._progress[job_id] = percent

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        with self._lock:
            return dict(self._db.execute("SELECT status, COUNT(*) FROM jobs GROUP BY status").fetchall())

    def sweep(self) -> list[str]:
        """Take over the jobs of dead processes; remove finished jobs that are too old, then the oldest ones while all files are too large.

        Returns the ids of those that are gone.
        """
        now = time.time()
        with self._alone():
            self._take_over()
            finished = self._read("WHERE status IN ('completed', 'failed') ORDER BY finished", ())
            (total,) = self._db.execute("SELECT COALESCE(SUM(bytes), 0) FROM jobs").fetchone()
        gone = []
        for job in finished:
            if now - (job.finished or now) > self.max_age or total > self.max_bytes:
                self.delete(job.id)
                total -= job.bytes
                gone.append(job.id)
        return gone

    def path(self, job_id: str, suffix: str) -> Path:
        return self.folder / f"{job_id}.{suffix}"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, LanceError) as error:
            raise StoreError(f"the job could not be stored ({error}): the operator must free space in the data folder") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else, thread or process, changes the table or the files meanwhile; all that is done, is done at its end or not at all."""
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _take_over(self) -> None:
        """Queue what dead processes were at, and give up what kills process after process."""
        jobs = self._read("WHERE status = 'in_progress'", ())
        dead = {holder for holder in {job.holder for job in jobs} if not self._life.goes_on(holder)}
        for job in jobs:
            if job.holder not in dead:
                continue
            if job.attempts >= MAX_ATTEMPTS:
                self._fail(job.id, "server_crashed", f"the server stopped {job.attempts} times while it made this video: ask for less")
            else:
                self._write(replace(job, status="queued"))

    def _remove_orphans(self) -> None:
        """Files without a job. Whoever writes one is alone with the table until its job is in there: none is lost that is wanted."""
        known = {row[0] for row in self._db.execute("SELECT id FROM jobs")}
        for path in [*self.folder.glob("video_*.*"), *self.folder.glob(".*.tmp")]:
            if path.name.split(".")[0] not in known:
                path.unlink(missing_ok=True)

    def _one(self, job_id: str) -> Job | None:
        rows = self._read("WHERE id = ?", (job_id,))
        return rows[0] if rows else None

    def _read(self, where: str, values: tuple[Any, ...]) -> list[Job]:
        columns = "id, owner, created, request, status, attempts, finished, bytes, error, holder, progress"
        return [self._job(*row) for row in self._db.execute(f"SELECT {columns} FROM jobs {where}", values).fetchall()]

    def _job(self, id: str, owner: str, created: float, request: str, *rest: Any) -> Job:
        status, attempts, finished, size, error, holder, progress = rest
        told = json.loads(error) if error else None
        progress = self._progress.get(id, progress)
        return Job(id, owner, created, json.loads(request), status, attempts, finished, size, told, holder, progress)

    def _write(self, job: Job) -> None:
        row = asdict(job)
        row["request"] = json.dumps(job.request)
        row["error"] = json.dumps(job.error) if job.error else None
        names = ", ".join(row)
        with self._lock:
            self._db.execute(f"INSERT OR REPLACE INTO jobs ({names}) VALUES ({', '.join(':' + name for name in row)})", row)
