"""A small Ray cluster on this machine, of two nodes with a CPU each, and models that die on it."""

import functools
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from openlance.pipeline import Lance
from tests.serve.tiny import tiny_lance
from tests.waiting import wait_until

PATIENCE = 240.0
"""Seconds that a node may take to start: Ray's processes are many and the machine may be busy."""
TOKEN = secrets.token_hex(32)
"""Of all clusters of this process: Ray reads it once, so that a second cluster with another one turned the process away."""


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def small_cluster(folder: Path) -> Iterator[str]:
    """The address of a cluster that ends with the block. It asks for a token that this process alone has, so that nobody else uses it."""
    environment = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.update(environment)
    address = f"127.0.0.1:{free_port()}"
    ray = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block", "--num-cpus", "1"]
    nodes = []
    try:
        for role in (["--head", "--port", address.split(":")[1], "--include-dashboard", "false"], ["--address", address]):
            log = folder / f"node-{len(nodes)}.log"
            with log.open("w") as out:
                nodes.append(subprocess.Popen([*ray, *role], stdout=out, stderr=subprocess.STDOUT))
            wait_until(lambda log=log: "Ray runtime started" in log.read_text(), PATIENCE, log.read_text)
        yield address
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(60)
        for name in environment:
            os.environ.pop(name)


def mortal(folder: Path) -> Lance:
    """A tiny model whose process dies at the prompt `kill` each time, and at `once` the first time; what was asked is written down."""
    lance = tiny_lance()
    make = lance.request

    def request(task: Any, prompt: str, *args: Any, **parameters: Any) -> Any:
        with (folder / "asked").open("a") as file:
            file.write(prompt + "\n")
        died = folder / "died"
        if prompt == "kill" or (prompt == "once" and not died.exists()):
            died.touch()
            os._exit(1)
        return make(task, prompt, *args, **parameters)

    lance.request = request  # type: ignore[method-assign]
    return lance


def load_mortal(folder: Path) -> Callable[[], Lance]:
    """`mortal`, to be called in another process."""
    return functools.partial(mortal, folder)


def known(folder: Path) -> Lance:
    """A tiny model whose process leaves its id in the folder."""
    (folder / str(os.getpid())).touch()
    return tiny_lance()


def load_known(folder: Path) -> Callable[[], Lance]:
    """`known`, to be called in another process."""
    return functools.partial(known, folder)
