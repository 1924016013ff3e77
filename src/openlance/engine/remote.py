"""An engine in another process, to be used like one here.

On a CPU two processes of one thread get more out of two cores than one process of two threads, which share only the large products:
1.8 times the pictures a second against 1.4 times (LOG.md, "Inference").
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from openlance.engine.engine import Engine, Result, Ticket
from openlance.engine.prepare import Plan
from openlance.engine.request import Request
from openlance.errors import RequestError
from openlance.model.allocator import keep_freed_memory

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

Load = Callable[[], Any]
"""Makes something with an `engine`, in another process: a `Lance`. Must survive pickling."""
New = tuple[int, Request, list[str]]
Event = tuple[str, Any]
"""Name of a request's callback and what it is called with."""
CALLBACKS = ("on_progress", "on_text")
ENDING_SECONDS = 5.0

log = logging.getLogger("openlance.engine")


@dataclass(frozen=True)
class Orders:
    """What a process is asked to do: take requests in, end some, step some with so many threads. Requests go by number; a new
    one without its callbacks, whose names come with it.
    """

    new: list[New]
    cancelled: list[int]
    chosen: list[int]
    threads: int


@dataclass(frozen=True)
class State:
    """How a request stands after a step: lengths of its next rows, what its callbacks are to be told, and how it ended if it has."""

    rows: list[int]
    events: list[Event]
    result: Result | None = None
    error: BaseException | None = None


@dataclass(eq=False)
class Away:
    """The ticket of a request that runs in another process; what can be known of it here."""

    request: Request
    number: int
    future: Future[Result] = field(default_factory=Future)
    cancelled: bool = False
    rows: Sequence[range] = ()

    def cancel(self) -> None:
        self.cancelled = True


class RemoteEngine:
    """A process with a model of its own that takes requests and steps them when told, like an `Engine`. One thread submits and steps.

    `load` gives it its model, which may take a while: until `ready` it takes nothing. It computes with one thread until told otherwise.
    Requests of a conversation with a history belong where the history is. When the process dies its requests fail, and it is no longer
    `alive`.
    """

    def __init__(self, load: Load) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(load, theirs), name="openlance-engine", daemon=True)
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()
        self._new: list[New] = []
        self._threads = 1
        self._ready = False
        self._held: dict[int, Away] = {}
        self._ended = False
        self.active: list[Away] = []

    @property
    def alive(self) -> bool:
        """Whether the process is there to take requests."""
        return not self._ended and self._process.is_alive()

    def ready(self, seconds: float = 0.0) -> bool:
        """Whether the model has been loaded, waiting so long for it."""
        if self.alive and not self._ready and self._connection.poll(seconds):
            self._ready = self._receive() is not None
        return self._ready and self.alive

    def submit(self, request: Request, planned: Plan | None = None) -> Away:
        """As of an `Engine`, which plans anew over there. Raises RequestError for one with a history."""
        if request.history is not None:
            raise RequestError("a request with a history cannot leave the process that keeps the history")
        ticket = Away(request, next(self._numbers))
        callbacks = [name for name in CALLBACKS if getattr(request, name)]
        self._new.append((ticket.number, replace(request, on_progress=None, on_text=None), callbacks))
        self._held[ticket.number] = ticket
        self.active.append(ticket)
        if not self.alive:
            self._end()
        return ticket

    def use_threads(self, threads: int) -> None:
        """As of an `Engine`."""
        self._threads = threads

    def step(self, chosen: Sequence[Away] | None = None) -> bool:
        """As of an `Engine`. Requests that were cancelled or removed from `active` end."""
        self._order([ticket for ticket in self.active if chosen is None or ticket in chosen])
        if any(ticket.cancelled for ticket in self._held.values()):
            self._order([])  # its callback failed just now: it ends there too, even if no step follows
        return bool(self.active)

    def _order(self, chosen: Sequence[Away]) -> None:
        """Have the process step these, take in what is new and end what is gone."""
        gone = [number for number, ticket in self._held.items() if ticket.cancelled or ticket not in self.active]
        asked = [ticket.number for ticket in chosen if ticket.number in self._held and ticket.number not in gone]
        if not self.alive:
            self._end()
        elif asked or gone or self._new:
            orders = Orders(self._new, gone, asked, self._threads)
            self._new = []
            self._follow(self._exchange(orders))
        self.active = [ticket for ticket in self.active if not ticket.future.done()]

    def close(self) -> None:
        """End the process. What it was doing fails."""
        self._connection.close()
        if self._ready:
            self._process.join(ENDING_SECONDS)
        if self._process.is_alive():
            self._process.terminate()
        self._end()

    def _exchange(self, orders: Orders) -> dict[int, State]:
        try:
            self._connection.send(orders)
        except OSError:
            self._end()
            return {}
        return self._receive() or {}

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._end()
            return None

    def _follow(self, states: dict[int, State]) -> None:
        for number, state in states.items():
            ticket = self._held[number]
            ticket.rows = [range(length) for length in state.rows]
            if state.error is not None or state.result is not None:
                del self._held[number]
            _pass_on(ticket, state)

    def _end(self) -> None:
        if not self._ended and self._held:
            log.error("a process with %d requests ended", len(self._held))
        self._ended = True
        for ticket in self._held.values():
            if not ticket.future.done():
                ticket.future.set_exception(RuntimeError("the process that ran the request ended: try again"))
        self._held.clear()


def _pass_on(ticket: Away, state: State) -> None:
    """Call the callbacks of a request as the engine would have, then resolve its future."""
    error = state.error
    try:
        for name, value in state.events:
            getattr(ticket.request, name)(value)
    except Exception as raised:  # that of a callback ends its request, as in the engine
        error = raised
        ticket.cancel()
    if ticket.future.done():
        return
    if error is not None:
        ticket.future.set_exception(error)
    elif state.result is not None:
        ticket.future.set_result(state.result)


def _serve(load: Load, connection: Connection) -> None:
    """The other process: load, then do as told until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed_memory()
    torch.set_num_threads(1)
    engine: Engine = load().engine
    if engine.model.vision is not None:
        _ = engine.model.vision.tower  # its code takes seconds to import: before the first request
    tickets: dict[int, Ticket] = {}
    events: dict[int, list[Event]] = {}
    with suppress(EOFError, OSError):
        connection.send("ready")
        while True:
            orders: Orders = connection.recv()
            for number, request, callbacks in orders.new:
                heard = events[number] = []
                listeners: dict[str, Any] = {name: _listener(name, heard) for name in callbacks}
                tickets[number] = engine.submit(replace(request, **listeners))
            for number in orders.cancelled:
                if number in tickets:
                    tickets[number].cancel()
            engine.use_threads(orders.threads)
            engine.step([tickets[number] for number in orders.chosen])
            connection.send({number: _state(ticket, events[number]) for number, ticket in tickets.items()})
            for number in [number for number, ticket in tickets.items() if ticket.future.done()]:
                del tickets[number], events[number]


def _listener(name: str, heard: list[Event]) -> Callable[[Any], None]:
    return lambda value: heard.append((name, value))


def _state(ticket: Ticket, events: list[Event]) -> State:
    told = events.copy()
    events.clear()
    rows = [len(row) for row in ticket.rows]
    if not ticket.future.done():
        return State(rows, told)
    error = ticket.future.exception()
    return State(rows, told, error=_portable(error)) if error is not None else State(rows, told, result=ticket.future.result())


def _portable(error: BaseException) -> BaseException:
    """The error, or one that says the same, where it does not survive the way."""
    try:
        again = pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error if isinstance(again, type(error)) and str(again) == str(error) else RuntimeError(f"{type(error).__name__}: {error}")
