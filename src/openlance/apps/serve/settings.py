"""What the server allows: every limit in one place, each with its unit."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from openlance.errors import RequestError
from openlance.media.limits import MediaLimits

MIB = 2**20
UPLOADS = MediaLimits(bytes=64 * MIB, pixels=24 * MIB, frames=3_600, seconds=120.0, decoded_bytes=384 * MIB)
"""Bounds on one picture or clip from a client, checked before and while it is decoded."""


@dataclass(frozen=True)
class WorkerLimits:
    """How much work is taken on, and how it is shared out."""

    max_queue: int = 64
    """Requests that may wait; one more is refused with 429."""
    max_active: int = 32
    """Requests that share the engine's steps."""
    memory_bytes: int | None = None
    """For contexts, activations and frames of active requests; None: half of what is free when the server starts."""
    step_seconds: float = 0.07
    """Longest step that is planned, so that a newcomer waits no longer for its first one. A single request may exceed it. One core in
    float32 takes 33 ms under load for a step of one picture of the embedded model: two fit, and more gain little (LOG.md)."""
    long_share: float = 0.25
    """Share of time that pictures and clips keep while answers are being written."""
    deadline_seconds: float = 600.0
    """A request that is not finished by then is given up."""


@dataclass(frozen=True)
class ServeSettings:
    """A whole server."""

    host: str = "127.0.0.1"
    port: int = 8000
    data_dir: Path = field(default_factory=lambda: default_data_dir())
    api_keys: tuple[str, ...] = ()
    allow_remote_media: bool = False
    web: bool = True
    worker: WorkerLimits = field(default_factory=WorkerLimits)
    processes: int = 0
    """Processes that compute, each with a copy of the model and an equal share of the cores; 0: as suits model and machine."""
    uploads: MediaLimits = UPLOADS
    max_body_bytes: int = 96 * MIB
    """Largest HTTP request; base64 makes a medium a third larger."""
    body_seconds: float = 60.0
    """A request body must have arrived by then."""
    head_seconds: float = 10.0
    """The head of a request must have arrived by then."""
    max_connections: int = 1000
    max_media: int = 16
    """Media of one request, before the task says how many it takes."""
    max_jobs: int = 256
    """Video jobs that may wait."""
    jobs_at_once: int = 2
    job_seconds: float = 7 * 24 * 3600.0
    """Age at which a finished job and its file are removed."""
    jobs_bytes: int = 4 * 1024 * MIB
    """Size of all stored files at which the oldest finished jobs are removed."""
    shutdown_seconds: float = 20.0
    """Time that running requests get when the server is asked to stop."""

    @property
    def loopback(self) -> bool:
        return self.host in ("127.0.0.1", "::1", "localhost")


def default_data_dir() -> Path:
    """OPENLANCE_DATA, else the user's data folder."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(os.environ.get("OPENLANCE_DATA") or Path(home) / "openlance")


def read_keys(path: Path) -> tuple[str, ...]:
    """API keys, one a line; empty lines and lines that start with # do not count. Raises RequestError when there is none."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"the key file '{path}' cannot be read ({error}): give a text file with one key a line") from error
    keys = tuple(line for line in lines if line and not line.startswith("#"))
    if not keys:
        raise RequestError(f"the key file '{path}' holds no key: write one a line, or leave --api-key-file out")
    return keys
