"""What every endpoint needs: the worker from inside an event loop, the model's name, and how requests are made and waited for."""

import asyncio
import secrets
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import Depends
from fastapi import Request as HTTP

from openlance.apps.serve.errors import CLIENT_GONE, ApiError
from openlance.apps.serve.media import MediaDoor
from openlance.apps.serve.pool import Pool
from openlance.apps.serve.settings import ServeSettings
from openlance.apps.serve.worker import Handle, Worker

if TYPE_CHECKING:
    from openlance.engine.request import Request

T = TypeVar("T")
SEED_BITS = 31
"""Seeds that are drawn fit into what people copy and every client keeps exact."""


@dataclass
class Service:
    """One loaded model behind one worker, or a pool of them."""

    worker: Worker | Pool
    settings: ServeSettings
    media: MediaDoor
    created: int

    @property
    def model_id(self) -> str:
        return self.worker.lance.config.name

    def check_model(self, name: str | None) -> None:
        """Raises ApiError for a model that is not the loaded one."""
        if name not in (None, "", self.model_id):
            message = f"the model '{str(name)[:100]}' does not exist here: this server has '{self.model_id}'"
            raise ApiError(404, message, code="model_not_found", param="model")

    async def submit(self, requests: "Sequence[Request]") -> list[Handle]:
        """Queue all of `requests`, or none."""
        handles: list[Handle] = []
        try:
            for request in requests:
                handles.append(await asyncio.to_thread(self.worker.submit, request))
        except BaseException:
            cancel_all(handles)
            raise
        return handles

    async def finish(self, requests: "Sequence[Request]", http: HTTP) -> list[Handle]:
        """All requests, finished; everything is cancelled when one fails or the client goes."""
        handles = await self.submit(requests)
        try:
            await while_connected(asyncio.gather(*(asyncio.wrap_future(handle.future) for handle in handles)), http)
        finally:
            cancel_all(handles)
        return handles


def service_of(http: HTTP) -> Service:
    """The service of the app that got the request."""
    service: Service = http.app.state.service
    return service


ServiceOf = Annotated[Service, Depends(service_of)]


def cancel_all(handles: Sequence[Handle]) -> None:
    """Cancel those that are not finished."""
    for handle in handles:
        if not handle.future.done() or handle.future.cancelled():
            handle.cancel()


async def while_connected(work: Awaitable[T], http: HTTP) -> T:
    """The result of `work`, which is given up as soon as the client is gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_gone(http))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ApiError(CLIENT_GONE, "the client closed the connection", "server_error", "client_gone")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _gone(http: HTTP) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass


def seeds(first: int | None, count: int) -> list[int]:
    """`count` seeds in a row from the one that was asked for, or from one drawn now."""
    start = secrets.randbits(SEED_BITS) if first is None else first
    return [(start + index) % 2**63 for index in range(count)]


def extras(handles: Sequence[Handle]) -> dict[str, Any]:
    """Fields beside OpenAI's: the seeds that repeat the results, and what was adjusted."""
    notices = dict.fromkeys(notice for handle in handles for notice in handle.future.result().notices)
    return {"seeds": [handle.plan.request.seed for handle in handles], "notices": list(notices)}
