"""Low-rank adapters on disk, in the layout of peft, and their merge into a model's weights.

adapter_config.json  adapter_model.safetensors (`base_model.model.X.lora_A.weight` (r, in), `base_model.model.X.lora_B.weight` (out, r))

peft itself is not needed here: W + alpha / r * B A is one product, computed in float32 and rounded once. peft's own merge adds a
rounded product to a rounded weight.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import CheckpointError
from openlance.model.lance import LanceModel
from openlance.weights.tensorfile import Entry, TensorFile, open_tensors

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, DOWN, UP = "base_model.model.", ".lora_A.weight", ".lora_B.weight"

OTHER_KINDS = ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern", "modules_to_save", "fan_in_fan_out", "lora_bias")
"""Settings of peft that change the arithmetic; adapters made with them are refused rather than merged wrongly."""


@dataclass(frozen=True)
class LowRank:
    """The change of one weight (out, in): `down` (r, in), `up` (out, r)."""

    down: Tensor
    up: Tensor


def merged_weight(weight: Tensor, change: LowRank, scale: float) -> Tensor:
    """weight (out, in) + scale * up @ down, in float32."""
    product = change.up.detach().float() @ change.down.detach().float()
    return weight.detach().float().add_(product, alpha=scale) if weight.dtype != torch.float32 else torch.add(weight, product, alpha=scale)


@torch.no_grad()
def merge_adapter(model: LanceModel, folder: Path) -> list[str]:
    """Merge the adapter of `folder` into `model`; returns the names of the changed weights.

    Raises CheckpointError if the folder is incomplete or of another kind of adapter, or naming every tensor that has no place in the
    model, no partner, a wrong shape or values that are not finite. Nothing is changed then.
    """
    rank, scale = _read_config(folder / ADAPTER_CONFIG)
    file = open_tensors(folder / ADAPTER_WEIGHTS)
    targets = _check(model, file, rank, folder)
    changes = {name: LowRank(_read(file, name + DOWN), _read(file, name + UP)) for name in targets}
    broken = [name for name, change in changes.items() if not (change.down.isfinite().all() and change.up.isfinite().all())]
    if broken:
        raise CheckpointError(f"{folder / ADAPTER_WEIGHTS} has NaN or infinity for {', '.join(broken)}: train the adapter anew")
    for name, weight in targets.items():
        change = LowRank(changes[name].down.to(weight.device), changes[name].up.to(weight.device))
        weight.copy_(merged_weight(weight, change, scale))
    return [f"{name}.weight" for name in targets]


def _read_config(path: Path) -> tuple[int, float]:
    """Rank and scale of an adapter."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind, rank, alpha = values["peft_type"], int(values["r"]), float(values["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} cannot be read as settings of an adapter ({error!r}): point to its folder") from error
    other = [key for key in OTHER_KINDS if values.get(key)]
    if values.get("bias", "none") != "none":
        other.append("bias")
    if kind != "LORA" or other:
        what = f"sets {', '.join(other)}" if other else f"is of the kind {kind}"
        raise CheckpointError(f"{path} {what}: only plain LoRA can be merged here; merge it with peft first")
    if rank < 1:
        raise CheckpointError(f"{path} says rank {rank}: it must be at least 1")
    return rank, alpha / rank


def _check(model: LanceModel, file: TensorFile, rank: int, folder: Path) -> dict[str, Tensor]:
    """The weights that the adapter changes, by the name of their layer."""
    weights = {name: m.weight for name, m in model.named_modules() if isinstance(m, nn.Linear) and name.startswith("transformer.")}
    found = {PREFIX + name + end: (name, end) for name in weights for end in (DOWN, UP)}
    problems = [f"{name} has no place in the model" for name in file.entries if name not in found]
    touched = {found[name][0] for name in file.entries if name in found}
    for name in sorted(touched):
        rows, columns = weights[name].shape
        for end, shape in ((DOWN, (rank, columns)), (UP, (rows, rank))):
            entry: Entry | None = file.entries.get(PREFIX + name + end)
            if entry is None:
                problems.append(f"{PREFIX + name + end} is missing")
            elif entry.shape != shape:
                problems.append(f"{PREFIX + name + end} is {list(entry.shape)} instead of {list(shape)}")
    if not touched and not problems:
        problems.append("there is none")
    if problems:
        listing = "; ".join(problems)
        raise CheckpointError(f"{folder} does not fit the model. Tensors: {listing}. Load the checkpoint that the adapter was trained on")
    return {name: weight for name, weight in weights.items() if name in touched}


def _read(file: TensorFile, name: str) -> Tensor:
    """A whole tensor, float32."""
    return torch.cat([piece.float() for _, piece in file.rows(PREFIX + name)])
