"""Laws of the flow: the path, the schedule, guidance, the solvers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from openlance.errors import RequestError
from openlance.flow.guidance import Guidance, renorm
from openlance.flow.path import draw_noise, interpolate, shift_time, timesteps, velocity_target
from openlance.flow.solver import SOLVERS, find_solver


def solve(name: str, steps: int, x: Tensor, shift: float = 1.0) -> Tensor:
    """Integrate a known, non-linear field whose path from noise to data is curved."""
    solver = find_solver(name)(x, timesteps(steps, shift).double())
    state, time = next(solver)
    while True:
        try:
            state, time = solver.send(torch.sin(2 * state) * (0.5 + time) + 0.3 * time)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("name", sorted(SOLVERS))
def test_every_solver_at_fine_steps_is_euler_at_fine_steps(name: str) -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    torch.testing.assert_close(solve(name, 2000, x), solve("euler", 20000, x), atol=2e-3, rtol=0)


@pytest.mark.parametrize("shift", [1.0, 3.5])
@pytest.mark.parametrize("name", ["heun", "dpm++2m"])
def test_second_order_solvers_beat_euler_at_coarse_steps(name: str, shift: float) -> None:
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)
    truth = solve("euler", 50000, x)
    error = (solve(name, 20, x, shift) - truth).abs().max()
    assert error < (solve("euler", 20, x, shift) - truth).abs().max() / 2


@pytest.mark.parametrize("name", sorted(SOLVERS))
@given(seed=st.integers(0, 1000), steps=st.integers(1, 12))
def test_a_straight_path_is_solved_exactly(name: str, seed: int, steps: int) -> None:
    """Where all velocities point at one datum, any number of steps lands on it."""
    generator = torch.Generator().manual_seed(seed)
    data, noise = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    solver = find_solver(name)(noise, timesteps(steps, 3.0).double())
    next(solver)
    try:
        while True:
            solver.send(velocity_target(data, noise))
    except StopIteration as end:
        torch.testing.assert_close(end.value, data, atol=1e-6, rtol=0)


def test_unknown_solver_lists_the_known() -> None:
    with pytest.raises(RequestError, match=r"euler.*heun"):
        find_solver("rk45")


@given(u=st.floats(0, 1), shift=st.floats(0.1, 10))
def test_shift_keeps_the_ends_and_the_order(u: float, shift: float) -> None:
    ends = shift_time(torch.tensor([0.0, 1.0]), shift)
    torch.testing.assert_close(ends, torch.tensor([0.0, 1.0]))
    low, high = shift_time(torch.tensor([u * 0.9, u]), shift).tolist()
    assert low <= high + 1e-7
    torch.testing.assert_close(shift_time(shift_time(torch.tensor(u), shift), 1 / shift), torch.tensor(u), atol=1e-5, rtol=1e-4)


def test_schedule_golden(golden) -> None:
    for key, values in golden("misc")["schedules"].items():
        steps, shift = key.split("_")
        torch.testing.assert_close(timesteps(int(steps), float(shift)), torch.tensor(values), atol=1e-6, rtol=0)


def test_interpolation_and_target() -> None:
    data, noise = torch.randn(2, 4, 3)
    torch.testing.assert_close(interpolate(data, noise, torch.tensor(0.0)), data)
    torch.testing.assert_close(interpolate(data, noise, torch.tensor(1.0)), noise)
    x = interpolate(data, noise, torch.tensor(0.3))
    torch.testing.assert_close(x - 0.3 * velocity_target(data, noise), data)


def test_noise_is_a_function_of_seed_and_place() -> None:
    whole = draw_noise(10, 4, seed=5)
    torch.testing.assert_close(draw_noise(6, 4, seed=5, skip=4), whole[4:], atol=0, rtol=0)
    assert not torch.equal(draw_noise(10, 4, seed=6), whole)


@given(scale=st.floats(1.01, 10), visual=st.floats(0.1, 5), kind=st.sampled_from(["global", "channel", "none"]))
def test_guidance_laws(scale: float, visual: float, kind: str) -> None:
    torch.manual_seed(0)
    full, prompt, nothing = torch.randn(3, 6, 4)
    guidance = Guidance(scale, visual, renorm=kind)
    plain = prompt + scale * (full - prompt)
    torch.testing.assert_close(guidance.combine(full, prompt), renorm(plain, full, kind, 0.0))
    if kind == "none":
        both = nothing + visual * (prompt - nothing) + scale * (full - prompt)
        torch.testing.assert_close(guidance.combine(full, prompt, nothing), both, atol=1e-4, rtol=1e-4)
    same = guidance.combine(full, full, full)
    torch.testing.assert_close(same, full, atol=1e-4, rtol=1e-4)
    shrunk = renorm(plain, full, kind, 0.0)
    assert shrunk.norm() <= plain.norm() + 1e-4


def test_guidance_acts_inside_its_interval_only() -> None:
    guidance = Guidance(4.0, interval=(0.4, 1.0))
    assert [guidance.acts_at(t) for t in (1.0, 0.41, 0.4, 0.1)] == [True, True, False, False]
    assert not Guidance(1.0).acts_at(0.9)
    with pytest.raises(RequestError, match="renorm"):
        Guidance(renorm="cubic")
