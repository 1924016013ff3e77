"""The cores of the machine, shared out among workers step by step: all to the only one that has requests, equal shares to several."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Cores:
    """`count` cores for the steps of several workers. No core is given twice, unless more workers have requests than there are cores.

    That matters because threads of OpenMP spin while they wait for each other: where there are more of them than cores they spin in the
    place of the one that they wait for. Two processes of two threads on two cores took 8 times as long as one (LOG.md).
    """

    def __init__(self, count: int, workers: int = 1) -> None:
        self.count = count
        self.least = max(1, count // workers)
        """The share when all `workers` have requests."""
        self._held = 0
        self._busy: set[object] = set()
        self._changed = threading.Condition()

    @property
    def share(self) -> int:
        """Cores of a step that starts now."""
        return max(1, self.count // max(1, len(self._busy)))

    def join(self, worker: object) -> None:
        """Count on `worker` as one with requests."""
        with self._changed:
            self._busy.add(worker)

    def leave(self, worker: object) -> None:
        """`worker` has none: its share is the others'."""
        with self._changed:
            self._busy.discard(worker)

    @contextmanager
    def held(self, most: int) -> Iterator[int]:
        """Hold a share of at most so many for a step, once those steps have ended that hold more than theirs. Gives how many it is."""
        with self._changed:
            self._changed.wait_for(lambda: self._held + min(most, self.share) <= max(self.count, len(self._busy)))
            cores = min(most, self.share)
            self._held += cores
        try:
            yield cores
        finally:
            with self._changed:
                self._held -= cores
                self._changed.notify_all()
