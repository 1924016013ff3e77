"""From a command to a running server and back: load and build side by side, listen, announce, and stop without dropping anything."""

import gc
import importlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from openlance.apps.serve.connections import bounded_protocol
from openlance.apps.serve.settings import ServeSettings
from openlance.errors import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from openlance.apps.serve.pool import Pool
    from openlance.pipeline import Lance

FLUSH_SECONDS = 1.0
"""Time that open connections get once nothing runs any more: a page keeps one open as long as it is shown."""
BACKLOG = 256
SMALL_MODEL = 256 * 2**20
"""Bytes of weights up to which several processes have copies unless told otherwise: such a model's products are too small for threads."""
MOST_PROCESSES = 4
SWITCH_SECONDS = 0.0005
"""Time after which a thread hands Python's lock to another that waits. A thread that computes asks for it after every operation: beside
a thread of plain Python, products of 1 ms came 96 times a second with Python's own 5 ms, 430 times with this (LOG.md)."""


class Server(uvicorn.Server):
    """uvicorn, which on the first signal takes nothing new and ends when what runs is done; on the second, at once."""

    def __init__(self, config: uvicorn.Config, app: "FastAPI", settings: ServeSettings, pool: "Pool | None" = None) -> None:
        super().__init__(config)
        self.app = app
        self.settings = settings
        self._pool = pool
        self._draining = False

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM while serving; a server that was asked to stop has ended well."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._draining or not self.started:
            self.should_exit = True
            return
        self._draining = True
        threading.Thread(target=self.drain, daemon=True).start()

    def drain(self) -> None:
        """Wait for what runs, up to `shutdown_seconds`, then end the server."""
        worker = self.app.state.service.worker
        self.app.state.runner.close()
        worker.close()
        until = time.monotonic() + self.settings.shutdown_seconds
        while time.monotonic() < until and worker.alive and not worker.idle:
            time.sleep(0.02)
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            announce(host, port, self.settings.web)
            # The code of the vision tower takes longer to import than all else together: now, and not with the first picture.
            threading.Thread(target=importlib.import_module, args=("openlance.model.window_attention",), daemon=True).start()
            if self._pool is not None:
                threading.Thread(target=self._pool.grow, daemon=True).start()


def serve(load: "Callable[[], Lance]", settings: ServeSettings, elsewhere: "Callable[[], Lance] | None" = None) -> int:
    """Load the model, serve it until told to stop, return the exit code. Raises RequestError when the address cannot be had.

    `elsewhere`: loads it in other processes, where there shall be several.
    """
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    sys.setswitchinterval(SWITCH_SECONDS)
    listener = listen(settings)
    # The model is loaded by a thread that ends: OpenMP keeps helpers for every thread that ever computed, and with those of two on two
    # cores its waiting becomes so short that steps take half again as long (measured: 0.34 s a picture, 0.50 s otherwise).
    with quick_imports():
        with ThreadPoolExecutor(1) as side:
            loading = side.submit(load)
            if settings.web:
                import gradio  # noqa: F401  (three seconds, beside those of the model)
        lance = loading.result()
        server = make_server(lance, settings, pool_for(lance, settings, elsewhere))
    server.run(sockets=[listener])
    return 0 if server.started else 1


def pool_for(lance: "Lance", settings: ServeSettings, elsewhere: "Callable[[], Lance] | None") -> "Pool | None":
    """As many workers as were asked for, or without a word one a core, if the model is small and on the processor; None where one does.

    Raises RequestError where several were asked for a model on a GPU.
    """
    import torch

    from openlance.apps.serve.cores import Cores
    from openlance.apps.serve.pool import Pool

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    small = lance.model.device.type == "cpu" and sum(parameter.nbytes for parameter in lance.model.parameters()) <= SMALL_MODEL
    if settings.processes > 1 and lance.model.device.type != "cpu":
        raise RequestError(f"--processes {settings.processes} is for models on the processor, and this one is on {lance.model.device}")
    processes = settings.processes or (min(cores, MOST_PROCESSES) if small else 1)
    if processes == 1 or elsewhere is None:
        return None
    return Pool(lance, settings.worker, elsewhere, processes, Cores(torch.get_num_threads(), processes))


@contextmanager
def quick_imports() -> Iterator[None]:
    """No collection of garbage meanwhile: imports make a million objects that all stay. Nor are those looked at again later."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def make_server(lance: "Lance", settings: ServeSettings, pool: "Pool | None" = None) -> Server:
    """A server for a loaded model; `run(sockets=[listen(settings)])` it. With a `pool` of workers that grows once it runs."""
    from openlance.apps.serve.app import build_app

    app = build_app(lance, settings, pool)
    config = uvicorn.Config(
        app,
        http=bounded_protocol(settings.max_connections, settings.head_seconds),
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=round(FLUSH_SECONDS),
        h11_max_incomplete_event_size=64 * 1024,
    )
    return Server(config, app, settings, pool)


def listen(settings: ServeSettings) -> socket.socket:
    """A listening socket. Raises RequestError when the address is taken or not this machine's."""
    try:
        family, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        # With the protocol named, asyncio switches Nagle's algorithm off: without it every answer waited 40 ms for an acknowledgement.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        raise RequestError(
            f"cannot listen on {settings.host} port {settings.port} ({error.strerror or error}): choose another with --host and --port"
        ) from error
    return listener


def announce(host: str, port: int, web: bool) -> None:
    """Tell a person where the server is, and the page if there is one."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    page = f"page  http://{shown}:{port}/\n" if web else ""
    print(f"{page}API   http://{shown}:{port}/v1\nCtrl+C stops", flush=True, file=sys.stdout)
