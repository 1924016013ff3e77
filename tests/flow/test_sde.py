"""Stochastic steps: Euler at level 0, the marginals of the ODE, densities that are those of a Gaussian."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openlance.errors import LanceError
from openlance.flow.path import timesteps
from openlance.flow.sde import RULES, Step, Transition, make_steps, stochastic
from openlance.flow.solver import Solver, euler

RULE = st.sampled_from(sorted(RULES))


def run(solver: Solver, field: "Gaussian") -> Tensor:
    """Drive a solver with the exact velocity."""
    x, time = next(solver)
    while True:
        try:
            x, time = solver.send(field.velocity(x, time))
        except StopIteration as finished:
            return finished.value


class Gaussian:
    """Data ~ N(mean, deviation^2): x_t ~ N((1 - t) mean, (1 - t)^2 deviation^2 + t^2), and the velocity is linear in x."""

    def __init__(self, mean: float, deviation: float) -> None:
        self.mean, self.deviation = mean, deviation

    def moments(self, t: float) -> tuple[float, float]:
        return (1 - t) * self.mean, (1 - t) ** 2 * self.deviation**2 + t**2

    def velocity(self, x: Any, t: float) -> Any:
        centre, variance = self.moments(t)
        noise_less_data = (t - (1 - t) * self.deviation**2) / variance
        return noise_less_data * (x - centre) - self.mean

    def carry(self, times: Tensor, steps: dict[int, Step], first: int) -> tuple[float, float]:
        """Mean and variance at t = 0 that a solver reaches from the true ones at step `first`: steps are affine, so exactly."""
        grid = times.tolist()
        centre, variance = self.moments(grid[first])
        for i in range(first, len(grid) - 1):
            t, h = grid[i], grid[i] - grid[i + 1]
            push, deviation = (float(steps[i].push), float(steps[i].deviation)) if i in steps else (0.0, 0.0)
            offset, end = (x - h * v + push * (x + (1 - t) * v) for x, v in ((x, self.velocity(x, t)) for x in (0.0, 1.0)))
            centre, variance = offset + (end - offset) * centre, (end - offset) ** 2 * variance + deviation**2
        return centre, variance


@given(rule=RULE, count=st.integers(2, 12), shift=st.floats(0.5, 5), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_level_zero_is_euler_bit_for_bit(rule: str, count: int, shift: float, seed: int) -> None:
    times = timesteps(count, shift)
    generator = torch.Generator().manual_seed(seed)
    start, *noise = torch.randn(count, 3, 5, generator=generator)
    field, taken = Gaussian(0.7, 0.3), []
    steps = make_steps(rule, 0.0, times, range(count - 1))
    drawn = run(stochastic(start, times, steps, torch.stack(noise), taken), field)
    assert torch.equal(drawn, run(euler(start, times), field))
    assert len(taken) == count - 1


@given(mean=st.floats(-2, 2), deviation=st.floats(0.2, 1.5), level=st.floats(0.1, 0.9))
@settings(max_examples=10, deadline=None)
def test_marginals_of_the_sde_are_those_of_the_ode(mean: float, deviation: float, level: float) -> None:
    """Noise of any level ends at the data's mean and variance, up to an error that halves with the step, as Euler's does."""
    field, errors = Gaussian(mean, deviation), []
    for count in (40, 80):
        times = timesteps(count, 1.0)
        steps = make_steps("flow", level, times, range(count // 10, count - 1))
        centre, variance = field.carry(times, steps, count // 10)
        assert centre == pytest.approx(mean, abs=1e-5)
        errors.append(abs(variance - deviation**2))
    assert errors[1] < 0.65 * errors[0] + 1e-6
    assert errors[1] < 0.05 * deviation**2 + 1e-3


def test_marginals_from_pure_noise() -> None:
    """Through the solver, with a window of stochastic steps at the very start: the inflated first step is taken back."""
    field, times = Gaussian(-0.5, 0.6), timesteps(60, 1.0)
    start, *noise = torch.randn(41, 10000, generator=torch.Generator().manual_seed(0))
    drawn = run(stochastic(start, times, make_steps("flow", 0.7, times, range(40)), torch.stack(noise), []), field)
    assert float(drawn.mean()) == pytest.approx(-0.5, abs=0.03)
    assert float(drawn.std()) == pytest.approx(0.6, rel=0.04)


@given(rule=RULE, level=st.floats(0.05, 0.95), index=st.integers(0, 6), shift=st.floats(0.5, 5))
@settings(max_examples=15, deadline=None)
def test_density_is_that_of_a_normal(rule: str, level: float, index: int, shift: float) -> None:
    times = timesteps(8, shift)
    step = make_steps(rule, level, times, range(index, index + 1))[index]
    x, velocity, noise, moved = torch.randn(4, 5, 6, 7, generator=torch.Generator().manual_seed(index))
    old = step.mean(x, velocity)
    mean = old + 0.01 * step.deviation * moved
    result = old + step.deviation * noise
    normal = torch.distributions.Normal(mean.double(), step.deviation.double())
    expected = normal.log_prob(result.double()).flatten(1).mean(1)
    torch.testing.assert_close(step.log_prob(result, mean).double(), expected, atol=1e-5, rtol=1e-5)
    assert step.log_prob(result, mean).dtype == torch.float32
    difference = expected - torch.distributions.Normal(old.double(), step.deviation.double()).log_prob(result.double()).flatten(1).mean(1)
    torch.testing.assert_close(step.log_ratio(result, mean, old).double(), difference, atol=1e-6, rtol=1e-3)
    divergence = torch.distributions.kl_divergence(normal, torch.distributions.Normal(old.double(), step.deviation.double()))
    torch.testing.assert_close(step.divergence(mean, old).double(), divergence.flatten(1).mean(1), atol=1e-6, rtol=1e-3)


def test_deviation_at_pure_noise_is_finite() -> None:
    """sigma = a sqrt(t / (1 - t)) has a pole at t = 1; the second time of the grid stands in: a sqrt(1 / h) sqrt(h) = a."""
    step = make_steps("flow", 0.7, timesteps(10, 2.0), range(1))[0]
    assert float(step.deviation) == pytest.approx(0.7, rel=1e-6)


@given(level=st.floats(0.0, 1.0), index=st.integers(0, 5))
@settings(max_examples=15, deadline=None)
def test_coefficient_preserving_steps_keep_the_scheduled_noise(level: float, index: int) -> None:
    """Kept and fresh noise have the variance t'^2, and the data its weight 1 - t'."""
    times = timesteps(8, 3.0)
    step = make_steps("cps", level, times, range(index, index + 1))[index]
    t, after = float(step.time), float(step.following)
    data, noise = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    mean = step.mean((1 - t) * data + t * noise, noise - data)[0]
    assert float(mean[0]) == pytest.approx(1 - after, abs=1e-6)
    assert float(mean[1]) ** 2 + float(step.deviation) ** 2 == pytest.approx(after**2, abs=1e-6)


def test_transitions_are_recorded_as_they_were_taken() -> None:
    times, taken = timesteps(6, 2.0), list[Transition]()
    start, *noise = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(1))
    run(stochastic(start, times, make_steps("flow", 0.5, times, range(2, 4)), torch.stack(noise), taken), Gaussian(0.0, 1.0))
    assert [float(t.step.time) for t in taken] == times[2:4].tolist()
    assert torch.equal(taken[0].result, taken[1].x)
    for transition, fresh in zip(taken, noise, strict=True):
        assert torch.equal(transition.result, transition.mean + transition.step.deviation * fresh)


def test_wrong_windows_and_levels_are_refused() -> None:
    times = timesteps(5, 1.0)
    with pytest.raises(LanceError, match="last step is exact"):
        make_steps("flow", 0.7, times, range(3, 5))
    with pytest.raises(LanceError, match="cps"):
        make_steps("cps", 1.5, times, range(2))
    with pytest.raises(LanceError, match="ddim"):
        make_steps("ddim", 0.7, times, range(2))
    with pytest.raises(LanceError, match="no probability"):
        make_steps("flow", 0.0, times, range(1))[0].log_prob(torch.zeros(1, 2), torch.zeros(1, 2))
