"""The objective of every supervised stage: next-token loss on answers, flow matching on target latents (SPEC of the paper, section 4)."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from openlance.data.batch import Rows, TrainingBatch
from openlance.flow.path import interpolate, shift_time, velocity_target
from openlance.model import flex
from openlance.model.attention import RowGroup, added_mask, blocks_of
from openlance.model.lance import LanceModel, RaggedBatch
from openlance.model.mot import Hidden


@dataclass(frozen=True)
class LossWeights:
    """w_ce * mean CE + w_mse * mean squared error of the velocity.

    `data_cap`: a model that predicts data is trained by its squared error times min(1 / t^2, cap), that is the velocity's times
    min(1, cap t^2); ignored for one that predicts velocity. Measured: cap 4 beats the plain velocity loss (LOG.md).
    """

    ce: float = 0.25
    mse: float = 1.0
    data_cap: float = 4.0


Attention = Literal["fused", "plain", "flex"]
"""How rows are attended. `fused`: group by group by the library's kernel. `plain`: by products and a softmax, see `RowGroup.plain`; for
short rows on a CPU. `flex`: all rows of a batch at once by FlexAttention; for batches of many shapes on a GPU.
"""


@dataclass(frozen=True)
class Objective:
    """What is minimised and how it is computed."""

    weights: LossWeights = field(default_factory=LossWeights)
    vocabulary: int | None = None
    """Tokens that mean something: a model's vocabulary may be padded, and padding takes no part in the next-token loss."""
    attention: Attention = "fused"


@dataclass(frozen=True)
class PathSampling:
    """t = sigmoid(mean + deviation * normal), one a target, then the shift towards noise."""

    timestep_shift: float = 1.0
    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class Path:
    """Where on the way from data to noise each target stands: `times` (num_targets + 1,), the first 0 for clean cells; `noise` (G, C)."""

    times: Tensor
    noise: Tensor


def draw_path(batch: TrainingBatch, sampling: PathSampling, generator: torch.Generator) -> Path:
    """Drawn on the device of the batch, which must be the generator's."""
    device = batch.latents.device
    normal = torch.randn(batch.num_targets, generator=generator, device=device)
    times = shift_time(torch.sigmoid(sampling.mean + sampling.deviation * normal), sampling.timestep_shift)
    noise = torch.randn(batch.latents.shape, generator=generator, device=device)
    return Path(torch.cat([torch.zeros(1, device=device), times]), noise)


def noisy_latents(batch: TrainingBatch, path: Path) -> Tensor:
    """(G, C): clean cells as they are, target cells at their times."""
    return interpolate(batch.latents, path.noise, path.times[batch.target][:, None])


SPARSE = 0.8
"""Rows are attended block by block where that leaves out more than a fifth of the scores."""


def _plain_group(row: Rows, target: Tensor, mask: Tensor, dtype: torch.dtype) -> RowGroup:
    """Rows with targets `target` (count, G) and boolean masks, attended plainly. All that the layers share is computed here, once."""
    U, G = row.understanding, row.generation
    # Views of a target do not see each other: cut where, in any row, the target changes.
    edges = [0, *(torch.nonzero((target[:, 1:] != target[:, :-1]).any(0))[:, 0] + 1).tolist(), G]
    sizes = [size for size in (U, *(b - a for a, b in pairwise(edges))) if size]
    blocks = blocks_of(mask, sizes, dtype)
    if sum(block.size * sizes[j] for block in blocks for j in block.keys) < SPARSE * (U + G) ** 2:
        return RowGroup(U, G, count=row.count, plain=True, blocks=blocks)
    return RowGroup(U, G, mask=added_mask(mask, dtype), count=row.count, plain=True)


def _groups(model: LanceModel, batch: TrainingBatch, attention: Attention) -> list[RowGroup]:
    masks = [row.mask.to(model.device) for row in batch.rows]
    if attention == "flex":
        visible = flex.block_mask([(row.understanding, mask) for row, mask in zip(batch.rows, masks, strict=True)])
        return [RowGroup(batch.ids.numel(), batch.target.numel(), flex=visible)]
    groups, start = [], 0
    for row, mask in zip(batch.rows, masks, strict=True):
        target = batch.target[start : start + row.count * row.generation].view(row.count, row.generation)
        start += target.numel()
        whole = RowGroup(row.understanding, row.generation, mask=mask, count=row.count)
        groups.append(_plain_group(row, target, mask, model.dtype) if attention == "plain" else whole)
    return groups


def ragged(model: LanceModel, batch: TrainingBatch, path: Path, attention: Attention = "fused") -> RaggedBatch:
    """The model's input."""
    device = model.device

    def here(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.to(device)

    return RaggedBatch(
        groups=_groups(model, batch, attention),
        ids=batch.ids.to(device),
        rotations=(model.rotation(batch.positions[0]), model.rotation(batch.positions[1])),
        place=model.place(batch.coordinates),
        latents=noisy_latents(batch, path).to(device),
        times=path.times.to(device),
        time_index=batch.target.to(device),
        vision=here(batch.vision),
        vision_index=here(batch.vision_index),
    )


@dataclass
class LossSums:
    """Sums of one or more batches by task, for the log: `ce` over answer tokens, `mse` over target cells (unweighted), and their counts."""

    ce: Counter[str] = field(default_factory=Counter)
    answers: Counter[str] = field(default_factory=Counter)
    mse: Counter[str] = field(default_factory=Counter)
    targets: Counter[str] = field(default_factory=Counter)
    _later: list[tuple[Counter[str], Counter[str], Tensor, Tensor, list[str]]] = field(default_factory=list)

    def include(self, other: LossSums) -> None:
        """Add the sums of another, which must be settled."""
        for name in ("ce", "answers", "mse", "targets"):
            getattr(self, name).update(getattr(other, name))

    def add(self, totals: Counter[str], counts: Counter[str], losses: Tensor, owner: Tensor, tasks: list[str]) -> None:
        """Note losses (n,) of samples `owner` (n,) whose tasks are `tasks`; they count once the sums are settled."""
        self._later.append((totals, counts, losses.detach(), owner, tasks))

    def settle(self) -> None:
        """Count what was noted. Reading numbers waits for the device, so it is done once its work is under way."""
        for totals, counts, losses, owner, tasks in self._later:
            size = len(tasks)
            owner = owner.cpu()
            by_sample = torch.zeros(size).index_add_(0, owner, losses.float().cpu())
            numbers = torch.bincount(owner, minlength=size)
            for task, value, number in zip(tasks, by_sample.tolist(), numbers.tolist(), strict=True):
                totals[task] += value
                counts[task] += number
        self._later.clear()

    def means(self) -> dict[str, float]:
        """`ce/TASK` and `mse/TASK`."""
        ce = {f"ce/{task}": self.ce[task] / count for task, count in self.answers.items() if count}
        mse = {f"mse/{task}": self.mse[task] / count for task, count in self.targets.items() if count}
        return {**ce, **mse}


def answer_losses(model: LanceModel, batch: TrainingBatch, understanding: Tensor, vocabulary: int | None = None) -> Tensor:
    """Cross-entropy (A,) of every learned token from the understanding states (U, D), over the first `vocabulary` tokens."""
    states = understanding.index_select(0, batch.answer.to(understanding.device))
    return F.cross_entropy(model.logits(states)[:, :vocabulary], batch.labels.to(understanding.device), reduction="none")


def target_losses(model: LanceModel, batch: TrainingBatch, path: Path, generation: Tensor, cap: float) -> tuple[Tensor, Tensor]:
    """(error, weight), both (target cells,): squared error of the velocity, mean over channels, and its weight."""
    cells = torch.nonzero(batch.target)[:, 0]
    data, noise = batch.latents[cells], path.noise[cells]
    times = path.times[batch.target[cells]][:, None]
    device = generation.device
    velocity = model.velocity(generation.index_select(0, cells.to(device)), interpolate(data, noise, times).to(device), times.to(device))
    error = (velocity - velocity_target(data, noise).to(device)).square().mean(-1)
    weight = torch.ones_like(times) if model.config.prediction == "velocity" else (cap * times.square()).clamp_max(1.0)
    return error, weight[:, 0].to(device)


def compute_loss(model: LanceModel, batch: TrainingBatch, path: Path, objective: Objective, totals: Counter[str], sums: LossSums) -> Tensor:
    """The share of a step's loss that this batch brings, its means taken over `totals` (counts of all batches of the step)."""
    return loss_of(model, model(ragged(model, batch, path, objective.attention)), batch, path, objective, totals, sums)


def loss_of(
    model: LanceModel, hidden: Hidden, batch: TrainingBatch, path: Path, objective: Objective, totals: Counter[str], sums: LossSums
) -> Tensor:
    """`compute_loss` from the hidden states of the batch."""
    weights = objective.weights
    loss = torch.zeros((), device=model.device)
    if batch.answer.numel():
        assert hidden.understanding is not None
        ce = answer_losses(model, batch, hidden.understanding, objective.vocabulary)
        loss = loss + weights.ce * ce.sum() / totals["answer"]
        sums.add(sums.ce, sums.answers, ce, batch.sample_of_answer, batch.tasks)
    if batch.num_targets:
        assert hidden.generation is not None
        error, weight = target_losses(model, batch, path, hidden.generation, weights.data_cap)
        loss = loss + weights.mse * (error * weight).sum() / totals["target"]
        cells = batch.target[batch.target > 0]
        sums.add(sums.mse, sums.targets, error * weight, batch.sample_of_target[cells - 1], batch.tasks)
    return loss
