"""The one supervised loop: draw, forward, backward, update; log, save, export. Killed at any moment it goes on from its last checkpoint."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openlance.data.batch import TrainingBatch
from openlance.data.loader import Loader, task_counts
from openlance.errors import LanceError
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.train.checkpoint import Checkpoints
from openlance.train.compiled import compile_layers
from openlance.train.lora import attach, merged_tensors, write_adapter
from openlance.train.losses import LossSums, Objective, compute_loss, draw_path
from openlance.train.metrics import Meter
from openlance.train.optim import Optimizer
from openlance.train.prepare import build_loader, build_model, freeze
from openlance.train.recipe import TrainRecipe, read_recipe
from openlance.weights.save import save_pretrained


@dataclass
class Run:
    """Everything a run holds while it goes on."""

    recipe: TrainRecipe
    model: LanceModel
    binder: Binder
    loader: Loader
    optimizer: Optimizer
    objective: Objective
    step: int = 0
    skipped: int = 0


def start(recipe: TrainRecipe) -> Run:
    """A run at its first step."""
    model, binder, encoders = build_model(recipe.model, recipe.seed)
    freeze(model, recipe.model.train)
    if recipe.model.lora is not None:
        attach(model, recipe.model.lora, recipe.model.train, recipe.seed)
    model.to(recipe.device)
    optimizer = Optimizer(model, recipe.optim, recipe.steps)
    if recipe.precision == "bfloat16":
        # Weights only: buffers such as rotary frequencies stay exact.
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    loader = build_loader(recipe, model.config, binder, encoders)
    objective = Objective(recipe.losses, len(binder.tokenizer), recipe.plain_attention)
    return Run(recipe, model, binder, loader, optimizer, objective)


def train(recipe: TrainRecipe) -> dict[str, Any]:
    """Run a recipe to its end, from its newest checkpoint if there is one. Returns the last report.

    A run that has ended is only exported again.
    """
    recipe.output.mkdir(parents=True, exist_ok=True)
    (recipe.output / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1) + "\n")
    run = start(recipe)
    checkpoints = Checkpoints(recipe.output / "checkpoints", recipe.keep)
    meter = Meter(recipe.output / "metrics.jsonl")
    state = checkpoints.load()
    if state is not None:
        meter = Meter(recipe.output / "metrics.jsonl", state["tokens"], state["seconds"])
        _restore(run, state)
    if recipe.compile:
        compile_layers(run.model)
    report: dict[str, Any] = {}
    saved = time.monotonic()
    while run.step < recipe.steps:
        _one_step(run, meter)
        last = run.step == recipe.steps
        if last or run.step % recipe.log_every == 0:
            report = meter.report(run.step, recipe.optim.factor(run.step, recipe.steps))
        if last or time.monotonic() - saved > 60 * recipe.save_minutes:
            run.loader.refresh()
            checkpoints.save(run.step, _state(run, meter))
            saved = time.monotonic()
        if not last and recipe.export_every and run.step % recipe.export_every == 0:
            export(run)
    export(run)
    return report


def _one_step(run: Run, meter: Meter) -> None:
    """One update, or a named refusal of it."""
    began = time.monotonic()
    batches = run.loader.step()
    waited = time.monotonic() - began
    sums = LossSums()
    loss = accumulate(run, batches, sums)
    norm = run.optimizer.gradient_norm()
    if math.isfinite(loss) and math.isfinite(norm):
        run.optimizer.step(run.step, norm)
        meter.sums.include(sums)
        meter.add(loss, norm, sum(batch.num_tokens for batch in batches), waited, task_counts(batches))
    else:
        _skip(run, loss, norm, batches)
    run.step += 1


def accumulate(run: Run, batches: list[TrainingBatch], sums: LossSums) -> float:
    """Gradients of a step's loss over all its batches; returns the loss."""
    totals: Counter[str] = Counter()
    for batch in batches:
        totals.update(batch.counts)
    generator = torch.Generator().manual_seed((run.recipe.seed * 1_000_003 + run.step) * 4099 + run.loader.rank)
    loss = 0.0
    for batch in batches:
        path = draw_path(batch, run.recipe.path, generator)
        part = compute_loss(run.model, batch, path, run.objective, totals, sums)
        part.backward()  # type: ignore[no-untyped-call]
        loss += float(part.detach())
    return loss


def _skip(run: Run, loss: float, norm: float, batches: list[TrainingBatch]) -> None:
    """Leave a step out. Raises LanceError when that has happened too often."""
    run.optimizer.zero_grad()
    run.skipped += 1
    what = f"step {run.step}: loss {loss}, gradient norm {norm}, tasks {dict(task_counts(batches))}"
    print(f"skipped {what}", file=sys.stderr, flush=True)
    if run.skipped > run.recipe.skip_bad_steps:
        raise LanceError(f"{what}; {run.skipped} steps were not finite, the limit is {run.recipe.skip_bad_steps}: lower the learning rates")


def _state(run: Run, meter: Meter) -> dict[str, Any]:
    return {
        "step": run.step,
        "skipped": run.skipped,
        "tokens": meter.tokens,
        "seconds": meter.seconds,
        "optimizer": run.optimizer.state(),
        "loader": run.loader.state(),
    }


def _restore(run: Run, state: dict[str, Any]) -> None:
    run.step, run.skipped = state["step"], state["skipped"]
    run.optimizer.load_state(state["optimizer"])
    run.loader.load_state(state["loader"])


def export(run: Run) -> Path:
    """Write the averaged model to `output/model`, its adapter if it has one to `output/adapter`, and call the hooks."""
    folder, lora = run.recipe.output / "model", run.recipe.model.lora
    with run.optimizer.averaged():
        tensors = None
        if lora is not None:
            write_adapter(run.model, lora, run.recipe.model.train, run.recipe.output / "adapter")
            tensors = merged_tensors(run.model, lora, torch.bfloat16)
        save_pretrained(run.model, run.binder, folder, dtype=torch.bfloat16, overwrite=True, tensors=tensors)
    for hook in run.recipe.hooks:
        module, _, function = hook.partition(":")
        getattr(importlib.import_module(module), function)(folder, run.step)
    return folder


def main(arguments: list[str]) -> None:
    """`python -m openlance.train.loop RECIPE.yaml [key=value ...]`"""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    train(read_recipe(Path(arguments[0]), arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
