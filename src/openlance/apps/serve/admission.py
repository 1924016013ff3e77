"""Who may come in: a bounded queue in fair order, and the budget that decides how many are inside."""

import os
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from openlance.errors import RequestError

STRETCH = 4.0
"""How long a request may be expected to wait, in multiples of its own length."""
MIB = 2**20


class Refused(RuntimeError):
    """The server cannot take a request now; `retry_after` seconds later it may."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Refused):
    """As many requests wait as may."""


class ShuttingDown(Refused):
    """The server is about to stop."""


class TooLarge(RequestError):
    """A request that would not fit even alone."""


class Applicant(Protocol):
    """What the queue knows of a request."""

    @property
    def due(self) -> float: ...
    @property
    def bytes(self) -> int: ...


def due_time(arrived: float, seconds: float) -> float:
    """When a request should be done: its arrival plus a multiple of its own length.

    Served in this order, short requests pass long ones, but only those that came within STRETCH lengths of the long one: nobody starves.
    """
    return arrived + STRETCH * seconds


@dataclass
class Budget:
    """Memory and places of the requests that are active."""

    bytes: int
    places: int
    used: int = 0
    taken: int = 0

    def check(self, needed: int) -> None:
        """Raises TooLarge if `needed` bytes are never to be had."""
        if needed > self.bytes:
            raise TooLarge(
                f"this request needs about {needed / MIB:.0f} MiB while it runs and the server has {self.bytes / MIB:.0f} MiB: "
                "ask for a smaller size, fewer frames or fewer media"
            )

    def fits(self, needed: int) -> bool:
        return self.taken < self.places and self.used + needed <= self.bytes

    def take(self, needed: int) -> None:
        self.used += needed
        self.taken += 1

    def give_back(self, needed: int) -> None:
        self.used -= needed
        self.taken -= 1


A = TypeVar("A", bound=Applicant)


@dataclass
class Waiting(Generic[A]):
    """The queue. Not thread-safe: its owner holds a lock."""

    limit: int
    applicants: list[A] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.applicants)

    def add(self, applicant: A, retry_after: float) -> None:
        """Raises QueueFull when as many wait as may."""
        if len(self.applicants) >= self.limit:
            raise QueueFull(
                f"{len(self.applicants)} requests are waiting already, which is the limit: try again in {retry_after:.0f} s", retry_after
            )
        self.applicants.append(applicant)
        self.applicants.sort(key=lambda a: a.due)

    def remove(self, applicant: A) -> None:
        if applicant in self.applicants:
            self.applicants.remove(applicant)

    def admit(self, budget: Budget, now: float) -> list[A]:
        """Those that come in now, in order. One that does not fit is passed over by smaller ones until it is due."""
        admitted = []
        for applicant in list(self.applicants):
            if budget.fits(applicant.bytes):
                budget.take(applicant.bytes)
                self.applicants.remove(applicant)
                admitted.append(applicant)
            elif applicant.due <= now:
                break
        return admitted


def free_bytes(device: str) -> int:
    """Memory that is free now: of the GPU, or of the machine."""
    if device.startswith("cuda"):
        import torch

        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return int(os.sysconf("SC_PHYS_PAGES")) * int(os.sysconf("SC_PAGE_SIZE")) // 2
