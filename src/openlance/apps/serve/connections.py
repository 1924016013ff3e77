"""Connections of the HTTP server, bounded in number and in the time that a request's head may take."""

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP protocol, which by itself waits for the head of a request for ever and takes any number of connections."""

    max_connections = 1000
    head_seconds = 10.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            # The event loop reports the end of an aborted connection later, after it has taken more: it must not count until then.
            self.connections.discard(self)
            transport.abort()
        else:
            self._watch_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _watch_head(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._stop_timer()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def bounded_protocol(max_connections: int, head_seconds: float) -> type[BoundedProtocol]:
    """The protocol with these limits, to be given to uvicorn."""
    return type("Bounded", (BoundedProtocol,), {"max_connections": max_connections, "head_seconds": head_seconds})
