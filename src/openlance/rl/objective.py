"""What an objective of stage four is: how it draws its samples and what it minimises on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from torch import Tensor

from openlance.rl.rollout import Rollout, Samples

Term = tuple[Tensor, dict[str, Tensor]]
"""Losses (N,) of the samples of a rollout with their gradient, and numbers (N,) for the log."""


class Objective(Protocol):
    """One way to learn from advantages. Everything random follows from the keys that are passed in."""

    @property
    def terms(self) -> int:
        """How many terms `losses` yields for a rollout."""

    def sampling_weights(self) -> AbstractContextManager[None]:
        """The weights that rollouts are drawn with."""

    def roll_out(self, samples: Samples, seeds: Sequence[int], iteration: int) -> Rollout:
        """Draw one picture a seed."""

    def losses(self, rollout: Rollout, advantages: Tensor, key: str) -> Iterator[Term]:
        """The terms of the loss, one at a time, so that each can be differentiated before the next is computed."""

    def finish_iteration(self, iteration: int) -> None:
        """Called after the updates of an iteration."""

    def state(self) -> dict[str, Any]: ...

    def load_state(self, state: dict[str, Any]) -> None: ...
