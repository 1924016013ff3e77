"""Pictures through all rewards: weighted sums to train on, means and counts to log, failures counted and never mistaken for zeros."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from openlance.errors import LanceError
from openlance.media.clip import Clip
from openlance.rl.prompts import Prompt
from openlance.rl.rewards import Reward, Score

MOST_FAILED = 0.5
"""Share of the asked pictures of one round, those of all processes, that a reward may fail on."""


class RewardError(LanceError):
    """A reward that does not work; the message says on what and why."""


@dataclass
class Tally:
    """Sums over pictures by name, and how many pictures each is over."""

    sums: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, value: float) -> None:
        self.sums[name] += value  # type: ignore[assignment]
        self.counts[name] += 1

    def include(self, other: Tally) -> None:
        """Add the sums of another."""
        self.sums.update(other.sums)
        self.counts.update(other.counts)

    def means(self) -> dict[str, float]:
        """Mean of every name, sorted."""
        return {name: self.sums[name] / self.counts[name] for name in sorted(self.sums)}


@dataclass(frozen=True)
class Scored:
    """`total` (N,): weighted sum of a picture's rewards, nan where one failed. `tally`: of rewards and measures. By reward, `asked`:
    pictures that it judged or failed on; `failures`: those it failed on; `reasons`: why, the last time.
    """

    total: Tensor
    tally: Tally
    asked: Counter[str]
    failures: Counter[str]
    reasons: dict[str, str]

    @property
    def means(self) -> dict[str, float]:
        """Of rewards and measures."""
        return self.tally.means()


def together(tallies: Iterable[Tally]) -> Tally:
    """One of all."""
    whole = Tally()
    for tally in tallies:
        whole.include(tally)
    return whole


def pooled(parts: Sequence[Scored]) -> Scored:
    """Scores of several lots of pictures, one of each process, as of one.

    Raises RewardError for a reward that fails on more than half of all that it is asked.
    """
    asked, failures, reasons = Counter[str](), Counter[str](), dict[str, str]()
    for part in parts:
        asked.update(part.asked)
        failures.update(part.failures)
        reasons.update(part.reasons)
    for name, number in failures.items():
        if number > MOST_FAILED * asked[name]:
            raise RewardError(f"reward '{name}' failed on {number} of {asked[name]} pictures, last with: {reasons[name]}")
    return Scored(torch.cat([part.total for part in parts]), together(part.tally for part in parts), asked, failures, reasons)


class Judges:
    """Rewards with their weights, and others that are only watched."""

    def __init__(self, rewards: Mapping[str, Reward], weights: Mapping[str, float]) -> None:
        self.rewards = dict(rewards)
        self.weights = dict(weights)

    def score(self, clips: Sequence[Clip], prompts: Sequence[Prompt], watch: bool = True) -> Scored:
        """Judge pictures, each with its prompt; with `watch`, also by what is only watched. Whether too many failed, `pooled` tells.

        Raises RewardError for a reward that breaks, or gives what is no score.
        """
        total = torch.zeros(len(clips), dtype=torch.float64)
        tally, asked, failures, why = Tally(), Counter[str](), Counter[str](), dict[str, str]()
        for name, reward in self.rewards.items():
            if not clips or (not watch and name not in self.weights):
                continue
            scores = self._ask(name, reward, clips, prompts)
            reasons = [score.failed for score in scores if score and score.failed is not None]
            asked[name] = sum(score is not None for score in scores)
            if reasons:
                failures[name], why[name] = len(reasons), reasons[-1]
            for i, score in enumerate(scores):
                if score is None:
                    continue
                if score.failed is None:
                    tally.add(name, score.value)
                    for measure, value in score.measures.items():
                        tally.add(f"{name}.{measure}", value)
                total[i] += self.weights.get(name, 0.0) * (score.value if score.failed is None else self._missing(name))
        return Scored(total, tally, asked, failures, why)

    def _ask(self, name: str, reward: Reward, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> Sequence[Score | None]:
        try:
            scores = reward(clips, prompts)
        except Exception as error:
            raise RewardError(f"reward '{name}' failed on {len(clips)} pictures, the first of {prompts[0].text!r}: {error}") from error
        if len(scores) != len(clips):
            raise RewardError(f"reward '{name}' gave {len(scores)} scores for {len(clips)} pictures")
        bad = [score.value for score in scores if score and score.failed is None and not math.isfinite(score.value)]
        if bad:
            raise RewardError(f"reward '{name}' gave {bad[0]}: a reward must be finite, or say that it failed")
        return scores

    def _missing(self, name: str) -> float:
        """A failed reward that is trained on leaves its picture without a total; one that is watched does not."""
        return math.nan if name in self.weights else 0.0
