"""Means with intervals of scores between 0 and 1 that come in groups: the pictures of one prompt are one group."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z95 = 1.959964
RESAMPLES = 2000


@dataclass(frozen=True)
class Estimate:
    """A mean, its 95 % interval and the number of groups (prompts) and of scores behind it."""

    mean: float
    low: float
    high: float
    groups: int
    scores: int


def wilson(mean: float, n: int) -> tuple[float, float]:
    """95 % Wilson interval of a share `mean` of `n` trials. For other scores in [0, 1] it is wider than needed, never narrower."""
    middle = mean + Z95**2 / (2 * n)
    half = Z95 * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n * n))
    scale = 1 + Z95**2 / n
    # At 0 and at 1 the two terms are equal; rounding must not put the mean outside its own interval.
    return max(0.0, min(mean, (middle - half) / scale)), min(1.0, max(mean, (middle + half) / scale))


def estimate(groups: Sequence[Sequence[float]], seed: int = 0) -> Estimate:
    """Mean of all scores with a 95 % interval.

    One right-or-wrong score a group: Wilson. Anything else: percentile bootstrap over groups, since scores of one prompt hang together;
    where all groups agree, resampling says nothing and Wilson over the groups is used. Raises ValueError without scores.
    """
    means = np.array([sum(group) / len(group) for group in groups if group])
    if not len(means):
        raise ValueError("an estimate needs at least one score")
    sizes = np.array([len(group) for group in groups if group])
    mean = float((means * sizes).sum() / sizes.sum())
    single = bool((sizes == 1).all()) and set(means.tolist()) <= {0.0, 1.0}
    if single or float(np.ptp(means)) == 0:
        low, high = wilson(min(1.0, max(0.0, mean)), len(means))
    else:
        drawn = np.random.default_rng(seed).integers(0, len(means), (RESAMPLES, len(means)))
        sums, counts = (means * sizes)[drawn].sum(1), sizes[drawn].sum(1)
        low, high = np.percentile(sums / counts, (2.5, 97.5)).tolist()
    return Estimate(mean, min(low, mean), max(high, mean), len(means), int(sizes.sum()))


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """The plain mean of independent estimates; half-widths add in squares, each side by itself."""
    n = len(estimates)
    mean = sum(e.mean for e in estimates) / n
    below = math.sqrt(sum((e.mean - e.low) ** 2 for e in estimates)) / n
    above = math.sqrt(sum((e.high - e.mean) ** 2 for e in estimates)) / n
    return Estimate(mean, mean - below, mean + above, sum(e.groups for e in estimates), sum(e.scores for e in estimates))


@dataclass(frozen=True)
class Change:
    """Scores of the same things before and after: means, the mean difference with its 95 % interval, how many rose and fell."""

    before: float
    after: float
    mean: float
    low: float
    high: float
    better: int
    worse: int
    pairs: int


def change_between(before: Sequence[float], after: Sequence[float], seed: int = 0) -> Change:
    """Percentile bootstrap over pairs; where all differ alike, the half-width of Wilson's interval of a share of 0 on both sides.

    Raises ValueError without scores or where their numbers differ.
    """
    if not before or len(before) != len(after):
        raise ValueError(f"{len(before)} scores before and {len(after)} after: a change needs pairs")
    changes = np.array(after, np.float64) - np.array(before, np.float64)
    n, mean = len(changes), float(changes.mean())
    if float(np.ptp(changes)) == 0:
        half = wilson(0.0, n)[1]
        low, high = mean - half, mean + half
    else:
        drawn = np.random.default_rng(seed).integers(0, n, (RESAMPLES, n))
        low, high = np.percentile(changes[drawn].mean(1), (2.5, 97.5)).tolist()
    means = (float(np.mean(before)), float(np.mean(after)))
    return Change(*means, mean, low, high, int((changes > 0).sum()), int((changes < 0).sum()), n)
