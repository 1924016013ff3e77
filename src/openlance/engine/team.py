"""Several processes that step together: each has a model of its own and some of the requests, and a step of the team is one of each.

On a CPU two processes of one thread get more out of two cores than one process of two threads, which share only the large products:
1.8 times the pictures a second against 1.4 times (LOG.md, "Inference"). All processes compute with equally many threads, so a result
does not depend on which of them made it.
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
    """What a process is asked to do: take requests in, end some, step some. Requests go by number; a new
    one without its callbacks, whose names come with it.
    """

    new: list[New]
    cancelled: list[int]
    chosen: list[int]


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


class Member:
    """Another process with a model, as the team sees it. It takes requests once the model is loaded."""

    def __init__(self, load: Load, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_member, args=(load, threads, theirs), name="openlance-member", daemon=True)
        self._process.start()
        theirs.close()
        self._numbers = itertools.count()
        self._new: list[New] = []
        self._asked = False
        self.ready = False
        self.alive = True
        self.tickets: dict[int, Away] = {}

    def check(self) -> None:
        """Notice that the model has been loaded, or that the process has ended."""
        if self.alive and not self.ready and self._connection.poll():
            self.ready = self._receive() is not None

    def submit(self, request: Request) -> Away:
        """Take a request; it goes over with the next step."""
        ticket = Away(request, next(self._numbers))
        self.tickets[ticket.number] = ticket
        callbacks = [name for name in CALLBACKS if getattr(request, name)]
        self._new.append((ticket.number, replace(request, on_progress=None, on_text=None), callbacks))
        return ticket

    def begin(self, chosen: Sequence[Away], gone: Sequence[Away]) -> None:
        """Have the process step the `chosen` requests and end those that are `gone`. Nothing to do, nothing sent."""
        if not self.alive or not (chosen or gone or self._new):
            return
        orders = Orders(self._new, [ticket.number for ticket in gone], [ticket.number for ticket in chosen])
        self._new = []
        try:
            self._connection.send(orders)
            self._asked = True
        except OSError:
            self._ended()

    def finish(self) -> None:
        """Wait for the step that was begun, and pass on what came of it."""
        if not self._asked:
            return
        self._asked = False
        states: dict[int, State] | None = self._receive()
        for number, state in (states or {}).items():
            ticket = self.tickets[number]
            ticket.rows = [range(length) for length in state.rows]
            if state.error is not None or state.result is not None:
                del self.tickets[number]
            _pass_on(ticket, state)

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(ENDING_SECONDS)
        if self._process.is_alive():
            self._process.terminate()
        self._ended()

    def _receive(self) -> Any:
        try:
            return self._connection.recv()
        except (EOFError, OSError):
            self._ended()
            return None

    def _ended(self) -> None:
        if self.alive and self.tickets:
            log.error("a process of the team ended with %d requests", len(self.tickets))
        self.alive = self.ready = False
        for ticket in self.tickets.values():
            if not ticket.future.done():
                ticket.future.set_exception(RuntimeError("the process that ran the request ended: try again"))
        self.tickets.clear()


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


class Team:
    """Takes the place of an `Engine` where requests are submitted and stepped: its own engine here, and those of other processes.

    A request goes to whoever has least to do. Conversations with a history stay here, where the history is. `threads`: those that a
    process computes with, this one among them.
    """

    def __init__(self, engine: Engine, threads: int) -> None:
        self.engine = engine
        self.active: list[Ticket | Away] = []
        self._threads = threads
        self._members: list[Member] = []

    def grow(self, load: Load, processes: int) -> None:
        """Start so many more processes; each takes requests once `load` has given it a model. From any thread."""
        self._members += [Member(load, self._threads) for _ in range(processes)]

    @property
    def ready(self) -> int:
        """Processes that take requests now, this one among them."""
        for member in self._members:
            member.check()
        return 1 + sum(member.ready for member in self._members)

    def submit(self, request: Request, planned: Plan | None = None) -> Ticket | Away:
        """As of an `Engine`."""
        members = [member for member in self._members if member.ready] if self.ready > 1 and request.history is None else []
        loads = [(sum(map(_work, member.tickets.values())), member) for member in members]
        least = min(loads, key=lambda load: load[0], default=None)
        own = sum(map(_work, self.engine.active))
        ticket = least[1].submit(request) if least is not None and least[0] < own else self.engine.submit(request, planned)
        self.active.append(ticket)
        return ticket

    def step(self, chosen: Sequence[Ticket | Away] | None = None) -> bool:
        """As of an `Engine`."""
        for ticket in [ticket for ticket in self.engine.active if ticket not in self.active]:
            ticket.cancel()
        for member in self._members:
            tickets = list(member.tickets.values())
            gone = [ticket for ticket in tickets if ticket.cancelled or ticket not in self.active]
            member.begin([t for t in tickets if t not in gone and (chosen is None or t in chosen)], gone)
        torch.set_num_threads(self._threads)
        self.engine.step(None if chosen is None else [ticket for ticket in chosen if isinstance(ticket, Ticket)])
        for member in self._members:
            member.finish()
        self.active = [ticket for ticket in self.active if not ticket.future.done()]
        return bool(self.active)

    def close(self) -> None:
        """End the other processes. What they were doing fails."""
        for member in self._members:
            member.close()


def _work(ticket: Ticket | Away) -> int:
    """How much of a step a request takes; one that has not begun, as much as a small picture."""
    return sum(len(row) for row in ticket.rows) or 128


def _member(load: Load, threads: int, connection: Connection) -> None:
    """The other process: load, then do as told until the connection ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    engine: Engine = load().engine
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
                tickets[number].cancel()
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
