"""Advantages: how much better a sample did than the others of its prompt.

Source: Flow-GRPO (arXiv 2505.05470); clip at 5 and the epsilon of its published code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from openlance.errors import LanceError

EPSILON = 1e-4
SAME = 1e-6
"""Standard deviation of a group below which its samples are alike."""


@dataclass(frozen=True)
class AdvantageRecipe:
    """A = (r - mean of the group) / (deviation + 1e-4), clipped to +-limit."""

    deviation: str = "group"
    """`group`: of the prompt's samples; `batch`: of all samples of the iteration, so that prompts that differ little count little."""
    limit: float = 5.0

    def __post_init__(self) -> None:
        if self.deviation not in ("group", "batch"):
            raise LanceError(f"advantage.deviation '{self.deviation}' is not group or batch")
        if self.limit <= 0:
            raise LanceError(f"advantage.limit {self.limit} must be above 0")


@dataclass(frozen=True)
class Advantages:
    """`values` (P, K), 0 where `learns` (P, K) is False: a failed sample, or one of a group whose samples are all alike."""

    values: Tensor
    learns: Tensor
    alike: int
    """Groups without any variance, which are skipped."""


def advantages(rewards: Tensor, recipe: AdvantageRecipe) -> Advantages:
    """Advantages of rewards (P prompts, K samples), nan where a reward failed."""
    known = torch.isfinite(rewards)
    count = known.sum(1, keepdim=True).clamp_min(1)
    centred = torch.where(known, rewards - torch.where(known, rewards, 0).sum(1, keepdim=True) / count, 0)
    group = (centred.square().sum(1, keepdim=True) / count).sqrt()
    varied = group > SAME
    everything = rewards[known]
    batch = everything.std(correction=0) if everything.numel() else torch.zeros(())
    deviation = group if recipe.deviation == "group" else batch
    values = (centred / (deviation + EPSILON)).clamp(-recipe.limit, recipe.limit)
    learns = known & varied
    return Advantages(torch.where(learns, values, 0).float(), learns, int((~varied).sum()))
