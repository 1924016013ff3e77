"""Which kind of run a recipe file describes, and running it: encoder pre-stage, cache of features, supervised stage, average,
stage four."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openlance.data.mixture import turning_steps
from openlance.errors import LanceError
from openlance.train.recipe import TrainRecipe, read_recipe, read_values

ENCODER_STAGES = ("autoencoder", "vision")


@dataclass(frozen=True)
class Run:
    """One recipe, read and checked, ready to run."""

    path: Path
    kind: str
    """`encoder`, `cache`, `supervised`, `average` or `stage four`."""
    output: Path
    lines: tuple[str, ...]
    """What it will do, for people."""
    start: Callable[[], object]


def read_run(path: Path, overrides: Sequence[str] = ()) -> Run:
    """The run of a recipe file. Raises RecipeError on anything that cannot run."""
    values = read_values(path)
    if values.get("stage") in ENCODER_STAGES:
        return _encoder(path, overrides)
    if "caches" in values:
        return _cache(path, overrides)
    if "average" in values:
        return _average(path, overrides)
    if "rewards" in values:
        return _stage_four(path, overrides)
    return _supervised(path, overrides)


def _encoder(path: Path, overrides: Sequence[str]) -> Run:
    from openlance.train.encoders import read_recipe as read_encoder_recipe
    from openlance.train.encoders import train_encoder

    recipe = read_encoder_recipe(path, [f"--{override}" for override in overrides])

    def start() -> object:
        stopped: list[int] = []
        signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
        return train_encoder(recipe, stopped)

    lines = (f"encoder pre-stage of {recipe.steps} steps", f"output {recipe.output}")
    return Run(path, "encoder", Path(recipe.output), lines, start)


def _cache(path: Path, overrides: Sequence[str]) -> Run:
    from openlance.train.build_cache import build_caches, read_plan

    plan = read_plan(path, overrides)
    lines = [f"{name}: {cache.shards * cache.shard_size} examples to {cache.output}" for name, cache in plan.caches.items()]
    lines.append(f"{plan.processes} process{'es' * (plan.processes > 1)}, encoding on {plan.device}")
    output = next(iter(plan.caches.values())).output.parent
    return Run(path, "cache", output, tuple(lines), lambda: build_caches(plan))


def _supervised(path: Path, overrides: Sequence[str]) -> Run:
    from openlance.train.loop import train

    recipe = read_recipe(path, overrides)
    mixture = [f"  {name}: {shares} of the samples" for name, shares in _shares(recipe).items()]
    tokens = recipe.steps * recipe.batch.tokens_per_step
    precision = str(recipe.dtype).removeprefix("torch.")
    adapters = "" if recipe.model.lora is None else f", by {recipe.model.lora}"
    lines = (
        f"{recipe.name}: {recipe.steps} steps of {recipe.batch.tokens_per_step} tokens, {tokens / 1e6:.1f} M tokens in all",
        f"starts from {recipe.model.checkpoint or recipe.model.config}, learns: {', '.join(recipe.model.train)}{adapters}",
        f"{recipe.optim.kind}, {recipe.optim.schedule} schedule, {precision} on {recipe.device}, {recipe.batch.form} batches",
        *mixture,
        f"output {recipe.output}",
    )
    return Run(path, "supervised", recipe.output, lines, lambda: train(recipe))


def _shares(recipe: TrainRecipe) -> dict[str, str]:
    """Of each source that is ever drawn from; where shares change, at every step from which one changes otherwise."""
    weights = {name: source.weights for name, source in recipe.sources.items()}
    steps = [step for step in turning_steps(weights.values()) if step < recipe.steps]
    told: dict[str, str] = {}
    for name, weight in weights.items():
        shares = [f"{weight.at(step) / sum(other.at(step) for other in weights.values()):.1%}" for step in steps]
        if weight.ever:
            told[name] = shares[0] + "".join(f", from step {step} {share}" for step, share in zip(steps[1:], shares[1:], strict=True))
    return told


def _average(path: Path, overrides: Sequence[str]) -> Run:
    from openlance.train.average import average, read_average

    recipe = read_average(path, overrides)
    shares = (1 - recipe.share, recipe.share)
    parts = " and ".join(f"{share:.3g} of {model}" for model, share in zip(recipe.average, shares, strict=True))
    return Run(path, "average", recipe.output, (parts, f"output {recipe.output}"), lambda: average(recipe))


def _stage_four(path: Path, overrides: Sequence[str]) -> Run:
    from openlance.rl.loop import practise
    from openlance.rl.recipe import read_rl_recipe

    recipe = read_rl_recipe(path, overrides)
    lines = (
        *recipe.lines(),
        f"starts from {recipe.model.checkpoint or recipe.model.config}",
        f"output {recipe.output}; `openlance rl {path} --plan` measures how long it takes",
    )
    return Run(path, "stage four", recipe.output, lines, lambda: practise(recipe))


def recipes_in_order(folder: Path) -> list[Path]:
    """The recipes that `order.txt` of a folder lists, one file name a line. Raises LanceError if it is missing or names no file."""
    order = folder / "order.txt"
    if not order.exists():
        raise LanceError(f"{folder} has no order.txt: list its recipes there, one file name a line, in the order they run")
    names = [line.strip() for line in order.read_text(encoding="utf-8").splitlines() if line.strip() and not line.startswith("#")]
    missing = [name for name in names if not (folder / name).exists()]
    if missing or not names:
        raise LanceError(f"{order} names {missing or 'nothing'}, which {folder} does not hold")
    return [folder / name for name in names]
