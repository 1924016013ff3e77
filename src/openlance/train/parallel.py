"""Several processes that train one model, started by torchrun: who takes part, and what they tell each other.

The batches of a step are divided among them, and every process holds the whole model with its masters, optimiser state and average, or
its rows of them (train/shard.py). So a step on any number of processes is the same step up to the order of sums, and a checkpoint of one
loads on any number of them.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from openlance.errors import LanceError

T = TypeVar("T")

_exchange: Any = dist
"""Its collective functions carry no types."""
PATIENCE = timedelta(hours=2)
"""How long processes wait for each other: hooks of an export may take long. torchrun ends all of them at once if one fails."""
BUCKET_BYTES = 32 << 20
"""Gradients exchanged at once: one exchange for each costs five times as much between two processes of the embedded model (LOG.md)."""
SAME = 1e-4
"""Relative difference of a weight's norm above which two processes hold different models."""


@dataclass(frozen=True)
class ParallelRecipe:
    """How a model too large for one process is trained by several, or by one with less memory."""

    shard: bool = False
    """Split weights, masters, averages and optimiser state among the processes."""
    replicas: int = 1
    """Copies of the split model (HSDP): the ranks of a copy are consecutive, as the cards of one machine are. Must divide their number."""
    reduce_every_pass: bool = False
    """Sum gradients after each pass of a step instead of after its last: more exchanges, but no process holds a whole gradient."""
    activation_checkpointing: bool = False
    """Keep only what enters a layer and compute the rest again on the way back."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise LanceError(f"parallel.replicas {self.replicas} must be at least 1")
        if not self.shard and (self.replicas > 1 or self.reduce_every_pass):
            raise LanceError("parallel.replicas and parallel.reduce_every_pass need a split model: set parallel.shard=true too")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run. Alone, every exchange is the identity."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Whether this one logs, saves and exports."""
        return self.rank == 0

    @property
    def several(self) -> bool:
        return self.world_size > 1

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order; small picklable ones."""
        if not self.several:
            return [value]
        values: list[Any] = [None] * self.world_size
        _exchange.all_gather_object(values, value)
        return values

    def first(self, value: T) -> T:
        """The value of rank 0, on all ranks: for what clocks, disks and rounding could decide differently."""
        if not self.several:
            return value
        values = [value]
        _exchange.broadcast_object_list(values, src=0)
        return values[0]

    def wait(self) -> None:
        """Until all ranks are here."""
        if self.several:
            # Not `dist.barrier`: with two backends it picks the accelerator's, which may time out earlier on a long export.
            self.gather(None)

    @torch.no_grad()
    def sum_gradients(self, weights: Sequence[nn.Parameter]) -> None:
        """Give all ranks the sum of their gradients. One without a gradient brings zeros: all ranks must join every exchange."""
        if not self.several:
            return
        for weight in weights:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        _replace([weight.grad for weight in weights if weight.grad is not None], _exchange.all_reduce)

    @torch.no_grad()
    def complete(self, tensors: Sequence[Tensor], owned: Sequence[Sequence[int]]) -> None:
        """Give every tensor the values that it has on the rank that owns its index, `owned` by rank and the same on all of them."""
        for rank in range(self.world_size if self.several else 0):
            _replace([tensors[i] for i in owned[rank]], partial(_exchange.broadcast, src=rank))

    def check_same(self, what: str, masters: Sequence[Tensor]) -> None:
        """Raises LanceError, on every rank that differs, if weights are not those of rank 0: `what` says when."""
        if not self.several or not masters:
            return
        ours = torch.stack(torch._foreach_norm(list(masters))).tolist()
        theirs = self.first(ours)
        if len(ours) != len(theirs) or not all(math.isclose(a, b, rel_tol=SAME) for a, b in zip(ours, theirs, strict=True)):
            raise LanceError(f"{what} rank {self.rank} holds other weights than rank 0: give all processes the same recipe and files")


def _replace(tensors: Sequence[Tensor], exchange: Callable[[Tensor], object]) -> None:
    """Put tensors through an exchange that works in place."""
    # Bucket by bucket, one after the other: all at once would take as much memory again as the tensors.
    for bucket in buckets(tensors):
        whole = torch.cat([tensor.flatten() for tensor in bucket])
        exchange(whole)
        parts = torch.split(whole, [tensor.numel() for tensor in bucket])
        torch._foreach_copy_(bucket, [part.view_as(tensor) for part, tensor in zip(parts, bucket, strict=True)])


def deal(costs: Sequence[int], count: int) -> list[list[int]]:
    """Indices of the costs divided among so many ranks, in order: the largest first, each to the rank that has least by then."""
    owned, loads = [list[int]() for _ in range(count)], [0] * count
    for i in sorted(range(len(costs)), key=lambda i: -costs[i]):
        rank = loads.index(min(loads))
        owned[rank].append(i)
        loads[rank] += costs[i]
    return [sorted(indices) for indices in owned]


def buckets(tensors: Sequence[Tensor]) -> list[list[Tensor]]:
    """The tensors in their order, in runs of one dtype and device and of at most BUCKET_BYTES (a larger tensor is alone)."""
    found: list[list[Tensor]] = []
    room = 0
    for tensor in tensors:
        alike = bool(found) and (found[-1][0].dtype, found[-1][0].device) == (tensor.dtype, tensor.device)
        if not alike or tensor.nbytes > room:
            found.append([])
            room = BUCKET_BYTES
        found[-1].append(tensor)
        room -= tensor.nbytes
    return found


def local(tensor: Tensor) -> Tensor:
    """This process's rows of a tensor that is split among several, sharing its memory; any other tensor as it is. Without gradients."""
    part: Any = tensor.detach()
    # Asked for by name: the class takes a second to import, which runs that split nothing need not spend.
    rows: Tensor = part.to_local() if hasattr(part, "to_local") else part
    return rows


@contextmanager
def joined(device: str, group: bool = False) -> Iterator[Ranks]:
    """The process group that torchrun's environment describes, alone without one. gloo on a CPU, nccl on CUDA.

    `device`: of the recipe; `cuda` becomes the card of the local rank. `group`: make one for a process that is alone too.
    Raises LanceError if the environment is incomplete.
    """
    cuda = torch.device(device).type == "cuda"
    # Numbers and names travel by gloo also where gradients travel by nccl.
    backend = "cpu:gloo,cuda:nccl" if cuda else "gloo"
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1:
        if not group:
            yield Ranks(device=device)
            return
        dist.init_process_group(backend, store=_exchange.HashStore(), rank=0, world_size=1)
        try:
            yield Ranks(device=device)
        finally:
            _exchange.destroy_process_group()
        return
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise LanceError(f"WORLD_SIZE is set and {', '.join(missing)} is not: start several processes with torchrun, or unset WORLD_SIZE")
    if cuda:
        local, cards = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= cards:
            raise LanceError(f"local rank {local} has no card of its own, there are {cards}: lower --nproc-per-node")
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group(backend, timeout=PATIENCE)
    yield Ranks(dist.get_rank(), dist.get_world_size(), device)
    # After an error the group is left to the end of the process: taking it down would wait for ranks that wait for this one.
    _exchange.destroy_process_group()
