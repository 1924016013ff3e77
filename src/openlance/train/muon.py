"""The optimiser of the pre-stages: float32 masters under fast weights, Muon on matrices, AdamW on the rest, an average.

Source: Muon after Jordan et al. 2024 (Newton-Schulz orthogonalised momentum). Measured on the autoencoder, equal minutes on one core:
25.1 dB against 22.4 dB for AdamW after 3 minutes, although a step costs 1.7 times as much (LOG.md, "autoencoder").
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import CheckpointError
from openlance.model.precision import fast_dtype


@dataclass(frozen=True)
class OptimizerRecipe:
    """Rates at full strength; `warmup` steps lead up to them, the last `decay` share of the run leads down to 2 %."""

    muon: float = 0.02
    adamw: float = 1e-3
    warmup: int = 60
    decay: float = 0.4
    momentum: float = 0.95
    weight_decay: float = 0.01
    max_norm: float = 1.0
    average: float = 0.99
    smallest_matrix: int = 32
    """Matrices with a shorter side than this are left to AdamW."""


def orthogonalise(gradient: Tensor) -> Tensor:
    """The nearest matrix with singular values about 1 (0.7 to 1.2) to a gradient (outputs, ...): five Newton-Schulz steps.

    They bear the precision of bfloat16, so they run in whatever the device multiplies fast.
    """
    x = gradient.reshape(gradient.shape[0], -1).to(fast_dtype(gradient.device))
    tall = x.shape[0] > x.shape[1]
    x = x.T.contiguous() if tall else x
    x = x / (x.norm() + 1e-7)
    # Sums inside the products: 1.3 to 1.7 times as fast as apart, on one core at 128 to 704 rows of 256 (LOG.md).
    for _ in range(5):
        square = x @ x.T
        polynomial = torch.addmm(square, square, square, beta=-4.775, alpha=2.0315)
        x = torch.addmm(x, polynomial, x, beta=3.4445)
    result: Tensor = (x.T if tall else x).to(gradient.dtype).reshape(gradient.shape)
    return result


def orthogonalise_all(gradients: Sequence[Tensor]) -> list[Tensor]:
    """`orthogonalise` of each; on an accelerator those of one size together, as launching small products is what costs there."""
    if not gradients or gradients[0].device.type == "cpu":
        return [orthogonalise(gradient) for gradient in gradients]
    return orthogonalise_together(gradients)


def orthogonalise_together(gradients: Sequence[Tensor]) -> list[Tensor]:
    """The same by products over stacks of equal-sized matrices."""
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, gradient in enumerate(gradients):
        groups[gradient.shape[0], gradient[0].numel()].append(index)
    found: dict[int, Tensor] = {}
    for (rows, columns), members in groups.items():
        x = torch.stack([gradients[i].reshape(rows, columns) for i in members]).to(fast_dtype(gradients[0].device))
        x = x.mT.contiguous() if rows > columns else x
        x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(5):
            square = x @ x.mT
            polynomial = torch.baddbmm(square, square, square, beta=-4.775, alpha=2.0315)
            x = torch.baddbmm(x, polynomial, x, beta=3.4445)
        x = x.mT if rows > columns else x
        found.update((i, one.to(gradients[i].dtype).reshape(gradients[i].shape)) for i, one in zip(members, x, strict=True))
    return [found[i] for i in range(len(gradients))]


class MasterOptimizer:
    """Owns the float32 weights of a module whose own weights are copies in the fast dtype of the device, and their running average."""

    def __init__(self, module: nn.Module, recipe: OptimizerRecipe, steps: int) -> None:
        self.recipe, self.steps = recipe, steps
        self.names = [name for name, p in module.named_parameters() if p.requires_grad]
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self.masters = [p.detach().float().clone() for p in self.weights]
        self.averages = [p.clone() for p in self.masters]
        self.momenta = [torch.zeros_like(p) if self._is_matrix(p) else None for p in self.masters]
        rest = [p for p, m in zip(self.masters, self.momenta, strict=True) if m is None]
        self.adamw = torch.optim.AdamW(rest, betas=(0.9, 0.97), weight_decay=recipe.weight_decay, fused=True)

    def _is_matrix(self, p: Tensor) -> bool:
        return p.ndim >= 2 and min(p.shape[0], p[0].numel()) >= self.recipe.smallest_matrix

    def factor(self, step: int) -> float:
        """Share of the full rates at a step, in (0, 1]."""
        up = (step + 1) / max(1, self.recipe.warmup)
        down = (1 - step / self.steps) / max(1e-9, self.recipe.decay)
        return min(1.0, up, max(0.02, down))

    @torch.no_grad()
    def step(self, step: int) -> float:
        """One update from the gradients of the module, which are consumed. Returns their norm before clipping."""
        recipe, factor = self.recipe, self.factor(step)
        gradients = [torch.zeros_like(m) if p.grad is None else p.grad.float() for p, m in zip(self.weights, self.masters, strict=True)]
        for p in self.weights:
            p.grad = None
        norm = float(torch.nn.utils.get_total_norm(gradients))
        torch._foreach_mul_(gradients, min(1.0, recipe.max_norm / (norm + 1e-6)))
        matrices, updates = [], []
        for master, gradient, momentum in zip(self.masters, gradients, self.momenta, strict=True):
            if momentum is None:
                master.grad = gradient
                continue
            momentum.lerp_(gradient, 1 - recipe.momentum)
            matrices.append(master)
            updates.append(gradient.lerp_(momentum, recipe.momentum))
        for master, update in zip(matrices, orthogonalise_all(updates), strict=True):
            stretch = max(1.0, master.shape[0] / master[0].numel()) ** 0.5
            master.add_(update, alpha=-recipe.muon * factor * stretch)
        self.adamw.param_groups[0]["lr"] = recipe.adamw * factor
        self.adamw.step()
        self.adamw.zero_grad()
        torch._foreach_lerp_(self.averages, self.masters, max(1 - recipe.average, 1 / (1 + step / 3)))
        torch._foreach_copy_([p.data for p in self.weights], self.masters)
        return norm

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the module carries the averaged weights."""
        with torch.no_grad():
            torch._foreach_copy_([p.data for p in self.weights], self.averages)
            try:
                yield
            finally:
                torch._foreach_copy_([p.data for p in self.weights], self.masters)

    def state_dict(self) -> dict[str, Any]:
        return {
            "names": self.names,
            "masters": self.masters,
            "averages": self.averages,
            "momenta": [m for m in self.momenta if m is not None],
            "adamw": self.adamw.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises CheckpointError if the state belongs to another module."""
        if state["names"] != self.names or [m.shape for m in state["masters"]] != [m.shape for m in self.masters]:
            raise CheckpointError("the checkpoint was written for other sizes: keep the recipe's model, or start in a new output folder")
        with torch.no_grad():
            torch._foreach_copy_(self.masters, state["masters"])
            torch._foreach_copy_(self.averages, state["averages"])
            torch._foreach_copy_([m for m in self.momenta if m is not None], state["momenta"])
            torch._foreach_copy_([p.data for p in self.weights], self.masters)
        self.adamw.load_state_dict(state["adamw"])
