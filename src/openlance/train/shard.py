"""Weights split among processes by FSDP2: each keeps its rows of every weight, master, average and optimiser state.

A layer is put together when it is computed and let go afterwards; gradients are summed as they are split. So memory falls with the number
of processes, and a step stays the same step up to the order of sums. Source: `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Size, Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard

from openlance.data.batch import Rows, TrainingBatch
from openlance.errors import LanceError
from openlance.model.lance import LanceModel
from openlance.train.losses import LossSums, Objective, Path, loss_of, ragged
from openlance.train.parallel import ParallelRecipe, Ranks, deal, local
from openlance.weights.empty import allocate

_exchange: Any = dist
"""Its collective functions carry no types."""


def whole(tensors: Mapping[str, Tensor], ranks: Ranks, dtype: torch.dtype) -> dict[str, Tensor]:
    """Split tensors put together one by one, in host memory and floating ones as `dtype`, on rank 0; nothing on others.

    All ranks must call it.
    """
    found = {}
    for name, tensor in tensors.items():
        full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
        if ranks.leads:
            found[name] = full.detach().to("cpu", dtype if full.is_floating_point() else full.dtype, copy=True)
    return found


class Shards:
    """How tensors are split: along their first axis into consecutive rows as by `torch.chunk`, over the ranks of one copy of the model."""

    def __init__(self, ranks: Ranks, replicas: int = 1) -> None:
        """Raises LanceError if the processes cannot be divided among `replicas` copies."""
        if ranks.world_size % replicas:
            raise LanceError(f"parallel.replicas {replicas} does not divide {ranks.world_size} processes: choose one that does")
        shape, names = ((ranks.world_size,), ("shard",)) if replicas == 1 else ((replicas, ranks.world_size // replicas), ("copy", "shard"))
        kind = torch.device(ranks.device).type
        self.mesh: DeviceMesh = init_device_mesh(kind, shape, mesh_dim_names=names)
        self.host: DeviceMesh = self.mesh if kind == "cpu" else init_device_mesh("cpu", shape, mesh_dim_names=names)
        self.group = self.mesh.get_group("shard")
        self.count, self.index = self.mesh.size(len(shape) - 1), self.mesh.get_local_rank("shard")
        self.leads = ranks.leads
        self.saving: Any = _exchange.new_group(backend="gloo")
        """Of its own, so that a checkpoint is written beside the steps that follow."""

    def rows(self, shape: Size, index: int | None = None) -> slice:
        """Rows of a tensor of this shape that a rank keeps, this one by default."""
        size = -(-shape[0] // self.count)
        start = min((self.index if index is None else index) * size, shape[0])
        return slice(start, min(start + size, shape[0]))

    def part(self, tensor: Tensor) -> Tensor:
        """This rank's rows of a whole tensor; a number stays whole."""
        return tensor[self.rows(tensor.shape)] if tensor.ndim else tensor

    def held(self, weight: Tensor) -> tuple[Tensor, int]:
        """Of a weight the rows that are kept here, sharing their memory, and the index of the first; encoders are whole."""
        return local(weight), self.rows(weight.shape).start if isinstance(weight, DTensor) else 0

    def empty(self, shape: Size, dtype: torch.dtype) -> DTensor:
        """Room in host memory for this rank's rows of a tensor."""
        rows = self.rows(shape)
        return self._placed(torch.empty(rows.stop - rows.start, *shape[1:], dtype=dtype), shape)

    def copied(self, part: Tensor, shape: Size) -> DTensor:
        """A copy in host memory of this rank's rows `part` of a tensor of `shape`, which knows where they belong."""
        return self._placed(part.detach().to("cpu", copy=True), shape)

    def _placed(self, part: Tensor, shape: Size) -> DTensor:
        placements = [*[Replicate()] * (self.host.ndim - 1), Shard(0)]
        stride = torch.empty(shape, device="meta").stride()
        tensor: DTensor = DTensor.from_local(part, self.host, placements, run_check=False, shape=shape, stride=stride)
        return tensor

    def lead(self, action: Callable[[], None]) -> None:
        """Let the first rank do something while a checkpoint is written, and all others wait. Raises its OSError on all ranks."""
        failure: list[Any] = [None]
        if self.leads:
            try:
                action()
            except OSError as error:
                failure = [str(error)]
        _exchange.broadcast_object_list(failure, src=0, group=self.saving)
        if failure[0] is not None:
            raise OSError(failure[0])

    def norm(self, parts: Sequence[Tensor]) -> float:
        """Norm of the tensors whose rows here are `parts`, all together. All ranks must call it."""
        total = torch.nn.utils.get_total_norm(list(parts)).float().square()
        _exchange.all_reduce(total, group=self.group)
        return float(total.sqrt())

    def assemble(self, parts: Sequence[Tensor], shapes: Sequence[Size]) -> dict[int, Tensor]:
        """Dealt out whole: of the tensors whose rows here are `parts`, the ones that fall to this rank, by index, in one exchange."""
        owned = self._deal(shapes)
        mine = owned[self.index]
        counts = [[self._numel(shapes[i], rank) for i in mine] for rank in range(self.count)]
        sent = torch.cat([parts[i].reshape(-1) for indices in owned for i in indices])
        received = self._all_to_all(sent, [sum(parts[i].numel() for i in indices) for indices in owned], [sum(each) for each in counts])
        pieces = [_split(of_rank, sizes) for of_rank, sizes in zip(_split(received, [sum(each) for each in counts]), counts, strict=True)]
        return {i: torch.cat([of_rank[place] for of_rank in pieces]).view(shapes[i]) for place, i in enumerate(mine)}

    def disperse(self, tensors: Mapping[int, Tensor], shapes: Sequence[Size]) -> list[Tensor]:
        """The way back of `assemble`: this rank's rows of all tensors, from those that each rank holds whole."""
        owned = self._deal(shapes)
        mine = owned[self.index]
        own = [[self._numel(shapes[i], self.index) for i in indices] for indices in owned]
        slices = [tensors[i][self.rows(shapes[i], rank)].reshape(-1) for rank in range(self.count) for i in mine]
        sent = torch.cat(slices) if slices else torch.empty(0, device=self.mesh.device_type)
        sizes = [sum(self._numel(shapes[i], rank) for i in mine) for rank in range(self.count)]
        received = self._all_to_all(sent, sizes, [sum(each) for each in own])
        pieces = _split(received, [size for each in own for size in each])
        found = dict(zip((i for indices in owned for i in indices), pieces, strict=True))
        return [found[i].view(-1, *shape[1:]) for i, shape in enumerate(shapes)]

    def _deal(self, shapes: Sequence[Size]) -> list[list[int]]:
        return deal([shape.numel() for shape in shapes], self.count)

    def _numel(self, shape: Size, rank: int) -> int:
        rows = self.rows(shape, rank)
        numel: int = (rows.stop - rows.start) * shape[1:].numel()
        return numel

    def _all_to_all(self, sent: Tensor, sizes: list[int], expected: list[int]) -> Tensor:
        received = sent.new_empty(sum(expected))
        _exchange.all_to_all_single(received, sent, expected, sizes, group=self.group)
        return received


def _split(tensor: Tensor, sizes: list[int]) -> tuple[Tensor, ...]:
    pieces: tuple[Tensor, ...] = torch.split(tensor, sizes)
    return pieces


def shard_model(model: LanceModel, dtype: torch.dtype, ranks: Ranks, shards: Shards) -> None:
    """Split a model in place, layer by layer, and move it to the device of the ranks. Encoders are not split: data is encoded with them.

    `dtype`: bfloat16 computes in it, while the rows that are kept of weights that learn stay float32 and are their own masters.
    Weights without memory get it for the rows that are kept, and wait for their values.
    """
    if dtype == torch.bfloat16:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    encoders = [encoder for encoder in (model.vision, model.autoencoder) if encoder is not None]
    ignored = {parameter for encoder in encoders for parameter in encoder.parameters()}
    policy = (
        MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False)
        if dtype == torch.bfloat16
        else MixedPrecisionPolicy()
    )
    for layer in model.transformer.layers:
        fully_shard(layer, mesh=shards.mesh, mp_policy=policy)
    fully_shard(model, mesh=shards.mesh, mp_policy=policy, ignored_params=ignored)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # The shares of a step's loss add up to it, whatever the number of ranks.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    allocate(model, ranks.device)


def begin_pass(model: LanceModel, last: bool, recipe: ParallelRecipe) -> None:
    """Before a forward of a split model: put its outermost weights together and say whether gradients are summed after it."""
    assert isinstance(model, FSDPModule)
    model.set_requires_gradient_sync(last or recipe.reduce_every_pass)
    model.set_requires_all_reduce(last)
    model.set_is_last_backward(last)
    # What is made for a forward takes the dtype of the embedding, which is that of the computation only when it is together.
    model.unshard()


def shared_loss(
    model: LanceModel, given: tuple[TrainingBatch, Path] | None, objective: Objective, totals: Counter[str], sums: LossSums
) -> Tensor:
    """`compute_loss` of a split model; of nothing where this rank has no batch left while others do.

    All ranks must put the same layers together in the same order, forwards and backwards, and exchange gradients of the same weights. So
    every pass has an anchor: a row of one token of each stream that no other sees, which goes through all weights and counts nothing.
    """
    batch, path = _anchored(model, given)
    hidden = model(ragged(model, batch, path, objective.attention))
    assert hidden.understanding is not None
    assert hidden.generation is not None
    first, second = hidden.understanding[-1:], hidden.generation[-1:]
    nothing = 0.0 * (model.logits(first).sum() + model.velocity(second, batch.latents[-1:], torch.ones_like(batch.latents[-1:, :1])).sum())
    loss: Tensor = loss_of(model, hidden, batch, path, objective, totals, sums) + nothing
    return loss


def _anchored(model: LanceModel, given: tuple[TrainingBatch, Path] | None) -> tuple[TrainingBatch, Path]:
    """A batch with the anchor behind it, or the anchor alone."""
    device, channels = model.device, model.config.latent_channels
    number, place = torch.zeros(1, dtype=torch.long, device=device), torch.zeros(3, 1, dtype=torch.long, device=device)
    none, latent = number[:0], torch.zeros(1, channels, device=device)
    row = Rows(1, 1, torch.ones(1, 1, 2, 2, dtype=torch.bool, device=device), 1)
    anchor = TrainingBatch([row], number, (place, place), place, latent, number, 0, None, None, none, none, none, none, [])
    if given is None:
        return anchor, Path(torch.zeros(1, device=device), latent)
    batch, path = given

    def cells(tensor: Tensor) -> Tensor:
        return torch.cat([tensor.reshape(-1, channels), latent])

    joined = replace(
        batch,
        rows=[*batch.rows, row],
        ids=torch.cat([batch.ids, number]),
        positions=(torch.cat([batch.positions[0], place], 1), torch.cat([batch.positions[1], place], 1)),
        coordinates=torch.cat([batch.coordinates, place], 1),
        latents=cells(batch.latents),
        target=torch.cat([batch.target, number]),
    )
    return joined, Path(path.times, cells(path.noise))
