"""GRPO for flow matching: a clipped ratio on the probabilities of a window of stochastic steps.

Source: Flow-GRPO (arXiv 2505.05470), with the window of MixGRPO (2507.21802) and, as an option, the ratio of GRPO-Guard (2510.22319).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import LanceError
from openlance.flow.sde import RULES, Transition, make_steps
from openlance.rl.objective import Term
from openlance.rl.rollout import Rollout, Samples, roll_out
from openlance.rl.snapshot import Snapshot


@dataclass(frozen=True)
class GrpoRecipe:
    """The clipped objective and its stochastic steps."""

    clip: float = 1e-4
    """Half-width of the ratio's free range. Small, because log-probabilities are means over all numbers of a latent."""
    kl: float = 0.0
    """Weight of the divergence from the model that the run began with."""
    noise: str = "flow"
    """`flow` or `cps`, see flow/sde.py."""
    level: float = 0.7
    """Noise level a."""
    window: int = 2
    """How many consecutive steps are stochastic, and learn; all others are Euler's."""
    window_first: int = 0
    window_last: int | None = None
    """The window begins at a random step from first to last, drawn for each iteration; None: as late as the schedule allows."""
    guard: bool = False
    """Recentre the log-ratio by the divergence from the old step, rescale it by the deviation, weigh steps by 1 / length."""

    def __post_init__(self) -> None:
        if self.noise not in RULES or self.level <= 0:
            raise LanceError(f"grpo.noise '{self.noise}' must be one of {', '.join(RULES)}, and grpo.level {self.level} above 0")
        if self.clip <= 0 or self.kl < 0:
            raise LanceError(f"grpo.clip {self.clip} must be above 0 and grpo.kl {self.kl} at least 0")
        if self.window < 1 or self.window_first < 0 or (self.window_last is not None and self.window_last < self.window_first):
            raise LanceError(f"grpo.window {self.window} from {self.window_first} to {self.window_last} is empty: give at least one step")


class Grpo:
    """The objective of Flow-GRPO on the weights that learn."""

    def __init__(self, recipe: GrpoRecipe, parameters: Sequence[nn.Parameter], seed: int, steps: int) -> None:
        """`steps` of the schedule. Raises LanceError if the window does not fit them."""
        latest = steps - 1 - recipe.window
        last = latest if recipe.window_last is None else recipe.window_last
        if not recipe.window_first <= last <= latest:
            raise LanceError(
                f"a window of {recipe.window} from step {recipe.window_first} to {last} does not fit {steps} steps: the last "
                f"is exact, so it begins at {latest} at the latest; lower grpo.window or raise num_inference_steps"
            )
        self.recipe = recipe
        self.seed = seed
        self._starts = (recipe.window_first, last)
        self._reference = Snapshot(parameters) if recipe.kl else None

    @property
    def terms(self) -> int:
        return self.recipe.window

    def sampling_weights(self) -> AbstractContextManager[None]:
        return nullcontext()

    def window(self, iteration: int) -> range:
        """The stochastic steps of an iteration."""
        first = Random(f"{self.seed}/window/{iteration}").randint(*self._starts)
        return range(first, first + self.recipe.window)

    def roll_out(self, samples: Samples, seeds: Sequence[int], iteration: int) -> Rollout:
        steps = make_steps(self.recipe.noise, self.recipe.level, samples.times, self.window(iteration))
        return roll_out(samples, seeds, steps=steps)

    def losses(self, rollout: Rollout, advantages: Tensor, key: str) -> Iterator[Term]:
        references = self._reference_means(rollout)
        for transition, reference in zip(rollout.taken, references, strict=True):
            mean = _mean(rollout.samples, transition)
            log_ratio = self._log_ratio(transition, mean)
            loss, numbers = clipped_loss(log_ratio, advantages, self.recipe.clip)
            if self.recipe.guard:
                times = rollout.samples.times
                loss = loss * (1 / (len(times) - 1)) / transition.step.length
            if reference is not None:
                numbers["kl"] = transition.step.divergence(mean, reference)
                loss = loss + self.recipe.kl * numbers["kl"]
            yield loss, {name: value.detach() for name, value in numbers.items()}

    def _log_ratio(self, transition: Transition, mean: Tensor) -> Tensor:
        """(N,). Its mean over fresh samples lies below 0 by the divergence, which guard takes out, with its scale 1 / deviation."""
        step = transition.step
        log_ratio = step.log_ratio(transition.result, mean, transition.mean)
        if not self.recipe.guard:
            return log_ratio
        return step.deviation * (log_ratio + step.divergence(mean, transition.mean))

    @torch.no_grad()
    def _reference_means(self, rollout: Rollout) -> list[Tensor | None]:
        """Where the reference model would have stepped; computed once a rollout."""
        if self._reference is None:
            return [None] * len(rollout.taken)
        if not rollout.reference:
            with self._reference.active():
                rollout.reference = [_mean(rollout.samples, transition) for transition in rollout.taken]
        return list(rollout.reference)

    def finish_iteration(self, iteration: int) -> None:
        """Nothing follows from the updates."""

    def state(self) -> dict[str, Any]:
        return {"reference": self._reference.state() if self._reference else []}

    def load_state(self, state: dict[str, Any]) -> None:
        if self._reference:
            self._reference.load_state(state["reference"])


def _mean(samples: Samples, transition: Transition) -> Tensor:
    velocity = samples.velocity(transition.x, [float(transition.step.time)] * len(transition.x))
    return transition.step.mean(transition.x, velocity)


def clipped_loss(log_ratio: Tensor, advantages: Tensor, clip: float) -> Term:
    """max(-A r, -A clip(r, 1 +- clip)) of r = exp(log_ratio), all (N,)."""
    ratio = log_ratio.exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    stopped = ((ratio > 1 + clip) & (advantages > 0)) | ((ratio < 1 - clip) & (advantages < 0))
    return loss, {"ratio": ratio, "ratio_off": (ratio - 1).abs(), "clipped": stopped.float()}
