"""A Ray cluster as the commands see it: reach it, or start one in this process, and share its machines out among copies of the model."""

from __future__ import annotations

import argparse
import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.errors import MissingExtra, RequestError

if TYPE_CHECKING:
    from openlance.pipeline import Lance

LOCAL, AUTO = "local", "auto"
REACH_SECONDS = 5.0
"""Time that the head of a cluster gets to answer a connection; Ray itself would try for minutes."""
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
}
"""No reports to anyone; a proxy on a busy machine needs more than Ray's 5 s. What the user has set stays."""


@dataclass(frozen=True)
class ModelChoice:
    """Which model a replica loads, as `Lance.from_pretrained` is told."""

    name: str = "nano"
    variant: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    templates: str | None = None

    def load(self) -> Lance:
        from openlance.pipeline import Lance

        return Lance.from_pretrained(self.name, self.variant or "image", self.device, self.dtype, self.templates)


@dataclass(frozen=True)
class Share:
    """How many replicas a cluster runs, and what each of them gets."""

    replicas: int
    cpus: int
    gpus: int

    def told(self) -> str:
        """In words, for a person."""
        each = f"{self.gpus} GPU" if self.gpus else f"{self.cpus} CPU{'s' * (self.cpus > 1)}"
        return f"{self.replicas} replica{'s' * (self.replicas > 1)} of the model, {each} each"


def add_cluster_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Where the work runs; `what` a replica does there."""
    group = parser.add_argument_group("cluster", "needs  pip install 'openlance[dist]'  on every machine")
    group.add_argument("--ray", metavar="ADDRESS", help=f"{what} on a Ray cluster: HOST:PORT of its head, auto (the one that this machine "
                       "is part of), or local (one is started in this process)")  # fmt: skip
    group.add_argument("--replicas", type=int, metavar="N", help="copies of the model (default: one a GPU; without GPUs, one a machine)")


def check_cluster_arguments(args: argparse.Namespace) -> None:
    """Raises RequestError for replicas of nothing."""
    if args.replicas is not None and args.ray is None:
        raise RequestError(f"--replicas {args.replicas} needs a cluster: add --ray ADDRESS, or --ray local")


def chosen_model(args: argparse.Namespace) -> ModelChoice:
    """The model that the arguments name, by paths that hold in another process. Raises RequestError for one GPU of several."""
    if ":" in args.device:
        raise RequestError(f"--device {args.device} names one GPU of a machine, and every replica sees only its own: say --device cuda")
    name, templates = (str(Path(path).absolute()) if path and Path(path).exists() else path for path in (args.model, args.templates))
    return ModelChoice(name, args.variant, args.device, args.dtype, templates)


@contextmanager
def connected(address: str) -> Iterator[None]:
    """Connected to the cluster at `address` (`HOST:PORT`, `auto`, or `local`: started now, ended afterwards).

    Raises RequestError when there is none, MissingExtra without Ray.
    """
    _check_reachable(address)
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise MissingExtra("ray", "dist") from error
    options: dict[str, Any] = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        hint = "; a cluster that wants a token needs  RAY_AUTH_MODE=token  in the environment" if "RAY_AUTH_MODE" not in os.environ else ""
        raise RequestError(_unreachable(address, last_line(error)) + hint) from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises RequestError where nobody listens."""
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", AUTO)
    if address in (LOCAL, AUTO):
        return
    host, colon, port = address.rpartition(":")
    if not colon or not host or "/" in host or not port.isdigit():
        raise RequestError(
            f"--ray '{address}' is no address of a cluster: give HOST:PORT of its head, auto or local. "
            "The command itself runs on a machine of the cluster (to get there: ray start --address HOST:PORT)"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise RequestError(_unreachable(address, str(error))) from error


def _unreachable(address: str, reason: str) -> str:
    return (
        f"no Ray cluster can be reached at --ray {address} ({reason}): start one with  ray start --head --port 6379  and join it on "
        "every other machine with  ray start --address HOST:6379 , or use --ray local"
    )


def share_out(nodes: Sequence[Mapping[str, float]], replicas: int | None, device: str) -> Share:
    """Share machines out among replicas. `nodes`: resources of each, `CPU` and `GPU`; `device`: as in `ModelChoice`.

    With GPUs each replica gets one. Without, the CPUs are divided so that the replicas get equally many and all of them fit.
    Raises RequestError for more replicas than fit.
    """
    if replicas is not None and replicas < 1:
        raise RequestError(f"--replicas {replicas} must be at least 1")
    gpus = 0 if device == "cpu" else sum(int(node.get("GPU", 0)) for node in nodes)
    cpus = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1]
    if gpus or device == "cuda":
        if not 1 <= (replicas or 1) <= gpus:
            raise RequestError(f"--replicas {replicas or 1} need as many GPUs and the cluster has {gpus}: ask for fewer, or --device cpu")
        return Share(replicas or gpus, 1, 1)
    wanted = replicas or len(cpus)
    if not 1 <= wanted <= sum(cpus):
        raise RequestError(f"--replicas {wanted} need as many CPUs and the cluster has {sum(cpus)}: ask for fewer, or add machines")
    most = next(each for each in range(max(cpus), 0, -1) if sum(count // each for count in cpus) >= wanted)
    return Share(wanted, most, 0)


def shared_out(replicas: int | None, device: str) -> Share:
    """`share_out` of the cluster that this process is connected to."""
    import ray

    return share_out([node["Resources"] for node in ray.nodes() if node["Alive"]], replicas, device)


def last_line(error: BaseException) -> str:
    """What went wrong, out of an error that carries the traceback of another process."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
