"""What a run leaves for others: its model in our own layout, and the adapter it trained, if it trained one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.train.lora import merged_tensors, write_adapter
from openlance.train.recipe import ModelRecipe
from openlance.weights.save import save_pretrained


def write_export(model: LanceModel, binder: Binder, recipe: ModelRecipe, output: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the model in bfloat16 to `output/model`, and its adapters, where the recipe trains them, to `output/adapter`; they are merged
    in the model. Earlier exports there are replaced.

    `state`: weights by name instead of the model's own, as of a split model put together. Raises CheckpointError.
    """
    state = model.state_dict() if state is None else state
    if recipe.lora is not None:
        write_adapter(state, recipe.lora, recipe.train, output / "adapter")
        state = merged_tensors(state, recipe.lora, torch.bfloat16)
    save_pretrained(model, binder, output / "model", dtype=torch.bfloat16, overwrite=True, tensors=state)
