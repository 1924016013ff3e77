"""Low-rank adapters while training: put on the dense layers of an expert by peft, learned alone, written beside the merged model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openlance.errors import LanceError, MissingExtra
from openlance.model.lance import LanceModel
from openlance.weights.adapter import ADAPTER_WEIGHTS, DOWN, PREFIX, UP, LowRank, merged_weight
from openlance.weights.empty import stand_ins
from openlance.weights.save import whole_folder
from openlance.weights.tensorfile import write_tensors

TARGETS = ("qkv", "output", "gate_up", "down")
"""The dense layers of an expert. A fused one gets one adapter: its parts share the lower factor."""

ADAPTER = "default"


@dataclass(frozen=True)
class LoraRecipe:
    """Adapters on every layer of the experts that learn; everything else stays as it is."""

    rank: int = 16
    alpha: float = 16.0
    """The change of a weight is alpha / rank times the product of its factors."""
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise LanceError(f"model.lora.rank {self.rank} must be at least 1")
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise LanceError(f"model.lora.alpha {self.alpha} must be a number above 0")
        unknown = sorted(set(self.targets) - set(TARGETS))
        if unknown or not self.targets:
            raise LanceError(f"model.lora.targets {unknown or '[]'} must be among {', '.join(TARGETS)}")

    def __str__(self) -> str:
        """For plans."""
        return f"adapters of rank {self.rank} on {', '.join(self.targets)}"


def is_adapter(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter."""
    return ".lora_A." in name or ".lora_B." in name


def attach(model: LanceModel, recipe: LoraRecipe, experts: tuple[str, ...], seed: int) -> None:
    """Put adapters on these experts and let nothing else learn. The model's outputs do not change yet: the upper factors are zero.

    Raises MissingExtra without peft.
    """
    peft = _peft()
    # peft draws from the global generator: a run's first weights must depend on its seed alone.
    # It puts an adapter where the weight of its layer is, and without memory the adapter would lose its values.
    with torch.random.fork_rng(devices=[]), stand_ins(model):
        torch.manual_seed(seed)
        peft.inject_adapter_in_model(_config(recipe, experts), model, ADAPTER)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_adapter(name))


def write_adapter(state: Mapping[str, Tensor], recipe: LoraRecipe, experts: tuple[str, ...], folder: Path) -> None:
    """Write the adapters among a model's weights by name to `folder` in the layout of peft, whole or not at all; an earlier one goes.

    Raises CheckpointError if the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for name, change in _changes(state).items():
        tensors |= {PREFIX + name + DOWN: change.down, PREFIX + name + UP: change.up}
    with whole_folder(folder, overwrite=True) as temporary:
        _config(recipe, experts).save_pretrained(str(temporary))
        write_tensors(temporary / ADAPTER_WEIGHTS, tensors)


def merged_tensors(state: Mapping[str, Tensor], recipe: LoraRecipe, dtype: torch.dtype) -> dict[str, Tensor]:
    """The state of a model without adapters that computes the same as one with `state`, changed weights in `dtype`.

    Merging in place and back would leave rounding in the frozen weights, and a run that exports would differ from one that does not.
    """
    changes = _changes(state)
    merged: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if is_adapter(name):
            continue
        plain = name.replace(".base_layer.", ".")
        layer, _, leaf = plain.rpartition(".")
        change = changes.get(layer) if leaf == "weight" else None
        merged[plain] = tensor if change is None else merged_weight(tensor, change, recipe.alpha / recipe.rank).to(dtype)
    return merged


def _changes(state: Mapping[str, Tensor]) -> dict[str, LowRank]:
    """Adapters by the name of their layer."""
    down, up = f".lora_A.{ADAPTER}.weight", f".lora_B.{ADAPTER}.weight"
    layers = [name.removesuffix(down) for name in state if name.endswith(down)]
    return {layer: LowRank(state[layer + down].detach(), state[layer + up].detach()) for layer in layers}


def _config(recipe: LoraRecipe, experts: tuple[str, ...]) -> Any:
    layers = rf".*layers\.\d+\.({'|'.join(experts)})\.({'|'.join(recipe.targets)})"
    return _peft().LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, target_modules=layers, lora_dropout=0.0, bias="none")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("peft", "train") from error
    return peft
