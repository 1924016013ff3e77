"""From the mixture to batches: samples wait in buckets of one shape until a bucket is full."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from openlance.data.batch import TrainingBatch, assemble
from openlance.data.layout import Anchors, padded_length, stream_sizes
from openlance.data.mixture import Draw, Mixture
from openlance.data.sample import Sample
from openlance.errors import LanceError

Shape = tuple[int, int]
ANY: Shape = (0, 0)
"""Where all samples wait for a packed batch."""


@dataclass(frozen=True)
class BatchRecipe:
    """How samples are put together. Tokens count both streams, padding included."""

    form: str = "bucketed"
    """`bucketed`: one shape a batch, for small models. `packed`: any samples side by side, unpadded."""
    tokens: int = 3072
    """Most tokens of one forward pass."""
    tokens_per_step: int = 12288
    """Tokens between two updates; the passes of a step are accumulated."""
    round_to: int = 16
    """Bucketed: understanding streams are padded to a multiple of this."""
    views: int = 1
    """Times each target is noised: its prompt and sources are computed once for all of them."""
    streams: int = 1
    """Independent orders of samples that take turns, a step each. What a run sees depends on it, and on nothing below."""
    workers: int = 0
    """Processes that prepare the streams ahead of the training, each an equal share of them; 0: the training itself does."""

    def __post_init__(self) -> None:
        if self.form not in ("bucketed", "packed"):
            raise LanceError(f"batch form '{self.form}' is not 'bucketed' or 'packed'")
        if min(self.tokens, self.tokens_per_step, self.round_to, self.views, self.streams) < 1:
            raise LanceError("batch tokens, tokens_per_step, round_to, views and streams must be at least 1")
        if self.workers < 0 or (self.workers and self.streams % self.workers):
            raise LanceError(f"batch.workers {self.workers} must divide batch.streams {self.streams}: workers prepare equal shares")


class Steps(Protocol):
    """Where a run takes its batches from, step by step: one order of samples, or several that take turns."""

    def step(self) -> list[TrainingBatch]:
        """This rank's batches of the next update: possibly none."""

    def place(self, index: int) -> int:
        """Where the `index`-th batch of this rank stands among those of the step."""

    def refresh(self) -> None:
        """Let the sources grow."""

    def state(self) -> dict[str, Any]:
        """Integers from which `load_state` goes on exactly."""

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on where another stopped."""


class Loader:
    """Endless batches. Their order is one for all ranks: each draws every sample and keeps the same buckets, so that the batches of a
    step are the same on any number of ranks, and puts together only its own. What that costs is reading (or encoding) all samples.
    """

    def __init__(
        self, mixture: Mixture, recipe: BatchRecipe, anchors: Anchors, rank: int = 0, world_size: int = 1, stream: int = 0, streams: int = 1
    ) -> None:
        """`stream` of `streams`: which steps of the run this is asked for, every `streams`-th from `stream` on."""
        self.mixture = mixture
        self.recipe = recipe
        self.anchors = anchors
        self.rank, self.world_size = rank, world_size
        self.stream, self.streams = stream, streams
        self._steps = 0
        self._waiting: dict[Shape, list[tuple[Draw, Sample]]] = defaultdict(list)

    def step(self) -> list[TrainingBatch]:
        """This rank's batches of one update, every world_size-th: possibly none. All ranks' together have about tokens_per_step tokens."""
        groups = [self._full()]
        tokens = self._tokens(groups[0])
        while tokens + self.recipe.tokens / 2 < self.recipe.tokens_per_step:
            groups.append(self._full())
            tokens += self._tokens(groups[-1])
        self._steps += 1
        return [self._assemble(group) for group in groups[self.rank :: self.world_size]]

    def place(self, index: int) -> int:
        """Where the `index`-th batch of this rank stands among those of the step."""
        return index * self.world_size + self.rank

    def __iter__(self) -> Iterator[TrainingBatch]:
        return self

    def __next__(self) -> TrainingBatch:
        """The next batch of the order, whichever rank computes it in a step."""
        return self._assemble(self._full())

    def _full(self) -> list[Sample]:
        """The samples of the next batch."""
        while True:
            draw = self.mixture.draw(self.stream + self._steps * self.streams)
            full = self._add(draw, self.mixture.sample(draw))
            if full:
                return [sample for _, sample in full]

    def _assemble(self, samples: list[Sample]) -> TrainingBatch:
        return assemble(samples, self.anchors, self._round_to, self.recipe.views)

    def _tokens(self, samples: list[Sample]) -> int:
        """What their batch will have, known before it is put together."""
        return sum(sum(self._shape(sample)) for sample in samples)

    @property
    def _round_to(self) -> int:
        return self.recipe.round_to if self.recipe.form == "bucketed" else 1

    def _add(self, draw: Draw, sample: Sample) -> list[tuple[Draw, Sample]]:
        """Put a sample where it belongs; what is complete by it is taken out and returned."""
        shape = self._shape(sample)
        size = sum(shape)
        if size > self.recipe.tokens:
            raise LanceError(f"a sample of task '{sample.task}' has {size} tokens, a batch holds {self.recipe.tokens}: raise batch.tokens")
        if self.recipe.form == "bucketed":
            waiting = self._waiting[shape]
            waiting.append((draw, sample))
            return self._waiting.pop(shape) if len(waiting) >= self.recipe.tokens // size else []
        waiting = self._waiting[ANY]
        if sum(sum(self._shape(other)) for _, other in waiting) + size > self.recipe.tokens:
            self._waiting[ANY] = [(draw, sample)]
            return waiting
        waiting.append((draw, sample))
        return []

    def _shape(self, sample: Sample) -> Shape:
        U, G = stream_sizes(sample.segments, self.recipe.views)
        return padded_length(U, self._round_to), G

    def refresh(self) -> None:
        """Let the mixture take in what its sources have grown to."""
        self.mixture.refresh()

    def state(self) -> dict[str, Any]:
        """Integers only: the mixture's, the steps made, and the draws that wait in buckets."""
        waiting = [(draw.number, draw.source, draw.index) for pairs in self._waiting.values() for draw, _ in pairs]
        return {"mixture": self.mixture.state(), "steps": self._steps, "waiting": waiting}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on exactly where another loader stopped."""
        self.mixture.load_state(state["mixture"])
        self._steps = state.get("steps", 0)  # checkpoints of before weights could change over the steps do not have it
        self._waiting.clear()
        for values in state["waiting"]:
            draw = Draw(*values)
            sample = self.mixture.sample(draw)
            self._waiting[self._shape(sample) if self.recipe.form == "bucketed" else ANY].append((draw, sample))


def task_counts(batches: list[TrainingBatch]) -> Counter[str]:
    """Samples of each task."""
    return Counter(task for batch in batches for task in batch.tasks)
