"""What the loop of the encoders (`encoders.py`) asks of a stage, and what all stages have in common."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openlance.files import write_json
from openlance.train.muon import OptimizerRecipe
from openlance.weights.tensorfile import write_tensors

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class EncoderRecipe:
    """What both pre-stages have in common. Unknown keys in the YAML are an error."""

    stage: str
    output: Path
    steps: int
    seed: int = 0
    workers: int = 1
    """Processes that render; 0 renders in the training process."""
    device: str = "cpu"
    """Where it is trained. On CUDA noise is drawn there too, so a run differs from that of a CPU by more than rounding."""
    evaluate_every: int = 200
    save_seconds: float = 180.0
    wandb: str | None = None
    """Project of Weights & Biases that gets the figures of `log.jsonl` too (extra `track`)."""
    optimizer: OptimizerRecipe = field(default_factory=OptimizerRecipe)


class Stage(Protocol):
    """What the loop needs to know. `module` is everything that is trained; its weights are copies of the optimiser's."""

    module: nn.Module

    def batches(self, rng: random.Random) -> list[Batch]:
        """The uint8 batches of one step, from this generator alone (runs in a rendering process)."""

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        """Scalar loss of one batch, on the device of the module; all randomness from the generator, which is on it too."""

    def evaluate(self) -> tuple[dict[str, float], NDArray[np.uint8]]:
        """Figures on held-out scenes and a sheet (H, W, 3) to look at."""

    def export(self, folder: Path) -> None:
        """Write the frozen encoder (weights.safetensors, config.json) into an existing folder."""


def write_encoder(folder: Path, module: nn.Module, config: dict[str, Any]) -> None:
    """weights.safetensors (bfloat16) and config.json, each complete or not there at all. Raises LanceError if they cannot be written."""
    write_tensors(folder / "weights.safetensors", module.state_dict(), torch.bfloat16)
    write_json(folder / "config.json", config)
