"""Rollouts: samples of one prompt drawn together, through the rows and batches of the engine.

The same object computes the velocities of sampling and of training, with the same rows in the same batch, so a policy that has not
changed gives back the very numbers it sampled with.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from openlance.engine.denoise import Denoiser, Outputs
from openlance.engine.prefill import prefill
from openlance.engine.prepare import Plan, plan
from openlance.engine.request import ImageSampling, Request
from openlance.engine.row import Batcher, Row
from openlance.flow.path import draw_noise
from openlance.flow.sde import Step, Transition, stochastic
from openlance.flow.solver import Solver, find_solver
from openlance.media.clip import IMAGE_FPS, Clip
from openlance.model.context import Context
from openlance.model.kernels import plain_operations
from openlance.model.lance import LanceModel
from openlance.model.pixels import to_uint8
from openlance.rl.context import SharedContext
from openlance.rl.prompts import Prompt
from openlance.sequence.bind import Binder, Grid
from openlance.sequence.tasks import find_task

T = TypeVar("T")


def request_of(prompt: Prompt, sampling: ImageSampling, seed: int = 0) -> Request:
    """The request that a prompt stands for."""
    return Request(find_task(prompt.task), prompt.text, (), prompt.height, prompt.width, prompt.num_frames, seed, sampling)


class Samples:
    """`count` samples of one prompt that always go through the model together, one row a sample and guidance branch."""

    def __init__(self, model: LanceModel, planned: Plan, contexts: Sequence[Context], count: int) -> None:
        assert planned.target is not None
        self.model = model
        self.grid: Grid = planned.target
        targets = [branch.target() for branch in planned.branches]
        blank = torch.zeros(self.cells, model.config.latent_channels)
        self._denoisers = [Denoiser(model, targets, list(contexts), blank, planned.sampling) for _ in range(count)]
        self._batcher = Batcher(model)

    @property
    def cells(self) -> int:
        """Latent cells n of a sample."""
        t, h, w = self.grid
        return t * h * w

    @property
    def times(self) -> Tensor:
        """The schedule (steps + 1,)."""
        return self._denoisers[0].times

    def velocity(self, x: Tensor, times: Sequence[float]) -> Tensor:
        """The policy: velocities (N, n, C), float32, of samples `x` (N, n, C) at their times, guided where the recipe guides."""
        parts = [denoiser.rows_at(latents, time) for denoiser, latents, time in zip(self._denoisers, x, times, strict=True)]
        rows = [row for part in parts for row in part]
        # The first ratio of an update is 1 only if the policy computes the same with and without gradients.
        with plain_operations():
            outputs = self._batcher.run(rows)
        found = []
        for denoiser, part in zip(self._denoisers, parts, strict=True):
            found.append(denoiser.combine(outputs[: len(part)])[1])
            outputs = outputs[len(part) :]
        return torch.stack(found)


@dataclass
class Rollout:
    """Samples that were drawn: their final latents (N, n, C), float32, and the stochastic steps on the way."""

    samples: Samples
    latents: Tensor
    taken: list[Transition] = field(default_factory=list)
    reference: list[Tensor] = field(default_factory=list)
    """Means that a reference model gives to the steps taken, once somebody has asked for them."""

    def clips(self) -> list[Clip]:
        """The pictures."""
        model = self.samples.model
        latents = self.latents.reshape(len(self.latents), *self.samples.grid, -1)
        with torch.no_grad():
            pixels = torch.cat(list(model.autoencoder.decode_stream(latents)), 2)
        fps = IMAGE_FPS if pixels.shape[2] == 1 else model.config.media.fps
        return [Clip(to_uint8(one), fps) for one in pixels]


@torch.no_grad()
def prepare_samples(model: LanceModel, binder: Binder, prompt: Prompt, sampling: ImageSampling, counts: Sequence[int]) -> list[Samples]:
    """The samples of a prompt, in passes of `counts`; what lies before the target is computed once for all of them."""
    planned = plan(model, binder, request_of(prompt, sampling))
    contexts, _ = _drive(model, prefill(model, planned.branches, []))
    shared = [SharedContext(context) for context in contexts]
    return [Samples(model, planned, shared, count) for count in counts]


@torch.no_grad()
def roll_out(samples: Samples, seeds: Sequence[int], solver: str = "euler", steps: Mapping[int, Step] | None = None) -> Rollout:
    """Draw one picture a seed. With `steps`, those are stochastic and recorded; the others, or all, are `solver`'s."""
    channels = samples.model.config.latent_channels
    steps = steps or {}
    drawn = [draw_noise((1 + len(steps)) * samples.cells, channels, seed).reshape(-1, samples.cells, channels) for seed in seeds]
    noise = torch.stack(drawn, 1).to(samples.model.device)
    taken: list[Transition] = []
    start = noise[0]
    walk = stochastic(start, samples.times, steps, noise[1:], taken) if steps else find_solver(solver)(start, samples.times)
    return Rollout(samples, _walk(samples, walk), taken)


def _walk(samples: Samples, solver: Solver) -> Tensor:
    x, time = next(solver)
    while True:
        velocity = samples.velocity(x, [time] * len(x))
        try:
            x, time = solver.send(velocity)
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]


def _drive(model: LanceModel, work: Generator[list[Row], Outputs, T]) -> T:
    """Run a generator of rows to its end."""
    batcher = Batcher(model)
    rows = next(work)
    while True:
        outputs = batcher.run(rows)
        try:
            rows = work.send(outputs)
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]


def passes(count: int, most: int) -> Iterator[int]:
    """`count` samples in passes of at most `most` (0: all at once)."""
    most = most or count
    for start in range(0, count, most):
        yield min(most, count - start)
