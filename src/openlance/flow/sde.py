"""Stochastic steps on the straight path: the next point is drawn from a Gaussian, so that a step has a probability.

Both rules move the deterministic step x - h v along the model's guess of the noise, e = x + (1 - t) v, and add fresh noise; at level 0
neither does anything, and the step is Euler's, bit for bit. h = t - t' > 0.

`flow`: the reverse SDE with the marginals of the ODE, sigma = a sqrt(t / (1 - t)) (Flow-GRPO, arXiv 2505.05470). sigma diverges at t = 1,
so there the next time of the grid stands inside 1 - t, as in the published code; that first step inflates the variance by a^4 / 4,
which the steps after it take back.
`cps`: coefficient-preserving sampling (arXiv 2509.05952): data and noise keep exactly their scheduled weights 1 - t' and t' at every
step, a share sin(a pi / 2) of the noise being fresh. Its noise does not shrink with the step, so it has no SDE as its limit.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from openlance.errors import LanceError
from openlance.flow.solver import Solver

Rule = Callable[[float, Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Step:
    """A step from `time` to `following`: x' ~ N(x - h v + push * (x + (1 - t) v), deviation^2). All are float32 scalars ()."""

    time: Tensor
    following: Tensor
    push: Tensor
    deviation: Tensor

    @property
    def length(self) -> Tensor:
        return self.time - self.following

    def mean(self, x: Tensor, velocity: Tensor) -> Tensor:
        """Where the step leads without fresh noise; `x` and `velocity` of any one shape."""
        return x - velocity * self.length + self.push * (x + (1 - self.time) * velocity)

    def log_prob(self, result: Tensor, mean: Tensor) -> Tensor:
        """Log-density (N,) of results (N, ...) in float32, averaged over their numbers, so that its scale knows no resolution."""
        if float(self.deviation) == 0:
            raise LanceError("a step without noise has no probability: set the noise level above 0")
        squares = (result.float() - mean.float()).square() / (2 * self.deviation.square())
        return -squares.flatten(1).mean(1) - self.deviation.log() - 0.5 * math.log(2 * math.pi)

    def log_ratio(self, result: Tensor, mean: Tensor, old: Tensor) -> Tensor:
        """log_prob(result, mean) - log_prob(result, old), (N,), by the difference of the means: exactly 0 when they are equal."""
        moved = mean - old
        return (moved * (2 * (result - old) - moved) / (2 * self.deviation.square())).flatten(1).mean(1)

    def divergence(self, mean: Tensor, other: Tensor) -> Tensor:
        """KL divergence (N,) between the steps of two means (N, ...), averaged over their numbers."""
        return ((mean - other).square() / (2 * self.deviation.square())).flatten(1).mean(1)


def _flow(level: float, time: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    left = 1 - (time if float(time) < 1 else following)
    variance = level**2 * time / left
    length = time - following
    return -length * variance / (2 * time), (variance * length).sqrt()


def _cps(level: float, time: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    deviation = following * math.sin(level * math.pi / 2)
    kept = (following.square() - deviation.square()).clamp_min(0).sqrt() if level else following
    return kept - following, deviation


RULES: dict[str, Rule] = {"flow": _flow, "cps": _cps}


def make_steps(rule: str, level: float, times: Tensor, window: range) -> dict[int, Step]:
    """The stochastic steps of a schedule (N + 1,): those whose index lies in `window`.

    The last step must stay deterministic: what is added there stays in the picture. Raises LanceError for that and for unknown rules.
    """
    if rule not in RULES:
        raise LanceError(f"noise rule '{rule}' is not one of {', '.join(RULES)}")
    if not 0 <= level <= (1 if rule == "cps" else math.inf):
        raise LanceError(f"noise level {level} must be at least 0, and of cps at most 1")
    last = len(times) - 2
    if window and (window.start < 0 or window.stop > last):
        raise LanceError(f"stochastic steps {window.start} to {window.stop - 1} must lie in 0 to {last - 1}: the last step is exact")
    return {i: Step(times[i], times[i + 1], *RULES[rule](level, times[i], times[i + 1])) for i in window}


@dataclass(frozen=True)
class Transition:
    """One stochastic step that was taken, float32: from `x` with mean `mean` to `result`, all of one shape."""

    step: Step
    x: Tensor
    mean: Tensor
    result: Tensor


def stochastic(x: Tensor, times: Tensor, steps: Mapping[int, Step], noise: Tensor, taken: list[Transition]) -> Solver:
    """Euler with stochastic steps at the indices of `steps`; each is appended to `taken`.

    `noise`: (len(steps), *x.shape), standard normal, in the order of the steps.
    """
    fresh = iter(noise)
    for i, t in enumerate(times.tolist()[:-1]):
        velocity = yield x, t
        if i in steps:
            mean = steps[i].mean(x, velocity)
            result = mean + steps[i].deviation * next(fresh)
            taken.append(Transition(steps[i], x, mean, result))
            x = result
        else:
            x = x - velocity * (times[i] - times[i + 1])
    return x
