"""Several workers in the place of one: that of this process and one for each process with a copy of the model.

Each steps at its own pace. A request goes to whoever has least to do before it and stays there; a question, of equals, to whoever is
free first. A step computes with an equal share of the cores of those that have requests, so a lone request with all of them.
"""

import dataclasses
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from openlance.apps.serve.admission import free_bytes
from openlance.apps.serve.cores import Cores
from openlance.apps.serve.metrics import Metrics
from openlance.apps.serve.settings import WorkerLimits
from openlance.apps.serve.worker import Handle, Worker

if TYPE_CHECKING:
    from openlance.apps.serve.footprint import Footprint
    from openlance.engine.prepare import Plan
    from openlance.engine.remote import RemoteEngine
    from openlance.engine.request import Request
    from openlance.pipeline import Lance

WAIT_SECONDS = 0.2
"""Between two looks at the processes."""
MOST_FAILURES = 3
"""Processes that may end before they have loaded the model, until no more are started."""

log = logging.getLogger("openlance.serve")


class Pool:
    """As many workers as there are `processes`, which share the limits and the `cores`; used like one `Worker`.

    `load` gives a process its model. The processes are kept by `grow` and take part once they have it.
    """

    def __init__(self, lance: "Lance", limits: WorkerLimits, load: "Callable[[], Lance]", processes: int, cores: Cores) -> None:
        self.lance = lance
        self.metrics = Metrics()
        memory = limits.memory_bytes or free_bytes(str(lance.model.device)) // 2
        self._limits = dataclasses.replace(
            limits,
            memory_bytes=memory // processes,
            max_queue=max(1, limits.max_queue // processes),
            max_active=max(1, limits.max_active // processes),
        )
        self._load, self._processes = load, processes
        self._cores = cores
        self._workers = [Worker(lance, self._limits, self.metrics, cores=cores)]
        self._engines: list[RemoteEngine] = []
        self._starting: list[RemoteEngine] = []
        self._failures = 0
        self._changing = threading.Lock()
        """Held while processes and workers come and go, so that none comes after the end."""
        self._stopped = threading.Event()

    def start(self) -> "Pool":
        self._workers[0].start()
        return self

    def grow(self) -> None:
        """Start the other processes, let each take part when it is ready, and start another for one that died; until the pool stops."""
        while not self._stopped.wait(WAIT_SECONDS):
            with self._changing:
                if not self._stopped.is_set():
                    self._tend()

    def _tend(self) -> None:
        from openlance.engine.remote import RemoteEngine

        first, *others = self._workers
        ended = [worker for worker in others if not worker.alive and worker.idle]
        self._workers = [first, *(worker for worker in others if worker not in ended)]
        for worker in ended:
            worker.stop()
        self._engines = [engine for engine in self._engines if engine.alive]
        while len(self._engines) < self._processes - 1 and self._failures < MOST_FAILURES:
            self._starting.append(RemoteEngine(self._load))
            self._engines.append(self._starting[-1])
        for engine in self._starting.copy():
            if engine.ready():
                self._workers.append(Worker(self.lance, self._limits, self.metrics, engine, self._cores).start())
            elif engine.alive:
                continue
            else:
                self._failures += 1
                log.error("a process could not load the model")
            self._starting.remove(engine)

    @property
    def size(self) -> int:
        """Workers that take requests now."""
        return sum(worker.alive for worker in self._workers)

    @property
    def alive(self) -> bool:
        return self._workers[0].alive

    @property
    def idle(self) -> bool:
        return all(worker.idle for worker in self._workers)

    def plan(self, request: "Request") -> "tuple[Plan, Footprint]":
        """As of a `Worker`."""
        return self._workers[0].plan(request)

    def submit(self, request: "Request", deadline: float | None = None) -> Handle:
        """As of a `Worker`."""
        first, *others = self._workers
        short = request.task.output == "text"
        candidates = (first, *(worker for worker in others if worker.alive))
        # Of equals the first: two threads take 0.36 s for a picture here and 0.42 s in a process that sleeps between steps (LOG.md).
        # An answer is short beside the step it waits for: it goes where that ends first.
        least = min(candidates, key=lambda worker: (worker.load(short), worker.step_left() if short else 0.0, worker.load()))
        return least.submit(request, deadline)

    def close(self) -> None:
        """As of a `Worker`."""
        for worker in self._workers:
            worker.close()

    def stop(self) -> None:
        """As of a `Worker`; the other processes end."""
        with self._changing:
            self._stopped.set()
        for worker in self._workers:
            worker.stop()
        for engine in self._engines:
            engine.close()
