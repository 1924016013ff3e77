"""The same server as replicas on a cluster, by Ray Serve: its proxy in front, a whole app with a model of its own in each replica.

A request goes to the less busy of two replicas drawn. Video jobs are everyone's: their table is in a folder that all share.
"""

import dataclasses
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, Any

from openlance.apps.cluster import Share, last_line
from openlance.apps.serve.folder import check_shared, mark
from openlance.apps.serve.server import announce, listen
from openlance.apps.serve.settings import ServeSettings
from openlance.errors import RequestError

if TYPE_CHECKING:
    from fastapi import FastAPI

    from openlance.pipeline import Lance

APPLICATION = "openlance"
ATTEMPTS = 1
"""Times that a replica may fail to start before the deployment is given up."""
HEALTH_SECONDS = 5.0


class Replica:
    """One loaded model and the app around it, in a process of Ray Serve."""

    def __init__(self, load: "Callable[[], Lance]", settings: ServeSettings, mark: str) -> None:
        check_shared(settings.data_dir, mark)
        self._settings = settings
        with ThreadPoolExecutor(1) as side:  # a thread that ends: see `server.serve`
            self._lance = side.submit(load).result()

    def __serve_build_asgi_app__(self) -> "FastAPI":
        """Ray Serve calls this once, after the constructor, and runs the app's lifespan."""
        from openlance.apps.serve.app import build_app

        os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
        self._app = build_app(self._lance, self._settings)
        return self._app

    def check_health(self) -> None:
        """Ray Serve starts another replica instead of one that raises here."""
        if not self._app.state.service.worker.alive:
            raise RuntimeError("the worker ended")


def serve_on_cluster(load: "Callable[[], Lance]", settings: ServeSettings, share: Share) -> int:
    """Deploy on the cluster that this process is connected to, and stay until told to stop; then take it down. Returns the exit code.

    Raises RequestError when the address cannot be had or the replicas cannot start.
    """
    with deployed(load, settings, share) as port, interrupted() as stop:
        announce(settings.host, port, settings.web)
        stop.wait()
    return 0


@contextmanager
def deployed(load: "Callable[[], Lance]", settings: ServeSettings, share: Share) -> Iterator[int]:
    """The server in `share.replicas` replicas; yields the port of the proxy. Raises RequestError."""
    from ray import serve

    settings = dataclasses.replace(settings, data_dir=settings.data_dir.absolute(), port=_free_port(settings))
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=APPLICATION,
        num_replicas=share.replicas,
        ray_actor_options={"num_cpus": share.cpus, "num_gpus": share.gpus},
        # Every request reaches the app: what is too much for it, its own queue refuses in its own words.
        max_ongoing_requests=settings.max_connections,
        graceful_shutdown_timeout_s=settings.shutdown_seconds,
        health_check_period_s=HEALTH_SECONDS,
        max_constructor_retry_count=ATTEMPTS,
    )
    serve.start(proxy_location="HeadOnly", http_options={"host": settings.host, "port": settings.port})
    try:
        serve.run(deployment.bind(load, settings, mark(settings.data_dir)), name=APPLICATION, route_prefix="/")
        yield settings.port
    except RuntimeError as error:
        raise RequestError(f"the replicas cannot start: {_reason() or last_line(error)}") from error
    finally:
        serve.delete(APPLICATION)
        if not serve.status().applications:
            serve.shutdown()


def _reason() -> str:
    """Why the deployment failed: the last line that its replicas' tracebacks name an error in."""
    from ray import serve

    application = serve.status().applications.get(APPLICATION)
    messages = [deployment.message for deployment in application.deployments.values()] if application else []
    lines = [line.strip() for message in messages for line in message.splitlines()]
    return next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception): ", line)), "")


def _free_port(settings: ServeSettings) -> int:
    """The port to serve on, which is free on this machine now. Raises RequestError."""
    with listen(settings) as listener:
        port: int = listener.getsockname()[1]
        return port


@contextmanager
def interrupted() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    stop = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    before: dict[int, Any] = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
