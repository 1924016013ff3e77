"""The loop of stage four: draw groups, judge them, update, evaluate, save. Killed at any moment it goes on from its last checkpoint.

Everything random follows from the seed and the number of the iteration, so a resumed run continues bit for bit.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from openlance.engine.engine import Engine
from openlance.errors import LanceError
from openlance.model.lance import LanceModel
from openlance.rl.advantage import Advantages, advantages
from openlance.rl.evaluation import evaluate
from openlance.rl.grpo import Grpo
from openlance.rl.journal import Journal
from openlance.rl.nft import Nft
from openlance.rl.objective import Objective
from openlance.rl.prompts import Prompt
from openlance.rl.recipe import RlRecipe
from openlance.rl.rewards import find_reward
from openlance.rl.rollout import Rollout, passes, prepare_samples
from openlance.rl.scoring import Judges, Scored, Tally
from openlance.rl.watch import suspicions
from openlance.sequence.bind import Binder
from openlance.train.checkpoint import Checkpoints
from openlance.train.export import write_export
from openlance.train.lora import TARGETS, is_adapter
from openlance.train.optim import Optimizer
from openlance.train.prepare import build_model, choose_learners
from openlance.train.recipe import RecipeError
from openlance.train.recompute import recompute_layers
from openlance.train.tracking import Tracker, open_trackers

Group = list[Rollout]
"""The samples of one prompt, in one or more passes."""


@dataclass
class Run:
    """Everything a run holds while it goes on."""

    recipe: RlRecipe
    model: LanceModel
    binder: Binder
    judges: Judges
    objective: Objective
    optimizer: Optimizer
    iteration: int = 0
    update: int = 0
    skipped: int = 0


def start(recipe: RlRecipe) -> Run:
    """A run at its first iteration. Raises RecipeError for what cannot be practised."""
    model, binder, _ = build_model(recipe.model, recipe.seed)
    return start_with(recipe, model, binder)


def start_with(recipe: RlRecipe, model: LanceModel, binder: Binder) -> Run:
    """A run on a model in memory."""
    if model.autoencoder is None:
        raise RecipeError("the model has no autoencoder, so its pictures cannot be judged: set model.autoencoder to the folder of one")
    choose_learners(model, recipe.model, recipe.seed)
    learners = narrow(model, recipe.learns)
    judges = Judges({name: find_reward(name) for name in (*recipe.rewards, *recipe.watch)}, recipe.rewards)
    model.to(recipe.device)
    if recipe.precision == "float32":
        model.float()
    optimizer = Optimizer(model, recipe.optim, recipe.total_updates)
    if recipe.precision == "bfloat16":
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    if recipe.activation_checkpointing:
        recompute_layers(model)
    return Run(recipe, model, binder, judges, make_objective(recipe, model, learners), optimizer)


def narrow(model: LanceModel, parts: Sequence[str]) -> list[nn.Parameter]:
    """The weights that learn: of those that may, the ones whose names contain one of `parts` (all, when there are none).

    Raises RecipeError if that leaves none.
    """
    able = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    for name, parameter in model.named_parameters():
        if parts and not any(part in name for part in parts):
            parameter.requires_grad_(False)
    learners = [p for p in model.parameters() if p.requires_grad]
    if not learners:
        found = [target for target in TARGETS if any(target in name for name in able)]
        what = "adapter that model.lora puts on" if any(map(is_adapter, able)) else "weight of"
        raise RecipeError(f"learns {list(parts)} fits no {what} the generation expert: use parts of names: {', '.join(found)}")
    return learners


def make_objective(recipe: RlRecipe, model: LanceModel, learners: Sequence[nn.Parameter]) -> Objective:
    """The objective of a recipe on the weights that learn."""
    sampling = recipe.rollout.sampling.resolve(model.config)
    if recipe.objective == "grpo":
        return Grpo(recipe.grpo, learners, recipe.seed, sampling.num_inference_steps or 0)
    return Nft(recipe.nft, learners, recipe.seed, str(sampling.solver), recipe.advantage.limit)


def practise(recipe: RlRecipe, run: Run | None = None) -> Run:
    """Run a recipe to its end, from its newest checkpoint if there is one. `run`: a fresh one on a model in memory."""
    recipe.output.mkdir(parents=True, exist_ok=True)
    (recipe.output / "recipe.json").write_text(json.dumps(recipe.to_dict(), indent=1) + "\n")
    with open_trackers(recipe.output, recipe.name, recipe.wandb, recipe.to_dict()) as trackers:
        return _practise(recipe, run or start(recipe), trackers)


def _practise(recipe: RlRecipe, run: Run, trackers: Sequence[Tracker]) -> Run:
    checkpoints = Checkpoints(recipe.output / "checkpoints", recipe.keep)
    state = checkpoints.load()
    if state is not None:
        _restore(run, state)
    metrics = Journal(recipe.output / "metrics.jsonl", run.iteration, trackers)
    curve = Journal(recipe.output / "evaluations.jsonl", run.iteration, trackers)
    if state is None:
        record_evaluation(run, curve)
    saved = time.monotonic()
    while run.iteration < recipe.iterations:
        metrics.add(iterate(run))
        last = run.iteration == recipe.iterations
        if last or run.iteration % recipe.evaluate_every == 0:
            record_evaluation(run, curve)
            _warn(run, metrics)
        if last or time.monotonic() - saved > 60 * recipe.save_minutes:
            checkpoints.save(run.iteration, _state(run))
            saved = time.monotonic()
    with run.optimizer.averaged():
        write_export(run.model, run.binder, recipe.model, recipe.output)
    return run


def iterate(run: Run) -> dict[str, Any]:
    """One iteration: groups, scores, updates. Returns its numbers."""
    recipe = run.recipe
    began = time.monotonic()
    prompts = [recipe.prompts.prompt(run.iteration * recipe.rollout.prompts + i, recipe.seed) for i in range(recipe.rollout.prompts)]
    groups = draw(run, prompts)
    drawn = time.monotonic()
    scored, gains = judge(run, prompts, groups)
    judged = time.monotonic()
    learned = learn(run, groups, gains)
    run.objective.finish_iteration(run.iteration)
    run.iteration += 1
    done = time.monotonic()
    failures = {f"failed {name}": count for name, count in scored.failures.items()}
    return {
        "iteration": run.iteration,
        **scored.means,
        "alike groups": gains.alike,
        **failures,
        **learned,
        "seconds": {"draw": round(drawn - began, 2), "judge": round(judged - drawn, 2), "learn": round(done - judged, 2)},
    }


def draw(run: Run, prompts: Sequence[Prompt]) -> list[Group]:
    """A group of rollouts for each prompt."""
    recipe = run.recipe.rollout
    groups = []
    with run.objective.sampling_weights():
        for place, prompt in enumerate(prompts):
            counts = list(passes(recipe.samples, recipe.samples_per_pass))
            first = (run.iteration * recipe.prompts + place) * recipe.samples
            group = []
            for samples, count in zip(prepare_samples(run.model, run.binder, prompt, recipe.sampling, counts), counts, strict=True):
                seeds = [run.recipe.seed * 1_000_000_007 + first + i for i in range(count)]
                group.append(run.objective.roll_out(samples, seeds, run.iteration))
                first += count
            groups.append(group)
    return groups


def judge(run: Run, prompts: Sequence[Prompt], groups: Sequence[Group]) -> tuple[Scored, Advantages]:
    """Scores of all samples and their advantages (P, K)."""
    clips = [clip for group in groups for rollout in group for clip in rollout.clips()]
    each = [prompt for prompt in prompts for _ in range(run.recipe.rollout.samples)]
    scored = run.judges.score(clips, each, watch=run.iteration % run.recipe.watch_every == 0)
    return scored, advantages(scored.total.reshape(len(prompts), -1), run.recipe.advantage)


def learn(run: Run, groups: Sequence[Group], gains: Advantages) -> dict[str, float]:
    """All updates of an iteration. `first ratio off`: how far ratios are from 1 before anything has changed; it should be 0."""
    tally = Tally()
    for turn in range(run.recipe.passes * run.recipe.updates):
        places = [i for i in range(len(groups)) if i % run.recipe.updates == turn % run.recipe.updates and bool(gains.learns[i].any())]
        if not places:
            tally.add("idle updates", 1.0)
            continue
        numbers = update(run, [groups[i] for i in places], gains.values[places], gains.learns[places])
        if turn == 0 and "ratio_off" in numbers:
            tally.add("first ratio off", numbers["ratio_off"])
        for name, value in numbers.items():
            tally.add(name, value)
    means = tally.means()
    return means | {"idle updates": tally.sums["idle updates"]} if "idle updates" in means else means


def update(run: Run, groups: Sequence[Group], values: Tensor, learns: Tensor) -> dict[str, float]:
    """One optimiser step on the mean loss of the samples that learn; `values` and `learns` are (groups, samples)."""
    tally = Tally()
    total = int(learns.sum()) * run.objective.terms
    for place, (group, advantage, mask) in enumerate(zip(groups, values, learns, strict=True)):
        sizes = [len(rollout.latents) for rollout in group]
        for number, (rollout, gain, mine) in enumerate(zip(group, advantage.split(sizes), mask.split(sizes), strict=True)):
            if not mine.any():
                continue
            here = mine.to(run.model.device)
            for loss, numbers in run.objective.losses(rollout, gain.to(run.model.device), f"{run.update}/{place}/{number}"):
                part = loss[here].sum() / total
                part.backward()  # type: ignore[no-untyped-call]
                tally.add("loss", float(part.detach()))
                for name, value in numbers.items():
                    tally.add(name, float(value[here].mean()))
    norm = run.optimizer.gradient_norm()
    loss_sum = tally.sums["loss"]
    if math.isfinite(loss_sum) and math.isfinite(norm):
        run.optimizer.step(run.update, norm)
    else:
        _skip(run, loss_sum, norm)
    run.update += 1
    return tally.means() | {"loss": loss_sum, "gradient_norm": norm}


def _skip(run: Run, loss: float, norm: float) -> None:
    """Leave an update out. Raises LanceError when that has happened too often."""
    run.optimizer.zero_grad()
    run.skipped += 1
    what = f"update {run.update}: loss {loss}, gradient norm {norm}"
    print(f"skipped {what}", file=sys.stderr, flush=True)
    if run.skipped > run.recipe.skip_bad_updates:
        limit = run.recipe.skip_bad_updates
        raise LanceError(f"{what}; {run.skipped} updates were not finite, the limit is {limit}: lower optim.learning_rate")


def record_evaluation(run: Run, curve: Journal) -> None:
    """Evaluate the averaged weights on all held-out prompts and record the numbers with a contact sheet each."""
    engine = Engine(run.model, run.binder)
    with run.optimizer.averaged():
        for name, recipe in run.recipe.evaluations.items():
            sheet = run.recipe.output / "sheets" / f"{name}-{run.iteration:05d}.png"
            scored = evaluate(engine, run.judges, recipe, sheet)
            failures = {f"failed {reward}": count for reward, count in scored.failures.items()}
            curve.add({"iteration": run.iteration, "evaluation": name, **scored.means, **failures})


def _warn(run: Run, metrics: Journal) -> None:
    names = (*run.recipe.rewards, *run.recipe.watch)
    for sentence in suspicions({name: metrics.curve(name) for name in names}, list(run.recipe.rewards), run.recipe.watch):
        print(f"reward hacking? {sentence}", file=sys.stderr, flush=True)


def _state(run: Run) -> dict[str, Any]:
    return {
        "iteration": run.iteration,
        "update": run.update,
        "skipped": run.skipped,
        "optimizer": run.optimizer.state(),
        "objective": run.objective.state(),
    }


def _restore(run: Run, state: dict[str, Any]) -> None:
    run.iteration, run.update, run.skipped = state["iteration"], state["update"], state["skipped"]
    run.optimizer.load_state(state["optimizer"])
    run.objective.load_state(state["objective"])
