"""What a run will do, before it does it: counts from the recipe, times from one pass measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from openlance.rl.loop import Run
from openlance.rl.rollout import Samples, passes, prepare_samples


@dataclass(frozen=True)
class RlPlan:
    """Counts and sizes of a run. Bytes are of weights, optimiser and copies; activations come on top. Seconds leave rewards out."""

    samples: int
    updates: int
    tokens_per_iteration: int
    """Generation tokens through the model, forward: of rollouts and of updates, all guidance branches."""
    learns: int
    parameters: int
    nbytes: int
    copies: int
    """Bytes of the objective's copies of the weights that learn: of its reference, of the policy that samples."""
    seconds_per_iteration: float

    def lines(self, run: Run) -> list[str]:
        """The plan for people."""
        recipe = run.recipe
        steps = recipe.rollout.sampling.resolve(run.model.config).num_inference_steps
        adapters = "" if recipe.model.lora is None else f": {recipe.model.lora}"
        hours = self.seconds_per_iteration * recipe.iterations / 3600
        return [
            *recipe.lines(steps),
            f"{self.samples:,} samples, {self.updates:,} updates, {self.tokens_per_iteration:,} tokens an iteration",
            f"{self.learns:,} of {self.parameters:,} weights learn{adapters}",
            f"{self.nbytes / 2**30:.2f} GiB for weights, optimiser and copies, of which {self.copies / 2**20:,.1f} MiB for copies",
            f"{self.seconds_per_iteration:.1f} s an iteration without rewards, {hours:.2f} h in all, by one pass measured now",
        ]


def make_plan(run: Run) -> RlPlan:
    """The plan of a fresh run. Runs one pass forward and one with its gradient."""
    recipe, rollout = run.recipe, run.recipe.rollout
    sampling = rollout.sampling.resolve(run.model.config)
    count = next(passes(rollout.samples, rollout.samples_per_pass))
    (samples,) = prepare_samples(run.model, run.binder, recipe.prompts.prompt(0, recipe.seed), rollout.sampling, [count])
    times = samples.times.tolist()[:-1]
    guided = sum(sampling.guidance().acts_at(t) for t in times) / len(times)
    learners = [p for p in run.model.parameters() if p.requires_grad]
    assert sampling.num_inference_steps is not None
    forwards = sampling.num_inference_steps
    drawn = rollout.prompts * rollout.samples
    forward, backward = _measure(samples, count, learners)
    copies = sum(tensor.nbytes for values in run.objective.state().values() for tensor in values)
    trained = recipe.passes * run.objective.terms
    return RlPlan(
        samples=drawn * recipe.iterations,
        updates=recipe.total_updates,
        tokens_per_iteration=round(drawn * samples.cells * (forwards + trained) * (1 + guided)),
        learns=sum(p.numel() for p in learners),
        parameters=sum(p.numel() for p in run.model.parameters()),
        nbytes=_bytes(run) + copies,
        copies=copies,
        seconds_per_iteration=drawn / count * (forwards * forward + trained * (forward + backward)),
    )


def _measure(samples: Samples, count: int, learners: list[torch.nn.Parameter]) -> tuple[float, float]:
    """Seconds of one pass forward, and of its gradient on top, at a time where guidance acts if it ever does."""
    x = torch.zeros(count, samples.cells, samples.model.config.latent_channels, device=samples.model.device)

    def forward() -> torch.Tensor:
        return samples.velocity(x, [1.0] * count)

    with torch.no_grad():
        alone = _seconds(forward)
    both = _seconds(lambda: torch.autograd.grad(forward().sum(), learners, allow_unused=True))
    return alone, max(0.0, both - alone)


def _seconds(work: Callable[[], object]) -> float:
    """The shorter of two times, after one that warms up."""
    work()
    times = []
    for _ in range(2):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return min(times)


def _bytes(run: Run) -> int:
    """Weights, gradients, float32 masters where weights are not, two Adam moments, average."""
    total = sum(p.nbytes for p in run.model.parameters())
    learners = [p for p in run.model.parameters() if p.requires_grad]
    gradient = sum(p.nbytes for p in learners)
    full = 4 * sum(p.numel() for p in learners)
    masters = 0 if run.recipe.precision == "float32" else full
    average = full if run.recipe.optim.ema else 0
    return total + gradient + masters + 2 * full + average
