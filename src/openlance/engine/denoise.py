"""Denoising: a solver driven from noise to latents, with every guidance branch in the same forward."""

from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor

from openlance.engine.request import ImageSampling
from openlance.engine.row import Row, Want, make_row
from openlance.flow.path import timesteps
from openlance.flow.solver import find_solver
from openlance.model.context import Context
from openlance.model.lance import LanceModel
from openlance.sequence.pack import PackedSequence

Outputs = list[Tensor | None]


@dataclass(frozen=True)
class DenoiseStep:
    """What one evaluation saw and gave; latents are of the updated tokens (n, C)."""

    index: int
    time: float
    latents: Tensor
    full: Tensor
    velocity: Tensor

    def data(self) -> Tensor:
        """The model's present guess of the clean latents."""
        return self.latents - self.time * self.velocity


class Denoiser:
    """The target block of a request: one row a branch, clean cells fixed, the others moved by the solver.

    `targets`: the packed target block of each branch (same cells, own positions); `start` (G, C): clean rows given, the
    others noise.
    """

    def __init__(
        self, model: LanceModel, targets: list[PackedSequence], contexts: list[Context], start: Tensor, sampling: ImageSampling
    ) -> None:
        self.model = model
        self.sampling = sampling
        self.guidance = sampling.guidance()
        self.start = start.to(model.device, torch.float32)
        self.moving = ~targets[0].clean[targets[0].latent].to(model.device)
        self.all_moving = bool(self.moving.all())
        self.rows = [make_row(model, target, context, Want.VELOCITY, self.start) for target, context in zip(targets, contexts, strict=True)]
        assert sampling.num_inference_steps is not None
        assert sampling.timestep_shift is not None
        self.times = timesteps(sampling.num_inference_steps, sampling.timestep_shift).to(model.device)

    def place_latents(self, moving: Tensor) -> Tensor:
        """All latents (G, C) from the moving ones (n, C)."""
        if self.all_moving:
            return moving
        full = self.start.clone()
        full[self.moving] = moving
        return full

    def rows_at(self, moving: Tensor, time: float) -> list[Row]:
        """The rows of one evaluation with the moving latents (n, C) at `time`: every branch, or the first where guidance rests."""
        rows = self.rows if self.guidance.acts_at(time) else self.rows[:1]
        latents = self.place_latents(moving)
        times = torch.tensor([0.0, time], device=latents.device)
        for row in rows:
            row.latents, row.times = latents, times
        return rows

    def run(self, on_step: Callable[[DenoiseStep], None] | None = None) -> Generator[list[Row], Outputs, Tensor]:
        """Latents (G, C) of the target; yields the rows of each evaluation."""
        solver = find_solver(str(self.sampling.solver))(self.start[self.moving], self.times)
        x, time = next(solver)
        index = 0
        while True:
            outputs = yield self.rows_at(x, time)
            full, velocity = self.combine(outputs)
            if on_step:
                on_step(DenoiseStep(index, time, x, full, velocity))
            index += 1
            try:
                x, time = solver.send(velocity)
            except StopIteration as finished:
                return self.place_latents(finished.value)

    def combine(self, outputs: Outputs) -> tuple[Tensor, Tensor]:
        """(velocity of the full branch, guided velocity), both (n, C), from the outputs of `rows_at`."""
        velocities = [output for output in outputs if output is not None]
        count_clean = self.sampling.guidance_positions == "shipped"
        if not count_clean:
            velocities = [velocity[self.moving] if not self.all_moving else velocity for velocity in velocities]
        full = velocities[0]
        velocity = full if len(velocities) == 1 else self.guidance.combine(*velocities)
        if count_clean and not self.all_moving:
            full, velocity = full[self.moving], velocity[self.moving]
        return full, velocity
