"""The worker: one thread owns the engine; any thread may submit, wait and cancel."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, Protocol

import torch

from openlance.apps.serve.admission import Budget, ShuttingDown, Waiting, due_time, free_bytes
from openlance.apps.serve.cores import Cores
from openlance.apps.serve.footprint import Footprint, footprint
from openlance.apps.serve.metrics import Metrics
from openlance.apps.serve.schedule import Active, Schedule
from openlance.apps.serve.settings import WorkerLimits
from openlance.errors import Cancelled, RequestError

if TYPE_CHECKING:
    from openlance.engine.engine import Result, Ticket
    from openlance.engine.prepare import Plan
    from openlance.engine.remote import Away
    from openlance.engine.request import Request
    from openlance.pipeline import Lance

log = logging.getLogger("openlance.serve")


class Stepper(Protocol):
    """An `Engine` or a `RemoteEngine`."""

    active: Any
    """Tickets that are not finished."""

    @property
    def alive(self) -> bool: ...

    def submit(self, request: "Request", planned: "Plan | None" = None) -> "Ticket | Away": ...

    def use_threads(self, threads: int) -> None: ...

    def step(self, chosen: Any = None) -> bool: ...


class DeadlineExceeded(Cancelled):
    """The request was not finished in the time it had."""


def _nothing() -> None:
    """Before a handle is queued nobody waits for it."""


class Handle:
    """A submitted request as its owner sees it: wait for `future`, or `cancel()`. Also what the queue and the schedule know of it."""

    def __init__(self, plan: "Plan", cost: Footprint, seconds: float, deadline: float) -> None:
        self.plan = plan
        self.cost = cost
        self.arrived = time.monotonic()
        self.due = due_time(self.arrived, seconds)
        self.deadline = self.arrived + deadline
        self.future: Future[Result] = Future()
        self.active: Active | None = None
        self.stopped: Cancelled | None = None
        self._wake: Callable[[], None] = _nothing

    @property
    def bytes(self) -> int:
        return self.cost.bytes

    @property
    def short(self) -> bool:
        return self.plan.target is None

    def cancel(self, reason: Cancelled | None = None) -> None:
        """End the request before its next step; its future raises Cancelled. Harmless when it is finished."""
        self.stopped = self.stopped or reason or Cancelled("the request was cancelled")
        self._wake()

    def finish(self, result: "Result | None", error: BaseException | None) -> None:
        """Resolve the future; an owner that gave it up before does not matter."""
        try:
            if error is not None:
                self.future.set_exception(error)
            elif result is not None:
                self.future.set_result(result)
        except InvalidStateError:
            pass


class Worker:
    """Runs requests of all users on one engine, that of `lance` or another, until `stop`.

    `cores`: those that it shares with other workers; without them its engine computes with the threads that torch has.
    """

    def __init__(
        self,
        lance: "Lance",
        limits: WorkerLimits | None = None,
        metrics: Metrics | None = None,
        engine: Stepper | None = None,
        cores: Cores | None = None,
    ) -> None:
        self.lance = lance
        self.engine: Stepper = engine or lance.engine
        self.limits = limits or WorkerLimits()
        self.metrics = metrics or Metrics()
        self._cores = cores or Cores(torch.get_num_threads())
        memory = self.limits.memory_bytes or free_bytes(str(lance.model.device)) // 2
        self.budget = Budget(memory, self.limits.max_active)
        self.schedule = Schedule(self.limits.step_seconds, self.limits.long_share)
        self._waiting: Waiting[Handle] = Waiting(self.limits.max_queue)
        self._active: list[Handle] = []
        self._changed = threading.Condition()
        self._closing = False
        self._stopping = False
        self._step_ends = 0.0
        self._thread = threading.Thread(target=self._run, name="openlance-worker", daemon=True)
        self._unwatch = self.metrics.watch(lambda: len(self._waiting), lambda: len(self._active))

    def start(self) -> "Worker":
        self._thread.start()
        return self

    @property
    def alive(self) -> bool:
        return self._thread.is_alive() and self.engine.alive

    @property
    def idle(self) -> bool:
        with self._changed:
            return not self._active and not self._waiting.applicants

    def plan(self, request: "Request") -> "tuple[Plan, Footprint]":
        """What a request comes to, in the caller's thread. Raises RequestError for what the model cannot do, TooLarge for the machine."""
        from openlance.engine.prepare import plan

        planned = plan(self.lance.model, self.lance.binder, request)
        cost = footprint(self.lance.model, planned)
        self._check_length(planned, cost)
        self.budget.check(cost.bytes)
        return planned, cost

    def submit(self, request: "Request", deadline: float | None = None) -> Handle:
        """Plan a request and queue it. `deadline`: seconds from now. Raises what `plan` raises, and QueueFull or ShuttingDown for now."""
        planned, cost = self.plan(request)
        handle = Handle(planned, cost, self.predict(cost.work_tokens), deadline or self.limits.deadline_seconds)
        handle._wake = self._wake
        with self._changed:
            try:
                if self._closing or not self.alive:
                    raise ShuttingDown("the server is shutting down: try again in a moment", 5.0)
                self._waiting.add(handle, self._retry_after())
            except Exception as error:
                self.metrics.rejections.labels(type(error).__name__).inc()
                raise
            self._changed.notify()
        return handle

    def load(self, short: bool = False) -> int:
        """Tokens that its requests move through the model; of the `short` ones alone, which is what an answer waits for."""
        handles = [*self._waiting.applicants, *self._active]
        return sum(handle.cost.work_tokens for handle in handles if handle.short or not short)

    def step_left(self) -> float:
        """Predicted seconds until the step that runs now is done and a newcomer can have one."""
        return max(0.0, self._step_ends - time.monotonic())

    def predict(self, tokens: int) -> float:
        """Seconds that so many tokens would take, by what steps took so far."""
        return tokens * self.schedule.rates.token

    def close(self) -> None:
        """Take nothing new; what was taken goes on."""
        with self._changed:
            self._closing = True

    def stop(self) -> None:
        """Cancel everything and end the thread."""
        with self._changed:
            self._closing = self._stopping = True
            self._changed.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _check_length(self, planned: "Plan", cost: Footprint) -> None:
        limit = self.lance.config.transformer.max_position_embeddings
        new = 0 if planned.target else planned.request.text.resolve(self.lance.config).max_new_tokens or 0
        if cost.prompt_tokens + new > limit:
            raise RequestError(
                f"{cost.prompt_tokens} tokens of the request and max_new_tokens {new} exceed the {limit} that the model takes: "
                "shorten the prompt or ask for fewer tokens"
            )

    def _retry_after(self) -> float:
        return min(60.0, max(1.0, round(self.predict(self.load()) / 2)))

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify()

    def _run(self) -> None:
        self._cores.join(self)
        try:
            while self._turn():
                pass
        except BaseException as error:
            log.exception("the worker ended")
            for handle in [*self._active, *self._waiting.applicants]:
                handle.finish(None, error)
            raise
        finally:
            self._unwatch()
            self._cores.leave(self)

    def _turn(self) -> bool:
        """Admit, step, settle. False when stopped."""
        with self._changed:
            if not (self._stopping or self._active or self._waiting.applicants):
                self._rest()
            if self._stopping:
                self._close_all()
                return False
            now = time.monotonic()
            self._drop_expired(now)
            admitted = self._waiting.admit(self.budget, now)
        for handle in admitted:
            self._enter(handle)
        if self._active:
            self._step()
            self._settle()
        elif not admitted and self._waiting.applicants:
            time.sleep(0.005)
        return True

    def _rest(self) -> None:
        """Wait for a request, the cores being the others' meanwhile."""
        self._cores.leave(self)
        self._changed.wait_for(lambda: self._stopping or self._waiting.applicants)
        self._cores.join(self)

    def _enter(self, handle: Handle) -> None:
        ticket = self.engine.submit(handle.plan.request, handle.plan)
        handle.active = Active(ticket, handle.short, handle.due, coming=0 if handle.plan.media else handle.cost.prompt_tokens)
        self._active.append(handle)
        self.metrics.waited.observe(time.monotonic() - handle.arrived)

    def _step(self) -> None:
        """One step of the chosen requests. An error of the engine itself ends those that were in the step, and no others."""
        chosen = self.schedule.choose([handle.active for handle in self._active if handle.active])
        tickets = [active.ticket for active in chosen]
        rows = sum(len(ticket.rows) for ticket in tickets)
        tokens = sum(active.tokens for active in chosen)
        # Pixels are coded with one number of threads, whoever else is there: the last bits of convolutions depend on it.
        most = self._cores.count if all(active.tokens for active in chosen) else self._cores.least
        with self._cores.held(most) as cores:
            self.engine.use_threads(cores)
            self._step_ends = time.monotonic() + sum(map(self.schedule.rates.seconds, chosen))
            started = time.perf_counter()
            try:
                self.engine.step(tickets)
            except Exception as error:
                log.exception("a step failed")
                for ticket in tickets:
                    self._abandon(ticket, error)
            seconds = time.perf_counter() - started
        self.schedule.account(seconds)
        self.metrics.step(seconds, rows, tokens)

    def _abandon(self, ticket: "Ticket | Away", error: Exception) -> None:
        if not ticket.future.done():
            ticket.future.set_exception(error)
        if ticket in self.engine.active:
            self.engine.active.remove(ticket)
        ticket.rows = []

    def _settle(self) -> None:
        """Give results to their owners and room to those who wait."""
        for handle in list(self._active):
            assert handle.active is not None
            future = handle.active.ticket.future
            if future.done():
                self._leave(handle)
                error = future.exception()
                self._count(handle, error)
                handle.finish(None if error else future.result(), (handle.stopped or error) if error else None)

    def _count(self, handle: Handle, error: BaseException | None) -> None:
        if error is not None:
            self.metrics.failures.labels(type(handle.stopped or error).__name__).inc()
            return
        assert handle.active is not None
        self.metrics.new_tokens.inc(len(handle.active.ticket.future.result().token_ids))
        self.metrics.latency.labels(handle.plan.request.task.name).observe(time.monotonic() - handle.arrived)

    def _leave(self, handle: Handle) -> None:
        self._active.remove(handle)
        self.budget.give_back(handle.bytes)

    def _drop_expired(self, now: float) -> None:
        """End what was cancelled or ran out of time: at once where it waits, before its next step where it runs."""
        for handle in [*self._waiting.applicants, *self._active]:
            if now > handle.deadline and handle.stopped is None:
                handle.stopped = DeadlineExceeded(f"not finished after {handle.deadline - handle.arrived:.0f} s, which is the time it had")
            if handle.stopped is None:
                continue
            if handle.active is not None:
                handle.active.ticket.cancel()
            else:
                self._waiting.remove(handle)
                handle.finish(None, handle.stopped)

    def _close_all(self) -> None:
        end = Cancelled("the server was stopped")
        for handle in [*self._waiting.applicants, *self._active]:
            if handle.active is not None:
                self._abandon(handle.active.ticket, end)
            handle.finish(None, end)
        self._waiting.applicants.clear()
        self._active.clear()
