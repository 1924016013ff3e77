"""The one supervised loop: draw, forward, backward, update; log, save, export. Killed at any moment it goes on from its last checkpoint."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from openlance.data.batch import TrainingBatch
from openlance.data.loader import Steps, task_counts
from openlance.errors import LanceError
from openlance.files import write_json
from openlance.model.allocator import keep_freed_memory
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.train.checkpoint import Checkpoints
from openlance.train.compiled import compile_layers
from openlance.train.export import write_export
from openlance.train.losses import LossSums, Objective, compute_loss, draw_path
from openlance.train.losses import Path as NoisePath
from openlance.train.metrics import Meter
from openlance.train.optim import Optimizer
from openlance.train.parallel import Ranks, joined
from openlance.train.prepare import Draft, build_loader, choose_learners, draft_model
from openlance.train.recipe import TrainRecipe, read_recipe
from openlance.train.recompute import recompute_layers
from openlance.train.tracking import Tracker, open_trackers
from openlance.weights.empty import all_rows, allocate

if TYPE_CHECKING:
    from openlance.train.shard import Shards


@dataclass
class Run:
    """Everything a run holds while it goes on."""

    recipe: TrainRecipe
    model: LanceModel
    binder: Binder
    loader: Steps
    optimizer: Optimizer
    objective: Objective
    step: int = 0
    skipped: int = 0
    ranks: Ranks = field(default_factory=Ranks)
    shards: Shards | None = None
    """How the model is split among the ranks, None where each holds it whole."""


def start(recipe: TrainRecipe, ranks: Ranks | None = None) -> Run:
    """A run at its first step; on the recipe's device and alone, or as one of several ranks on its own device."""
    ranks = ranks or Ranks(device=recipe.device)
    draft = draft_model(recipe.model, recipe.seed)
    model, binder = draft.model, draft.binder
    choose_learners(model, recipe.model, recipe.seed)
    shards = None
    if recipe.parallel.shard:
        shards = _fill_split(draft, recipe, ranks)
    else:
        allocate(model, ranks.device)
        draft.fill(all_rows)
    optimizer = Optimizer(model, recipe.optim, recipe.steps, shards, ranks)
    if recipe.dtype == torch.bfloat16 and shards is None:
        # Weights only: buffers such as rotary frequencies stay exact.
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    loader = build_loader(recipe, model.config, binder, draft.encoders, ranks)
    objective = Objective(recipe.losses, len(binder.tokenizer), recipe.attention)
    return Run(recipe, model, binder, loader, optimizer, objective, ranks=ranks, shards=shards)


def _fill_split(draft: Draft, recipe: TrainRecipe, ranks: Ranks) -> Shards:
    """Split a model before it has values, so that no rank ever holds it whole. Raises LanceError if values would not fit together.

    Rows of different ranks cannot be compared, so what they come from is.
    """
    from openlance.train.shard import Shards, shard_model

    source = (draft.fingerprint(), recipe.seed, recipe.model.train, recipe.model.lora)
    if ranks.first(source) != source:
        raise LanceError(f"rank {ranks.rank} starts from other weights than rank 0: give all processes the same recipe and files")
    shards = Shards(ranks, recipe.parallel.replicas)
    shard_model(draft.model, recipe.dtype, ranks, shards)
    draft.fill(shards.held)
    encoders = [encoder for encoder in (draft.model.vision, draft.model.autoencoder) if encoder is not None]
    ranks.check_same("at the start", [weight for encoder in encoders for weight in encoder.parameters()])
    return shards


def train(recipe: TrainRecipe) -> dict[str, Any]:
    """Run a recipe to its end, from its newest checkpoint if there is one. Returns the last report (of rank 0, {} on others).

    A run that has ended is only exported again. Under torchrun all its processes take part.
    """
    with joined(recipe.device, recipe.parallel.shard) as ranks:
        if not ranks.leads:
            return _train(recipe, ranks, ())
        recipe.output.mkdir(parents=True, exist_ok=True)
        write_json(recipe.output / "recipe.json", recipe.to_dict())
        with open_trackers(recipe.output, recipe.name, recipe.wandb, recipe.to_dict()) as trackers:
            return _train(recipe, ranks, trackers)


def _train(recipe: TrainRecipe, ranks: Ranks, trackers: Sequence[Tracker]) -> dict[str, Any]:
    run = start(recipe, ranks)
    checkpoints = Checkpoints(recipe.output / "checkpoints", recipe.keep, run.shards)
    state = checkpoints.load()
    tokens, seconds = (0, 0.0) if state is None else (state["tokens"], state["seconds"])
    meter = Meter(recipe.output / "metrics.jsonl", tokens, seconds, trackers)
    if state is not None:
        _restore(run, state)
    _agree(run)
    if recipe.compile:
        compile_layers(run.model)
    if recipe.parallel.activation_checkpointing:
        recompute_layers(run.model)
    report: dict[str, Any] = {}
    saved = time.monotonic()
    while run.step < recipe.steps:
        _one_step(run, meter)
        last = run.step == recipe.steps
        if ranks.leads and (last or run.step % recipe.log_every == 0):
            report = meter.report(run.step, recipe.optim.factor(run.step, recipe.steps))
        if ranks.first(last or time.monotonic() - saved > 60 * recipe.save_minutes):
            run.loader.refresh()
            _agree(run)
            if ranks.leads or run.shards is not None:
                checkpoints.save(run.step, _state(run, meter))
            ranks.wait()
            saved = time.monotonic()
        if not last and recipe.export_every and run.step % recipe.export_every == 0:
            _export_once(run)
    checkpoints.wait()
    _export_once(run)
    return report


def _agree(run: Run) -> None:
    """Let all ranks go on from the same step, weights and place in the data. Raises LanceError if they cannot."""
    if not run.ranks.several:
        return
    step = run.ranks.first(run.step)
    if step != run.step:
        raise LanceError(f"rank {run.ranks.rank} is at step {run.step}, rank 0 at {step}: all processes must see the same checkpoints")
    if run.shards is None:
        run.ranks.check_same(f"at step {step}", run.optimizer.masters)
    # Sources may grow between the looks of two ranks; what rank 0 saw holds.
    data = run.ranks.first(run.loader.state())
    if data != run.loader.state():
        run.loader.load_state(data)


def _export_once(run: Run) -> None:
    if run.ranks.leads or run.shards is not None:
        export(run)
    run.ranks.wait()


def _one_step(run: Run, meter: Meter) -> None:
    """One update, or a named refusal of it."""
    began = time.monotonic()
    batches = run.loader.step()
    waited = time.monotonic() - began
    sums = LossSums()
    loss = accumulate(run, batches, sums)
    if run.shards is None:
        run.ranks.sum_gradients(run.optimizer.weights)
    # Known to all ranks, so that all take the step or none does.
    norm = run.ranks.first(run.optimizer.gradient_norm())
    parts = run.ranks.gather((loss, sum(batch.num_tokens for batch in batches), task_counts(batches), sums))
    loss, tokens = sum(part[0] for part in parts), sum(part[1] for part in parts)
    samples = _total([part[2] for part in parts])
    if math.isfinite(loss) and math.isfinite(norm):
        run.optimizer.step(run.step, norm)
        for part in parts:
            meter.sums.include(part[3])
        meter.add(loss, norm, tokens, waited, samples)
    else:
        _skip(run, loss, norm, samples)
    run.step += 1


def accumulate(run: Run, batches: list[TrainingBatch], sums: LossSums) -> float:
    """Gradients of this rank's share of a step's loss; returns that share. The means run over the batches of all ranks."""
    shares = run.ranks.gather((_total([batch.counts for batch in batches]), len(batches)))
    totals = _total([counts for counts, _ in shares])
    # The weights of a split model are put together by all ranks, so each makes as many passes as the one with the most batches.
    passes = len(batches) if run.shards is None else max(number for _, number in shares)
    losses = []
    for index in range(passes):
        given = _noised(run, batches[index], index) if index < len(batches) else None
        part = _loss(run, given, index == passes - 1, totals, sums)
        if part.requires_grad:
            # Questions alone teach nothing when only the generation expert learns.
            part.backward()  # type: ignore[no-untyped-call]
        losses.append(part.detach())
    sums.settle()
    return sum(float(loss) for loss in losses)


def _noised(run: Run, batch: TrainingBatch, index: int) -> tuple[TrainingBatch, NoisePath]:
    """The `index`-th batch of this rank in a step, on its device, and the noise of its targets."""
    # Seeded by the batch's place in the step: its noise is the same whichever rank computes it.
    generator = torch.Generator(run.model.device).manual_seed((run.recipe.seed * 1_000_003 + run.step) * 4099 + run.loader.place(index))
    batch = batch.to(run.model.device)
    return batch, draw_path(batch, run.recipe.path, generator)


def _loss(run: Run, given: tuple[TrainingBatch, NoisePath] | None, last: bool, totals: Counter[str], sums: LossSums) -> Tensor:
    """The share of the step's loss that one pass brings: of a batch, or, where a split model waits for other ranks, of none."""
    if run.shards is None:
        assert given is not None
        return compute_loss(run.model, *given, run.objective, totals, sums)
    from openlance.train.shard import begin_pass, shared_loss

    begin_pass(run.model, last, run.recipe.parallel)
    return shared_loss(run.model, given, run.objective, totals, sums)


def _total(counts: list[Counter[str]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for each in counts:
        total.update(each)
    return total


def _skip(run: Run, loss: float, norm: float, samples: Counter[str]) -> None:
    """Leave a step out. Raises LanceError when that has happened too often."""
    run.optimizer.zero_grad()
    run.skipped += 1
    what = f"step {run.step}: loss {loss}, gradient norm {norm}, tasks {dict(samples)}"
    if run.ranks.leads:
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
    """Write the averaged model to `output/model`, its adapter if it has one to `output/adapter`, and call the hooks: rank 0 alone does,
    but of a split model all ranks bring their rows."""
    folder = run.recipe.output / "model"
    with run.optimizer.averaged():
        state: dict[str, Tensor] = run.model.state_dict()
        if run.shards is not None:
            from openlance.train.shard import whole

            state = whole(state, run.ranks, run.recipe.dtype)
        if run.ranks.leads:
            write_export(run.model, run.binder, run.recipe.model, run.recipe.output, state)
    for hook in run.recipe.hooks if run.ranks.leads else ():
        module, _, function = hook.partition(":")
        getattr(importlib.import_module(module), function)(folder, run.step)
    return folder


def main(arguments: list[str]) -> None:
    """`python -m openlance.train.loop RECIPE.yaml [key=value ...]`"""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    keep_freed_memory()
    train(read_recipe(Path(arguments[0]), arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
