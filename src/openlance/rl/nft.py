"""DiffusionNFT: learn from rewards on the forward process, with any sampler and without probabilities.

A sample is noised to a random time. The policy's velocity is mirrored at that of the policy it was drawn with, into a better and a worse
one, v+- = v_old +- beta (v - v_old); good samples pull v+ towards themselves, bad ones v-.

Source: arXiv 2509.16117, equation 5, with its self-normalised error of the data prediction.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import LanceError
from openlance.flow.path import interpolate, shift_time
from openlance.rl.objective import Term
from openlance.rl.rollout import Rollout, Samples, roll_out
from openlance.rl.snapshot import Snapshot
from openlance.train.losses import PathSampling

LEAST_ERROR = 1e-5


@dataclass(frozen=True)
class NftRecipe:
    """The objective on the forward process."""

    beta: float = 1.0
    """How far the two mirrored velocities lie from the old one."""
    kl: float = 0.0
    """Weight of the squared distance from the velocity of the model that the run began with."""
    draws: int = 2
    """Times drawn for each sample and update."""
    path: PathSampling = field(default_factory=PathSampling)
    """How those times are drawn."""
    follow_rate: float = 0.01
    follow_limit: float = 0.5
    """After iteration i (from 1) the sampling policy keeps min(rate * i, limit) of itself and takes the rest from the learner."""

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.kl < 0 or self.draws < 1 or not 0 <= self.follow_limit <= 1 or self.follow_rate < 0:
            raise LanceError(f"nft needs beta > 0, kl >= 0, draws >= 1, follow_rate >= 0 and follow_limit in [0, 1]: {self}")


class Nft:
    """The objective of DiffusionNFT on the weights that learn."""

    def __init__(self, recipe: NftRecipe, parameters: Sequence[nn.Parameter], seed: int, solver: str, limit: float) -> None:
        self.recipe = recipe
        self.seed = seed
        self.solver = solver
        self.limit = limit
        """Advantages lie within +-limit."""
        self._old = Snapshot(parameters)
        self._reference = Snapshot(parameters) if recipe.kl else None

    @property
    def terms(self) -> int:
        return self.recipe.draws

    def sampling_weights(self) -> AbstractContextManager[None]:
        return self._old.active()

    def roll_out(self, samples: Samples, seeds: Sequence[int], iteration: int) -> Rollout:
        return roll_out(samples, seeds, self.solver)

    def losses(self, rollout: Rollout, advantages: Tensor, key: str) -> Iterator[Term]:
        recipe, data = self.recipe, rollout.latents
        generator = torch.Generator().manual_seed(Random(f"{self.seed}/{key}").getrandbits(63))
        share = 0.5 + advantages / (2 * self.limit)
        for _ in range(recipe.draws):
            normal = torch.randn(len(data), generator=generator)
            times = shift_time(torch.sigmoid(recipe.path.mean + recipe.path.deviation * normal), recipe.path.timestep_shift)
            noise = torch.randn(data.shape, generator=generator).to(data.device)
            at = times.to(data.device)[:, None, None]
            x = interpolate(data, noise, at)
            with torch.no_grad(), self._old.active():
                old = rollout.samples.velocity(x, times.tolist())
            velocity = rollout.samples.velocity(x, times.tolist())
            moved = recipe.beta * (velocity - old)
            better = _error(x - at * (old + moved), data)
            worse = _error(x - at * (old - moved), data)
            loss = self.limit / recipe.beta * (share * better + (1 - share) * worse)
            numbers = {"moved": (velocity - old).square().flatten(1).mean(1)}
            if self._reference is not None:
                with torch.no_grad(), self._reference.active():
                    reference = rollout.samples.velocity(x, times.tolist())
                numbers["kl"] = (velocity - reference).square().flatten(1).mean(1)
                loss = loss + recipe.kl * numbers["kl"]
            yield loss, {name: value.detach() for name, value in numbers.items()}

    def finish_iteration(self, iteration: int) -> None:
        self._old.follow(min(self.recipe.follow_rate * (iteration + 1), self.recipe.follow_limit))

    def state(self) -> dict[str, Any]:
        return {"old": self._old.state(), "reference": self._reference.state() if self._reference else []}

    def load_state(self, state: dict[str, Any]) -> None:
        self._old.load_state(state["old"])
        if self._reference:
            self._reference.load_state(state["reference"])


def _error(guess: Tensor, data: Tensor) -> Tensor:
    """Squared error (N,) of a guess of the data (N, n, C), over its own mean absolute error, which carries no gradient."""
    difference = guess - data
    scale = difference.detach().abs().flatten(1).mean(1).clamp_min(LEAST_ERROR)
    return difference.square().flatten(1).mean(1) / scale
