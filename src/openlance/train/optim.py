"""The optimiser of the supervised stages: float32 masters of the weights, AdamW or Muon with AdamW, schedule, clipping, averages.

Source: AdamW settings of the released recipe (SPEC section 9). Muon after Jordan et al. 2024; measured on the embedded model at equal
samples: loss 0.45 against 0.68 of AdamW (LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from openlance.errors import CheckpointError, LanceError
from openlance.model.lance import LanceModel
from openlance.model.precision import fast_dtype
from openlance.train.lora import is_adapter
from openlance.train.muon import orthogonalise_all
from openlance.train.parallel import Ranks, deal, local

if TYPE_CHECKING:
    from openlance.train.shard import Shards


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
    """A master that Muon updates: each block of rows is a matrix of its own (the fused products hold several).

    Of a split model `master` and `momentum` are this process's rows of a weight of `shape`.
    """

    master: Tensor
    momentum: Tensor
    rows: list[int]
    shape: torch.Size


def moved_by_muon(name: str, ndim: int) -> bool:
    """Whether Muon moves a weight of this name, if it is the optimiser: the matrices of layers, adapters left out."""
    return ndim == 2 and name.startswith("transformer.layers.") and not is_adapter(name)


class Optimizer:
    """Owns the float32 masters of a model's trainable weights, their optimiser state and their running average.

    Weights that are float32 are their own masters. Of a split model (`shards`) all of it is this process's rows. `ranks` that each hold
    the whole model take the same steps together.
    """

    def __init__(
        self, model: LanceModel, recipe: OptimRecipe, steps: int, shards: Shards | None = None, ranks: Ranks | None = None
    ) -> None:
        self.recipe, self.steps, self.shards, self.ranks = recipe, steps, shards, ranks or Ranks()
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not named:
            raise LanceError("no weight is trainable: unfreeze an expert")
        self.names = list(named)
        self.weights: list[nn.Parameter] = list(named.values())
        self.masters = [value if value.dtype == torch.float32 else value.float() for value in self._values()]
        self.averages = [m.clone() for m in self.masters] if recipe.ema else []
        self._matrices: list[tuple[int, _Matrix]] = []
        if recipe.kind == "muon":
            self._matrices = [
                (i, _Matrix(m, torch.zeros_like(m), _blocks(model, name), named[name].shape))
                for i, (name, m) in enumerate(zip(self.names, self.masters, strict=True))
                if moved_by_muon(name, m.ndim)
            ]
        taken = {i for i, _ in self._matrices}
        self._rest = [i for i in range(len(self.names)) if i not in taken]
        embedding = [i for i in self._rest if self.names[i] == "embedding.weight"]
        others = [i for i in self._rest if i not in embedding]
        self._groups = (others, embedding)
        self._rates = [recipe.learning_rate, recipe.embedding_learning_rate or recipe.learning_rate]
        groups = [{"params": [self.masters[i] for i in part]} for part in self._groups]
        self.adamw = torch.optim.AdamW(groups, betas=recipe.betas, eps=recipe.eps, weight_decay=recipe.weight_decay, fused=True)

    @torch.no_grad()
    def step(self, step: int, norm: float) -> None:
        """One update from the gradients of the weights, whose total norm is `norm`; they are consumed."""
        recipe = self.recipe
        factor = recipe.factor(step, self.steps)
        scale = min(1.0, recipe.clip / (norm + 1e-6)) if recipe.clip else 1.0
        gradients = []
        for weight, master in zip(self.weights, self.masters, strict=True):
            gradients.append(torch.zeros_like(master) if weight.grad is None else local(weight.grad).float())
            weight.grad = None
        if scale < 1:
            torch._foreach_mul_(gradients, scale)
        self._muon([gradients[i] for i, _ in self._matrices], factor)
        for group, rate in zip(self.adamw.param_groups, self._rates, strict=True):
            group["lr"] = rate * factor
        for i in self._rest:
            self.masters[i].grad = gradients[i]
        self.adamw.step()
        for i in self._rest:
            self.masters[i].grad = None
        self._average(step)
        self._publish(self.masters)

    def _muon(self, gradients: list[Tensor], factor: float) -> None:
        """Momentum, then each block's nearest orthogonal matrix; tall blocks step further so that outputs change alike."""
        recipe, rate = self.recipe, self.recipe.matrix_learning_rate * factor
        matrices = [matrix for _, matrix in self._matrices]
        updates: list[Tensor] = []
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.momentum.lerp_(gradient, 1 - recipe.momentum)
            updates.append(gradient.lerp_(matrix.momentum, recipe.momentum))
            if recipe.weight_decay:
                matrix.master.mul_(1 - rate * recipe.weight_decay)
        masters, rows = [matrix.master for matrix in matrices], [matrix.rows for matrix in matrices]
        if self.shards is None or not matrices:
            _turn(masters, updates, rows, rate, self.ranks)
            return
        # Rows alone have no nearest orthogonal matrix: every rank gets some of the matrices whole.
        shapes = [matrix.shape for matrix in matrices]
        own = self.shards.assemble(updates, shapes)
        changes = {i: torch.zeros_like(update) for i, update in own.items()}
        _turn(list(changes.values()), list(own.values()), [rows[i] for i in own], rate, Ranks())
        torch._foreach_add_(masters, self.shards.disperse(changes, shapes))

    def gradient_norm(self) -> float:
        """Total norm of the gradients that wait for the next step. Of a split model all ranks must ask for it."""
        gradients = [local(w.grad) for w in self.weights if w.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) if self.shards is None else self.shards.norm(gradients)

    def zero_grad(self) -> None:
        for weight in self.weights:
            weight.grad = None

    def _average(self, step: int) -> None:
        if self.averages and (step + 1) % self.recipe.ema_every == 0:
            keep = min(self.recipe.ema, (step + 1) / (step + 10)) ** self.recipe.ema_every
            torch._foreach_lerp_(self.averages, self.masters, 1 - keep)

    def _values(self) -> list[Tensor]:
        """What the model keeps of its weights, sharing their memory."""
        return [local(weight) for weight in self.weights]

    def _publish(self, values: list[Tensor]) -> None:
        """Give the model's weights these values."""
        changed = [(w, v) for w, v in zip(self._values(), values, strict=True) if w.data_ptr() != v.data_ptr()]
        if changed:
            torch._foreach_copy_([w for w, _ in changed], [v for _, v in changed])

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the model carries the averaged weights (the present ones if none are kept)."""
        if not self.averages:
            yield
            return
        with torch.no_grad():
            kept = [value.clone() for value in self._values()]
            self._publish(self.averages)
            try:
                yield
            finally:
                torch._foreach_copy_(self._values(), kept)

    def state(self) -> dict[str, Any]:
        """All that a run needs to go on: shared memory of one process, copies of the rows of a split model."""
        adamw = self.adamw.state_dict()
        state: dict[str, Any] = {
            "names": self.names,
            "masters": self.masters,
            "averages": self.averages,
            "momenta": [matrix.momentum for _, matrix in self._matrices],
            "adamw": adamw,
        }
        if self.shards is None:
            return state
        shapes = [weight.shape for weight in self.weights]
        copied = self.shards.copied
        for key, of in (("masters", shapes), ("averages", shapes), ("momenta", [matrix.shape for _, matrix in self._matrices])):
            state[key] = list(map(copied, state[key], of))
        # AdamW numbers its weights by the order of its groups.
        order = [index for group in self._groups for index in group]
        adamw["state"] = {
            number: {
                key: copied(value, shapes[order[number]]) if value.ndim else value.to("cpu", copy=True) for key, value in entry.items()
            }
            for number, entry in adamw["state"].items()
        }
        return state

    @torch.no_grad()
    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a state, of which a split model gets its rows. Raises CheckpointError if it belongs to other weights or another kind
        of optimiser."""
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


def _turn(targets: list[Tensor], updates: list[Tensor], rows: list[list[int]], rate: float, ranks: Ranks) -> None:
    """Move whole matrices against the orthogonal matrices nearest to the blocks of rows of their updates."""
    blocks = [block for target, sizes in zip(targets, rows, strict=True) for block in torch.split(target, sizes)]
    parts = [part for update, sizes in zip(updates, rows, strict=True) for part in torch.split(update, sizes)]
    for block, update in zip(blocks, _orthogonal(parts, ranks), strict=True):
        block.add_(update, alpha=-rate * max(1.0, update.shape[0] / update.shape[1]) ** 0.5)


def _orthogonal(parts: list[Tensor], ranks: Ranks) -> list[Tensor]:
    """The orthogonal matrices nearest to these. Of several ranks, which all bring the same, each finds its share of them for all."""
    if not ranks.several:
        return orthogonalise_all(parts)
    owned = deal([part.numel() * min(part.shape) for part in parts], ranks.world_size)
    mine = owned[ranks.rank]
    # The numbers are products in the fast dtype, so they lose nothing by travelling in it.
    found = [torch.empty_like(part, dtype=fast_dtype(part.device)) for part in parts]
    for i, own in zip(mine, orthogonalise_all([parts[i] for i in mine]), strict=True):
        found[i].copy_(own)
    ranks.complete(found, owned)
    return [one.to(part.dtype) for one, part in zip(found, parts, strict=True)]
