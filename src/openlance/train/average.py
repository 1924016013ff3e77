"""A stage without gradients: the weights between those of two models of one ancestry. What a stage of few tasks makes the model lose, most
of its average with the weights from before has again (model soups, arXiv 2203.05482; measured on the embedded model in LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from openlance.errors import CheckpointError
from openlance.files import write_json
from openlance.model.lance import LanceModel
from openlance.train.recipe import RecipeError, parse_typed, read_values
from openlance.weights.load import load_pretrained
from openlance.weights.save import save_pretrained


@dataclass(frozen=True)
class AverageRecipe:
    """What is averaged, and where the result goes."""

    average: tuple[str, str]
    """Two models, folders or names such as `nano`."""
    output: Path
    """Gets `model`, and `recipe.json`."""
    share: float = 0.5
    """Of the second model, from 0 to 1."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise RecipeError(f"share {self.share:g} must be from 0, the first model alone, to 1, the second alone")


def read_average(path: Path, overrides: Sequence[str] = ()) -> AverageRecipe:
    """The recipe of a YAML file with `average`. Raises RecipeError."""
    recipe: AverageRecipe = parse_typed(AverageRecipe, read_values(path, overrides), str(path))
    return recipe


def average(recipe: AverageRecipe) -> Path:
    """Write the average to `output/model` in bfloat16, in place of an earlier one. Returns that folder.

    Raises CheckpointError where a model cannot be read, or naming the weights in which the two differ.
    """
    (one, _), (other, binder) = (load_pretrained(name, device="cpu", dtype="float32") for name in recipe.average)
    tensors = average_tensors(one, other, recipe.share)
    recipe.output.mkdir(parents=True, exist_ok=True)
    folder, told = recipe.output / "model", recipe.output / "recipe.json"
    told.unlink(missing_ok=True)  # killed before its end, an average must not pass for the one before it
    save_pretrained(other, binder, folder, dtype=torch.bfloat16, tensors=tensors, overwrite=True)
    values = {"average": list(recipe.average), "share": recipe.share}
    write_json(told, values)
    return folder


@torch.no_grad()
def average_tensors(one: LanceModel, other: LanceModel, share: float) -> dict[str, Tensor]:
    """By name, (1 - share) of `one` and `share` of `other`, computed in float32.

    Raises CheckpointError naming the weights in which the models differ.
    """
    first, second = one.state_dict(), other.state_dict()
    odd = [name for name in sorted(first.keys() | second.keys()) if _shape(first, name) != _shape(second, name)]
    if odd:
        raise CheckpointError(f"the models differ in {len(odd)} weights, such as {', '.join(odd[:3])}: average models of one configuration")
    return {name: torch.lerp(tensor.float(), second[name].float(), share) for name, tensor in first.items()}


def _shape(tensors: dict[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None
