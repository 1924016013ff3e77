"""The order of training: which sample comes k-th out of several weighted sources. Its state is a few integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf
from random import Random
from typing import Any

import numpy as np
import torch

from openlance.data.sample import Sample
from openlance.data.source import Source
from openlance.errors import LanceError


@dataclass(frozen=True)
class Draw:
    """One drawn sample: the `number`-th of the run, sample `index` of source `source`."""

    number: int
    source: int
    index: int


@dataclass(frozen=True)
class Weight:
    """A source's share of the samples, over the sum of all: `start` at step 0, then on straight lines through `later`, step to weight."""

    start: float = 1.0
    later: Mapping[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if min(self.later, default=1) < 1:
            raise LanceError(f"a weight changes at step {min(self.later)}: name steps from 1 on, the weight before them is `weight`")
        wrong = [weight for weight in (self.start, *self.later.values()) if not 0 <= weight < inf]
        if wrong:
            raise LanceError(f"weight {wrong[0]} must be at least 0, and finite")

    def at(self, step: int) -> float:
        """The weight for the samples of this step; after the last named one as there."""
        steps, weights = zip(*sorted(({0: self.start} | dict(self.later)).items()), strict=True)
        return float(np.interp(step, steps, weights))

    @property
    def ever(self) -> bool:
        """Whether it is above 0 at any step."""
        return any((self.start, *self.later.values()))


def turning_steps(weights: Iterable[Weight]) -> list[int]:
    """Step 0 and all steps that weights name, ascending: between them every weight is on a straight line."""
    return sorted({0, *(step for weight in weights for step in weight.later)})


def check_weights(weights: Sequence[Weight]) -> None:
    """Raises LanceError where at some step no source has any weight. Between turning steps that cannot be: sums of straight lines."""
    for step in turning_steps(weights):
        if sum(weight.at(step) for weight in weights) <= 0:
            raise LanceError(f"the weights of all sources are 0 at step {step}: raise one")


class Mixture:
    """Draws from sources by weight; each source is walked in seeded permutations, epoch after epoch.

    A source that grows is noticed at `refresh`: until then the epochs run over what it had before.
    """

    def __init__(self, sources: Sequence[Source], weights: Sequence[Weight], seed: int) -> None:
        if len(sources) != len(weights) or not sources:
            raise LanceError(f"{len(sources)} sources and {len(weights)} weights: give every source one weight")
        check_weights(weights)
        self.sources = sources
        self.weights = list(weights)
        self.seed = seed
        self.number = 0
        self._now: tuple[int, list[float]] = (0, [weight.at(0) for weight in weights])
        self.drawn = [0] * len(sources)
        self.lengths = [0] * len(sources)
        self.refresh()

    def refresh(self) -> None:
        """Take in what the sources have grown to; a source whose length changed starts a new epoch."""
        for i, source in enumerate(self.sources):
            if len(source) != self.lengths[i]:
                self.lengths[i] = len(source)
                self.drawn[i] = 0
            if not self.lengths[i] and self.weights[i].ever:
                raise LanceError(
                    f"source '{source.name}' is empty: {source.contents()}; fill it (a cache: openlance train CACHE_RECIPE.yaml), name "
                    "another one, or give it weight 0"
                )

    def draw(self, step: int = 0) -> Draw:
        """The next sample's place, by the weights of this step; advances the state."""
        if self._now[0] != step:
            self._now = (step, [weight.at(step) for weight in self.weights])
        rng = Random(f"{self.seed}/{self.number}/source")
        (source,) = rng.choices(range(len(self.sources)), self._now[1])
        length = self.lengths[source]
        epoch, place = divmod(self.drawn[source], length)
        index = int(_permutation(self.seed, source, epoch, length)[place])
        draw = Draw(self.number, source, index)
        self.number += 1
        self.drawn[source] += 1
        return draw

    def sample(self, draw: Draw) -> Sample:
        """The sample of a draw: a pure function of it and the seed."""
        return self.sources[draw.source].sample(draw.index, Random(f"{self.seed}/{draw.number}"))

    def state(self) -> dict[str, Any]:
        return {"number": self.number, "drawn": list(self.drawn), "lengths": list(self.lengths)}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where another mixture of the same sources stopped. Raises LanceError if one of them has shrunk."""
        if len(state["drawn"]) != len(self.sources):
            raise LanceError(f"the checkpoint was made with {len(state['drawn'])} sources, the recipe has {len(self.sources)}")
        for source, length in zip(self.sources, state["lengths"], strict=True):
            if len(source) < length:
                raise LanceError(
                    f"source '{source.name}' has {len(source)} samples and the run goes on from {length}: {source.contents()}; bring back "
                    "what the checkpoint was made with, and let all processes see the same files"
                )
        self.number, self.drawn, self.lengths = state["number"], list(state["drawn"]), list(state["lengths"])


@lru_cache(maxsize=32)
def _permutation(seed: int, source: int, epoch: int, length: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(hash((seed, source, epoch)) % 2**63)
    return torch.randperm(length, generator=generator)
