"""The optimiser of the supervised stages: float32 masters of the weights, AdamW or Muon with AdamW, schedule, clipping, averages.

Source: AdamW settings of the released recipe (SPEC section 9). Muon after Jordan et al. 2024; measured on the embedded model at equal
samples: loss 0.45 against 0.68 of AdamW (LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import CheckpointError, LanceError
from openlance.model.lance import LanceModel
from openlance.train.lora import is_adapter
from openlance.train.muon import orthogonalise_all


@dataclass(frozen=True)
class OptimRecipe:
    """Rates at full strength and how they come and go."""

    kind: str = "adamw"
    """`adamw`, or `muon`: Muon on the matrices of the layers and AdamW on everything else, adapters among it: a step of Muon has the
    same size in every direction, which the thin factors of a small change are not made for."""
    learning_rate: float = 1e-4
    """Of AdamW."""
    matrix_learning_rate: float = 0.02
    """Of Muon."""
    embedding_learning_rate: float | None = None
    """Of the token embedding, if other than `learning_rate`."""
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-15
    weight_decay: float = 0.0
    momentum: float = 0.95
    schedule: str = "constant"
    """`constant`, `linear` or `cosine`, after the warm-up; linear and cosine fall over the last `decay` share of the steps."""
    warmup_steps: int = 0
    decay: float = 1.0
    final: float = 0.0
    """Share of the rates that is left at the end."""
    clip: float = 1.0
    ema: float = 0.9999
    """Decay of the average per step, less in the beginning; 0 keeps no average."""
    ema_every: int = 1

    def __post_init__(self) -> None:
        if self.kind not in ("adamw", "muon") or self.schedule not in ("constant", "linear", "cosine"):
            raise LanceError(f"optim.kind '{self.kind}' must be adamw or muon, optim.schedule '{self.schedule}' constant, linear or cosine")

    def factor(self, step: int, steps: int) -> float:
        """Share of the full rates at a step of a run of `steps`."""
        up = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        left = min(1.0, (1 - step / steps) / max(self.decay, 1e-9))
        down = {"constant": 1.0, "linear": left, "cosine": (1 - math.cos(math.pi * left)) / 2}[self.schedule]
        return up * (self.final + (1 - self.final) * down)


@dataclass(frozen=True)
class _Matrix:
    """A master that Muon updates: each block of rows is a matrix of its own (the fused products hold several)."""

    master: Tensor
    momentum: Tensor
    rows: list[int]


class Optimizer:
    """Owns the float32 masters of a model's trainable weights, their optimiser state and their running average.

    Weights that are float32 are their own masters.
    """

    def __init__(self, model: LanceModel, recipe: OptimRecipe, steps: int) -> None:
        self.recipe, self.steps = recipe, steps
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise LanceError("no weight is trainable: unfreeze an expert")
        self.names = list(named)
        self.weights: list[nn.Parameter] = list(named.values())
        self.masters = [p.data if p.dtype == torch.float32 else p.data.float() for p in self.weights]
        self.averages = [m.clone() for m in self.masters] if recipe.ema else []
        self._matrices: list[tuple[int, _Matrix]] = []
        if recipe.kind == "muon":
            self._matrices = [
                (i, _Matrix(m, torch.zeros_like(m), _blocks(model, name)))
                for i, (name, m) in enumerate(zip(self.names, self.masters, strict=True))
                if m.ndim == 2 and name.startswith("transformer.layers.") and not is_adapter(name)
            ]
        taken = {i for i, _ in self._matrices}
        self._rest = [i for i in range(len(self.names)) if i not in taken]
        embedding = [i for i in self._rest if self.names[i] == "embedding.weight"]
        others = [i for i in self._rest if i not in embedding]
        self._rates = [recipe.learning_rate, recipe.embedding_learning_rate or recipe.learning_rate]
        groups = [{"params": [self.masters[i] for i in part]} for part in (others, embedding)]
        self.adamw = torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=True)

    @torch.no_grad()
    def step(self, step: int, norm: float) -> None:
        """One update from the gradients of the weights, whose total norm is `norm`; they are consumed."""
        recipe = self.recipe
        factor = recipe.factor(step, self.steps)
        scale = min(1.0, recipe.clip / (norm + 1e-6)) if recipe.clip else 1.0
        gradients = [torch.zeros_like(m) if w.grad is None else w.grad.float() for w, m in zip(self.weights, self.masters, strict=True)]
        if scale < 1:
            torch._foreach_mul_(gradients, scale)
        self.zero_grad()
        _muon([matrix for _, matrix in self._matrices], [gradients[i] for i, _ in self._matrices], recipe, factor)
        for group, rate in zip(self.adamw.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        for i in self._rest:
            self.masters[i].grad = gradients[i]
        self.adamw.step()
        for i in self._rest:
            self.masters[i].grad = None
        self._average(step)
        self._publish(self.masters)

    def gradient_norm(self) -> float:
        """Total norm of the gradients that wait for the next step."""
        return float(torch.nn.utils.get_total_norm([w.grad for w in self.weights if w.grad is not None]))

    def zero_grad(self) -> None:
        for weight in self.weights:
            weight.grad = None

    def _average(self, step: int) -> None:
        if self.averages and (step + 1) % self.recipe.ema_every == 0:
            keep = min(self.recipe.ema, (step + 1) / (step + 10)) ** self.recipe.ema_every
            torch._foreach_lerp_(self.averages, self.masters, 1 - keep)

    def _publish(self, values: list[Tensor]) -> None:
        """Give the model's weights these values."""
        changed = [(w.data, v) for w, v in zip(self.weights, values, strict=True) if w.data.data_ptr() != v.data_ptr()]
        if changed:
            torch._foreach_copy_([w for w, _ in changed], [v for _, v in changed])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model carries the averaged weights (the present ones if none are kept)."""
        if not self.averages:
            yield
            return
        with torch.no_grad():
            kept = [w.data.clone() for w in self.weights]
            self._publish(self.averages)
            try:
                yield
            finally:
                torch._foreach_copy_([w.data for w in self.weights], kept)

    def state(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "masters": self.masters,
            "averages": self.averages,
            "momenta": [matrix.momentum for _, matrix in self._matrices],
            "adamw": self.adamw.state_dict(),
        }

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError if the state belongs to other weights or another kind of optimiser."""
        shapes = [m.shape for m in self.masters]
        fits = state["names"] == self.names and [m.shape for m in state["masters"]] == shapes
        if not fits or len(state["momenta"]) != len(self._matrices) or len(state["averages"]) != len(self.averages):
            raise CheckpointError("the checkpoint is of another model or optimiser: keep the recipe as it was, or use a new output folder")
        for ours, theirs in (
            (self.masters, state["masters"]),
            (self.averages, state["averages"]),
            ([matrix.momentum for _, matrix in self._matrices], state["momenta"]),
        ):
            if ours:
                torch._foreach_copy_(ours, theirs)
        self.adamw.load_state_dict(state["adamw"])
        self._publish(self.masters)


def _blocks(model: LanceModel, name: str) -> list[int]:
    """Rows of the matrices that a fused weight stacks."""
    sizes = model.config.transformer
    if name.endswith("qkv.weight"):
        group = sizes.num_key_value_heads * sizes.head_dim
        return [sizes.num_attention_heads * sizes.head_dim, group, group]
    if name.endswith("gate_up.weight"):
        return [sizes.intermediate_size, sizes.intermediate_size]
    return [model.get_parameter(name).shape[0]]


def _muon(matrices: list[_Matrix], gradients: list[Tensor], recipe: OptimRecipe, factor: float) -> None:
    """Momentum, then each block's nearest orthogonal matrix; tall blocks step further so that outputs change alike."""
    rate = recipe.matrix_learning_rate * factor
    targets: list[Tensor] = []
    blocks: list[Tensor] = []
    for matrix, gradient in zip(matrices, gradients, strict=True):
        matrix.momentum.lerp_(gradient, 1 - recipe.momentum)
        update = gradient.lerp_(matrix.momentum, recipe.momentum)
        if recipe.weight_decay:
            matrix.master.mul_(1 - rate * recipe.weight_decay)
        targets += torch.split(matrix.master, matrix.rows)
        blocks += torch.split(update, matrix.rows)
    for target, update in zip(targets, orthogonalise_all(blocks), strict=True):
        target.add_(update, alpha=-rate * max(1.0, update.shape[0] / update.shape[1]) ** 0.5)
