"""The loop of stage four: draw groups, judge them, update, evaluate, save. Killed at any moment it goes on from its last checkpoint.

    openlance rl RECIPE.yaml [key=value ...]
    torchrun --nproc-per-node 2 -m openlance.rl.loop RECIPE.yaml [key=value ...]

Everything random follows from the seed and the number of the iteration, so a resumed run continues bit for bit. Several processes share
the groups of an iteration, each holding the whole model: an iteration on any number of them is the same up to the order of sums.
"""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openlance.engine.engine import Engine
from openlance.errors import LanceError
from openlance.files import write_json
from openlance.model.lance import LanceModel
from openlance.rl.advantage import Advantages, advantages
from openlance.rl.evaluation import evaluate
from openlance.rl.grpo import Grpo
from openlance.rl.journal import Journal
from openlance.rl.nft import Nft
from openlance.rl.objective import Objective
from openlance.rl.prompts import Prompt
from openlance.rl.recipe import RlRecipe, read_rl_recipe
from openlance.rl.rewards import find_reward
from openlance.rl.rollout import Rollout, passes, prepare_samples
from openlance.rl.scoring import Judges, Scored, Tally, pooled, together
from openlance.rl.watch import suspicions
from openlance.sequence.bind import Binder
from openlance.train.checkpoint import Checkpoints
from openlance.train.export import write_export
from openlance.train.lora import TARGETS, is_adapter
from openlance.train.optim import Optimizer
from openlance.train.parallel import Ranks, joined
from openlance.train.prepare import build_model, choose_learners
from openlance.train.recipe import RecipeError
from openlance.train.recompute import recompute_layers
from openlance.train.tracking import Tracker, open_trackers

Group = list[Rollout]
"""The samples of one prompt, in one or more passes; none of a prompt that is another process's."""


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
    ranks: Ranks = field(default_factory=Ranks)

    def draws(self, place: int) -> bool:
        """Whether the group of the place-th prompt of an iteration is this process's. Those of one update are dealt out in turn."""
        return place // self.recipe.updates % self.ranks.world_size == self.ranks.rank


def start(recipe: RlRecipe, ranks: Ranks | None = None) -> Run:
    """A run at its first iteration. Raises RecipeError for what cannot be practised."""
    model, binder, _ = build_model(recipe.model, recipe.seed)
    return start_with(recipe, model, binder, ranks)


def start_with(recipe: RlRecipe, model: LanceModel, binder: Binder, ranks: Ranks | None = None) -> Run:
    """A run on a model in memory."""
    ranks = ranks or Ranks(device=recipe.device)
    if model.autoencoder is None:
        raise RecipeError("the model has no autoencoder, so its pictures cannot be judged: set model.autoencoder to the folder of one")
    choose_learners(model, recipe.model, recipe.seed)
    learners = narrow(model, recipe.learns)
    judges = Judges({name: find_reward(name) for name in (*recipe.rewards, *recipe.watch)}, recipe.rewards)
    model.to(ranks.device)
    if recipe.precision == "float32":
        model.float()
    optimizer = Optimizer(model, recipe.optim, recipe.total_updates, ranks=ranks)
    if recipe.precision == "bfloat16":
        for parameter in model.parameters():
            parameter.data = parameter.data.bfloat16()
    if recipe.activation_checkpointing:
        recompute_layers(model)
    return Run(recipe, model, binder, judges, make_objective(recipe, model, learners), optimizer, ranks=ranks)


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
    """Run a recipe to its end, from its newest checkpoint if there is one. `run`: a fresh one on a model in memory.

    Under torchrun all its processes take part.
    """
    with joined(recipe.device) as ranks:
        if not ranks.leads:
            return _practise(recipe, run or start(recipe, ranks), ())
        recipe.output.mkdir(parents=True, exist_ok=True)
        write_json(recipe.output / "recipe.json", recipe.to_dict())
        with open_trackers(recipe.output, recipe.name, recipe.wandb, recipe.to_dict()) as trackers:
            return _practise(recipe, run or start(recipe, ranks), trackers)


def _practise(recipe: RlRecipe, run: Run, trackers: Sequence[Tracker]) -> Run:
    ranks = run.ranks
    checkpoints = Checkpoints(recipe.output / "checkpoints", recipe.keep)
    state = checkpoints.load()
    if state is not None:
        _restore(run, state)
    _agree(run)
    metrics, curve = _journals(run, trackers) if ranks.leads else ((), ())
    if state is None:
        record_evaluation(run, curve)
    saved = time.monotonic()
    while run.iteration < recipe.iterations:
        numbers = iterate(run)
        for journal in metrics:
            journal.add(numbers)
        last = run.iteration == recipe.iterations
        if last or run.iteration % recipe.evaluate_every == 0:
            record_evaluation(run, curve)
            for journal in metrics:
                _warn(run, journal)
        if ranks.first(last or time.monotonic() - saved > 60 * recipe.save_minutes):
            if ranks.leads:
                checkpoints.save(run.iteration, _state(run))
            saved = time.monotonic()
    if ranks.leads:
        with run.optimizer.averaged():
            write_export(run.model, run.binder, recipe.model, recipe.output)
    ranks.wait()
    return run


def _journals(run: Run, trackers: Sequence[Tracker]) -> tuple[Sequence[Journal], Sequence[Journal]]:
    """Of iterations and of evaluations: what the process that leads writes."""
    folder = run.recipe.output
    return [Journal(folder / "metrics.jsonl", run.iteration, trackers)], [Journal(folder / "evaluations.jsonl", run.iteration, trackers)]


def _agree(run: Run) -> None:
    """Let all processes go on from the same iteration and weights. Raises LanceError if they cannot."""
    ranks = run.ranks
    iteration = ranks.first(run.iteration)
    if iteration != run.iteration:
        raise LanceError(f"rank {ranks.rank} is at iteration {run.iteration}, rank 0 at {iteration}: all processes must see the same files")
    ranks.check_same(f"at iteration {iteration}", run.optimizer.masters)


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
    """A group of rollouts for each prompt that is this process's."""
    recipe = run.recipe.rollout
    groups: list[Group] = [[] for _ in prompts]
    with run.objective.sampling_weights():
        for place, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
            if not run.draws(place):
                continue
            counts = list(passes(recipe.samples, recipe.samples_per_pass))
            first = (run.iteration * recipe.prompts + place) * recipe.samples
            for samples, count in zip(prepare_samples(run.model, run.binder, prompt, recipe.sampling, counts), counts, strict=True):
                seeds = [run.recipe.seed * 1_000_000_007 + first + i for i in range(count)]
                group.append(run.objective.roll_out(samples, seeds, run.iteration))
                first += count
    return groups


def judge(run: Run, prompts: Sequence[Prompt], groups: Sequence[Group]) -> tuple[Scored, Advantages]:
    """Scores of the samples of all processes and their advantages (P, K)."""
    samples = run.recipe.rollout.samples
    mine = [place for place, group in enumerate(groups) if group]
    clips = [clip for place in mine for rollout in groups[place] for clip in rollout.clips()]
    each = [prompts[place] for place in mine for _ in range(samples)]
    parts = run.ranks.gather((mine, run.judges.score(clips, each, watch=run.iteration % run.recipe.watch_every == 0)))
    scored = pooled([part for _, part in parts])
    places = torch.tensor([place for those, _ in parts for place in those])
    totals = torch.empty(len(prompts), samples, dtype=scored.total.dtype)
    totals[places] = scored.total.reshape(len(prompts), samples)
    return scored, advantages(totals, run.recipe.advantage)


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
    """One optimiser step on the mean loss of the samples that learn; `values` and `learns` are (groups, samples) of all processes."""
    tally = Tally()
    total = int(learns.sum()) * run.objective.terms
    for place, (group, advantage, mask) in enumerate(zip(groups, values, learns, strict=True)):
        if not group:
            continue  # another process's
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
    run.ranks.sum_gradients(run.optimizer.weights)
    # Known to all processes, so that all take the step or none does.
    norm = run.ranks.first(run.optimizer.gradient_norm())
    tally = together(run.ranks.gather(tally))
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


def record_evaluation(run: Run, curve: Sequence[Journal]) -> None:
    """Evaluate the averaged weights on all held-out prompts and record the numbers with a contact sheet each."""
    engine = Engine(run.model, run.binder)
    with run.optimizer.averaged():
        for name, recipe in run.recipe.evaluations.items():
            sheet = run.recipe.output / "sheets" / f"{name}-{run.iteration:05d}.png" if run.ranks.leads else None
            scored = evaluate(engine, run.judges, recipe, sheet, run.ranks)
            failures = {f"failed {reward}": count for reward, count in scored.failures.items()}
            for journal in curve:
                journal.add({"iteration": run.iteration, "evaluation": name, **scored.means, **failures})


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


def main(arguments: list[str]) -> None:
    """`python -m openlance.rl.loop RECIPE.yaml [key=value ...]`"""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    practise(read_rl_recipe(Path(arguments[0]), arguments[1:]))


if __name__ == "__main__":
    main(sys.argv[1:])
