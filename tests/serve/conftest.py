"""A tiny model, and whole servers around it on free ports of the loopback."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from openlance.apps.serve.server import Server, listen, make_server
from openlance.apps.serve.settings import ServeSettings, WorkerLimits
from openlance.apps.serve.worker import Worker
from openlance.media.clip import Clip
from openlance.media.encode import encode
from openlance.pipeline import Lance
from tests.serve.tiny import tiny_lance


@dataclass
class Running:
    """A server that answers, in a thread of this process."""

    server: Server
    url: str
    settings: ServeSettings

    @property
    def worker(self) -> Worker:
        return self.server.app.state.service.worker

    def http(self, **options) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, **options)

    def openai(self, key: str = "none") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=60)


@pytest.fixture(scope="session")
def lance() -> Lance:
    return tiny_lance()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a server with these settings; it ends with the test. Each gets a model of its own: an engine has one owner."""
    stops = []

    def run(**changes) -> Running:
        running, stop = _start(
            ServeSettings(**{"data_dir": tmp_path / "data", "port": 0, "web": False, "shutdown_seconds": 5.0, **changes})
        )
        stops.append(stop)
        return running

    yield run
    for stop in stops:
        stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory) -> Iterator[Running]:
    """One server for the tests that change nothing about it."""
    running, stop = _start(ServeSettings(data_dir=tmp_path_factory.mktemp("data"), port=0, web=False))
    yield running
    stop()


def _start(settings: ServeSettings) -> tuple[Running, Callable[[], None]]:
    listener: socket.socket = listen(settings)
    server = make_server(tiny_lance(), settings)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    assert server.started

    def stop() -> None:
        if thread.is_alive():
            server.should_exit = True
            thread.join(30)
        listener.close()

    return Running(server, f"http://127.0.0.1:{listener.getsockname()[1]}", settings), stop


@pytest.fixture
def worker(lance: Lance) -> Iterator[Callable[..., Worker]]:
    """Start a worker with these limits; it ends with the test."""
    workers = []

    def run(**changes) -> Worker:
        workers.append(Worker(lance, replace(WorkerLimits(), **changes)).start())
        return workers[-1]

    yield run
    for each in workers:
        each.stop()


@pytest.fixture(scope="session")
def picture() -> Clip:
    """64 x 64 pixels of noise."""
    return Clip(np.random.default_rng(1).integers(0, 256, (1, 64, 64, 3), np.uint8), 1.0)


@pytest.fixture(scope="session")
def film() -> Clip:
    """9 frames of 64 x 64 pixels."""
    return Clip(np.random.default_rng(2).integers(0, 256, (9, 64, 64, 3), np.uint8), 8.0)


@pytest.fixture(scope="session")
def png(picture: Clip) -> bytes:
    return encode(picture, "png")


@pytest.fixture(scope="session")
def mp4(film: Clip) -> bytes:
    return encode(film, "mp4")


@pytest.fixture(scope="session")
def png_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
