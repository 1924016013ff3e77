"""Pre-stages: the autoencoder and the vision encoder are trained by themselves first, then frozen, as in the paper.

    python -m openlance.train.encoders recipes/nano/autoencoder.yaml [--steps 500] [--output runs/elsewhere]

One loop for both. A stage says what a batch is, what its loss is and how it is judged (`reconstruction.py`, `attributes.py`).
Batches and noise are functions of (seed, step), so a run killed at any moment and started again goes on to the same weights.
A run folder holds `checkpoint.pt` (exact resume), `log.jsonl` (one line an evaluation) and its curves (`tensorboard`), `sheet.png`
(samples) and, at the end, `weights.safetensors` (averaged, bfloat16) with `config.json`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch.utils.data import DataLoader, Dataset

from openlance.data.streams import one_thread
from openlance.errors import CheckpointError, LanceError
from openlance.files import whole_file
from openlance.model.precision import fast_dtype
from openlance.train.attributes import VisionRecipe, VisionStage
from openlance.train.encoder_stage import Batch, EncoderRecipe, Stage
from openlance.train.muon import MasterOptimizer
from openlance.train.reconstruction import AutoencoderRecipe, AutoencoderStage
from openlance.train.tracking import Tracker, open_trackers, track

STAGES: dict[str, tuple[type[EncoderRecipe], Any]] = {
    "autoencoder": (AutoencoderRecipe, AutoencoderStage),
    "vision": (VisionRecipe, VisionStage),
}


class _Steps(Dataset[list[Batch]]):
    """Item i holds the batches of step `first` + i."""

    def __init__(self, stage: Stage, seed: int, first: int, steps: int) -> None:
        self.stage, self.seed, self.first, self.steps = stage, seed, first, steps

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, index: int) -> list[Batch]:
        return self.stage.batches(random.Random(f"{self.seed}-{self.first + index}"))


def read_recipe(path: Path, overrides: list[str] | None = None) -> EncoderRecipe:
    """The typed recipe of a YAML file; `overrides` are command-line options such as `--steps 500`.

    Raises LanceError on unknown keys, wrong types or an unknown stage.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    raw = yaml.safe_load(path.read_text())
    if not isinstance(raw, dict) or raw.get("stage") not in STAGES:
        raise LanceError(f"{path}: `stage` must be one of {', '.join(STAGES)}")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(STAGES[raw["stage"]][0], "recipe")
    try:
        config = parser.parse_object({"recipe": raw})
        config = parser.parse_args([_prefixed(o) for o in overrides or []], namespace=config)
    except ArgumentError as error:
        raise LanceError(f"{path}: {error}") from error
    recipe: EncoderRecipe = parser.instantiate(config).recipe
    return recipe


def _prefixed(option: str) -> str:
    return f"--recipe.{option[2:]}" if option.startswith("--") else option


def train_encoder(recipe: EncoderRecipe, stopped: Sequence[int] = ()) -> dict[str, float]:
    """Train to the end of the recipe, from the run folder's checkpoint if it has one. Returns the last figures.

    Once `stopped` holds anything the run is saved after the current step and left.
    """
    torch.manual_seed(recipe.seed)
    stage: Stage = STAGES[recipe.stage][1](recipe)
    stage.module.to(recipe.device)
    optimizer = MasterOptimizer(stage.module, recipe.optimizer, recipe.steps)
    stage.module.to(fast_dtype(recipe.device))
    recipe.output.mkdir(parents=True, exist_ok=True)
    first = _resume(recipe, optimizer)
    loader = DataLoader(
        _Steps(stage, recipe.seed, first, recipe.steps),
        batch_size=None,
        num_workers=recipe.workers,
        prefetch_factor=4 if recipe.workers else None,
        worker_init_fn=one_thread,
    )
    with open_trackers(recipe.output, recipe.output.name, recipe.wandb, recipe_dict(recipe)) as trackers:
        figures, done = _train(recipe, stage, optimizer, loader, first, stopped, trackers)
    if done:
        with optimizer.averaged():
            stage.export(recipe.output)
    return figures


def _train(
    recipe: EncoderRecipe,
    stage: Stage,
    optimizer: MasterOptimizer,
    loader: DataLoader[list[Batch]],
    first: int,
    stopped: Sequence[int],
    trackers: Sequence[Tracker],
) -> tuple[dict[str, float], bool]:
    """The steps from `first` on: the last figures, and whether they were all done rather than `stopped`."""
    started = saved = time.monotonic()
    samples, losses, figures = 0, list[float](), dict[str, float]()
    for step, batches in enumerate(loader, first):
        losses.append(_train_step(stage, optimizer, batches, recipe, step))
        samples += sum(len(next(iter(batch.values()))) for batch in batches)
        last = step + 1 == recipe.steps
        if last or (step + 1) % recipe.evaluate_every == 0:
            speed = samples / (time.monotonic() - started)
            figures = _judge(recipe, stage, optimizer, step + 1, {"loss": sum(losses[-50:]) / len(losses[-50:]), "samples/s": speed})
            track(trackers, step + 1, {name: value for name, value in figures.items() if name != "step"})
        if last or stopped or time.monotonic() - saved > recipe.save_seconds:
            _save(recipe, optimizer, step + 1)
            saved = time.monotonic()
        if stopped:
            return figures, False
    return figures, True


def _train_step(stage: Stage, optimizer: MasterOptimizer, batches: list[Batch], recipe: EncoderRecipe, step: int) -> float:
    generator = torch.Generator(recipe.device).manual_seed(recipe.seed * 1_000_003 + step)
    losses = []
    for batch in batches:
        loss = stage.loss({name: tensor.to(recipe.device) for name, tensor in batch.items()}, generator)
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    optimizer.step(step)
    return sum(float(loss) for loss in losses)


def _judge(recipe: EncoderRecipe, stage: Stage, optimizer: MasterOptimizer, step: int, figures: dict[str, float]) -> dict[str, float]:
    from PIL import Image

    with optimizer.averaged(), torch.no_grad():
        judged, sheet = stage.evaluate()
    figures = {"step": step, **figures, **judged}
    with (recipe.output / "log.jsonl").open("a") as log:
        log.write(json.dumps({k: round(v, 5) for k, v in figures.items()}) + "\n")
    print(time.strftime("%H:%M:%S"), "  ".join(f"{k} {v:.4g}" for k, v in figures.items()), flush=True)
    with whole_file(recipe.output / "sheet.png") as temporary:
        Image.fromarray(sheet).save(temporary, format="PNG")
    return figures


def _save(recipe: EncoderRecipe, optimizer: MasterOptimizer, step: int) -> None:
    temporary = recipe.output / "checkpoint.tmp"
    torch.save({"step": step, "optimizer": optimizer.state_dict()}, temporary)
    os.replace(temporary, recipe.output / "checkpoint.pt")


def _resume(recipe: EncoderRecipe, optimizer: MasterOptimizer) -> int:
    path = recipe.output / "checkpoint.pt"
    if not path.exists():
        return 0
    try:
        state = torch.load(path, weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} cannot be read ({error}): remove it to start again") from error
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def export_now(recipe: EncoderRecipe) -> int:
    """Write the averaged weights of a run's checkpoint as they are, while the run may go on. Returns the step."""
    stage: Stage = STAGES[recipe.stage][1](recipe)
    stage.module.to(recipe.device)
    optimizer = MasterOptimizer(stage.module, recipe.optimizer, recipe.steps)
    stage.module.to(fast_dtype(recipe.device))
    step = _resume(recipe, optimizer)
    if not step:
        raise CheckpointError(f"{recipe.output} has no checkpoint yet")
    with optimizer.averaged():
        stage.export(recipe.output)
    return step


def recipe_dict(recipe: EncoderRecipe) -> dict[str, Any]:
    """A recipe as plain values, for records."""
    values: dict[str, Any] = json.loads(json.dumps(asdict(recipe), default=str))
    return values


def main(arguments: list[str]) -> None:
    """Train a recipe; with `--export` first, only write the weights of its newest checkpoint."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    export = arguments[0] == "--export"
    path, *overrides = arguments[1:] if export else arguments
    recipe = read_recipe(Path(path), overrides)
    if export:
        print(f"exported step {export_now(recipe)} to {recipe.output}")
    else:
        stopped: list[int] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda received, _: stopped.append(received))
        train_encoder(recipe, stopped)


if __name__ == "__main__":
    main(sys.argv[1:])
