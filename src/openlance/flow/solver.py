"""Solvers of dx/dt = v(x, t) from noise (t = 1) to data (t = 0), as generators.

A solver yields (x, t) wherever it wants a velocity, is sent v(x, t), and returns the final x. Whoever drives it decides how
velocities are computed, so one batch can serve solvers at different times.
"""

import itertools
from collections.abc import Callable, Generator

import torch
from torch import Tensor

from openlance.errors import RequestError

Solver = Generator[tuple[Tensor, float], Tensor, Tensor]


def euler(x: Tensor, times: Tensor) -> Solver:
    """x <- x - v (t_i - t_{i+1}): the released solver, one evaluation a step."""
    grid = times.tolist()
    for i, t in enumerate(grid[:-1]):
        velocity = yield x, t
        x = x - velocity * (times[i] - times[i + 1])
    return x


def heun(x: Tensor, times: Tensor) -> Solver:
    """Second order, two evaluations a step (one on the last, which ends on data)."""
    grid = times.tolist()
    for t, following in itertools.pairwise(grid):
        velocity = yield x, t
        guess = x - velocity * (t - following)
        if following > 0:
            velocity = (velocity + (yield guess, following)) / 2
            guess = x - velocity * (t - following)
        x = guess
    return x


def dpmpp_2m(x: Tensor, times: Tensor) -> Solver:
    """DPM-Solver++(2M) for the straight path, one evaluation a step (arXiv 2211.01095 with alpha = 1 - t, sigma = t).

    Works on the data prediction x_0 = x - t v; the log-SNR is log((1 - t) / t), so the first step (t = 1) and the last
    (t = 0) are first order.
    """
    grid = times.tolist()
    previous: Tensor | None = None
    last_step = 0.0
    for t, following in itertools.pairwise(grid):
        velocity = yield x, t
        data = x - t * velocity
        if following == 0:
            x = data
        elif t < 1:
            step = _log_snr(following) - _log_snr(t)
            direction = data if previous is None or last_step == 0 else data + (data - previous) * (step / (2 * last_step))
            factor = following / t
            x = factor * x + ((1 - following) - (1 - t) * factor) * direction
            last_step = step
        else:
            x = x - velocity * (t - following)
        previous = data
    return x


def _log_snr(t: float) -> float:
    return float(torch.logit(torch.tensor(1 - t, dtype=torch.float64)))


SOLVERS: dict[str, Callable[[Tensor, Tensor], Solver]] = {"euler": euler, "heun": heun, "dpm++2m": dpmpp_2m}


def find_solver(name: str) -> Callable[[Tensor, Tensor], Solver]:
    """The solver of a name. Raises RequestError listing the names."""
    if name not in SOLVERS:
        raise RequestError(f"no solver '{name}': choose one of {', '.join(SOLVERS)}")
    return SOLVERS[name]
