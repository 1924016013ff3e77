"""Results as they come: what happens in the worker's thread, as server-sent events of a connection that may close at any time."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any, Generic, TypeVar

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.types import Receive, Scope, Send

from openlance.apps.serve.errors import api_error
from openlance.apps.serve.service import cancel_all
from openlance.apps.serve.worker import Handle

T = TypeVar("T")
PING_SECONDS = 15


class Feed(Generic[T]):
    """Items put in by any thread, taken out in an event loop. Make it in the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[T | None] = asyncio.Queue()

    def put(self, item: T | None) -> None:
        """Add an item; None ends one source. Never waits, and does nothing once the loop is gone."""
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:
            return

    async def items(self, handles: Sequence[Handle]) -> AsyncIterator[T]:
        """Items until all of `handles` are done."""
        for handle in handles:
            handle.future.add_done_callback(lambda _: self.put(None))
        left = len(handles)
        while left:
            item = await self._queue.get()
            if item is None:
                left -= 1
            else:
                yield item


class EventStream(EventSourceResponse):
    """A stream of events about `handles`, which are cancelled when it ends for whatever reason. An error becomes the last event."""

    def __init__(self, events: AsyncIterator[ServerSentEvent], handles: Sequence[Handle]) -> None:
        super().__init__(self._guarded(events), ping=PING_SECONDS, sep="\n")
        self.handles = handles

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            cancel_all(self.handles)

    @staticmethod
    async def _guarded(events: AsyncIterator[ServerSentEvent]) -> AsyncIterator[ServerSentEvent]:
        try:
            async for event in events:
                yield event
        except Exception as error:
            yield event_of(api_error(error).body(), "error")


def event_of(values: dict[str, Any], name: str | None = None) -> ServerSentEvent:
    """An event whose data is JSON."""
    return ServerSentEvent(json.dumps(values, ensure_ascii=False, separators=(",", ":")), event=name, sep="\n")
