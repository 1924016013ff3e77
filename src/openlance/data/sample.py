"""A sample: a record bound to segments, each visual segment with the features that fill it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from torch import Tensor

from openlance.data.records import Words
from openlance.errors import LanceError
from openlance.sequence.bind import Binder, Grid, MediumGrids
from openlance.sequence.segment import CONDITION_ROLES, PROMPT_ROLES, Kind, Role, Segment, without


@dataclass(frozen=True)
class MediumFeatures:
    """What the frozen encoders make of one medium; None where its task has no use for it."""

    vision: Tensor | None = None
    """(t, h, w, D)"""
    latent: Tensor | None = None
    """(t, h, w, C), standardised"""

    def grids(self) -> MediumGrids:
        return MediumGrids(_grid(self.vision), _grid(self.latent))

    def of(self, kind: Kind) -> Tensor:
        """Cells (n, D or C) of a block of this kind."""
        features = self.vision if kind is Kind.VISION else self.latent
        assert features is not None
        return features.flatten(0, 2)


@dataclass(frozen=True)
class Sample:
    """One training sequence before noise. `features[i]` fills `segments[i]`: (cells, D) vision, (cells, C) latent, None for text.

    `branches[i]` is 0 for what all share, or the number of the branch that segment i belongs to: branches continue the shared
    part side by side without seeing each other, so several questions about one picture cost it once.
    """

    task: str
    segments: tuple[Segment, ...]
    features: tuple[Tensor | None, ...]
    branches: tuple[int, ...]


STRANGE_LETTERS = "abcdefghijklmnopqrstuvwxyz\u00e4\u00e9\u00ef\u00f1\u00f8\u00fc\u00df\u03b4\u03bb\u03c0\u03c9\u0431\u0436\u0448\u044f"
"""Of words that nobody knows. What is not English comes as bytes that hardly any prompt has."""


@dataclass(frozen=True)
class ConditionDropout:
    """Shares of the samples that lose conditions, so that guidance has its branches: the text alone, or text and sources."""

    prompt: float = 0.1
    all: float = 0.0
    word: float = 0.0
    """Share of the samples whose prompt gets a made-up word, half of them in place of one of its own: people use words that a small
    model has never seen, and it should read over them. Quoted words stay."""

    def __post_init__(self) -> None:
        if not (self.prompt >= 0 and self.all >= 0 and self.prompt + self.all <= 1 and 0 <= self.word <= 1):
            raise LanceError(
                f"dropout.prompt {self.prompt:g} + dropout.all {self.all:g}, and dropout.word {self.word:g}, must be shares from 0 to 1"
            )

    def speak(self, words: Words, rng: Random) -> Words:
        """What one sample says."""
        if not self.word or rng.random() >= self.word:
            return words
        spoken = words.text.split(" ")
        # What is quoted is to be written or read as it is.
        free = [i for i in range(len(spoken) + 1) if " ".join(spoken[:i]).count('"') % 2 == 0]
        own = [i for i in free if i < len(spoken) and '"' not in spoken[i]]
        strange = "".join(rng.choices(STRANGE_LETTERS, k=rng.randint(1, 6)))
        if own and rng.random() < 0.5:
            spoken[rng.choice(own)] = strange
        else:
            spoken.insert(rng.choice(free), strange)
        return replace(words, text=" ".join(spoken))

    def draw(self, rng: Random) -> frozenset[Role]:
        """The roles one sample loses."""
        x = rng.random()
        if x < self.prompt:
            return PROMPT_ROLES
        return CONDITION_ROLES if x < self.prompt + self.all else frozenset()


KEEP_ALL = ConditionDropout(0.0, 0.0)


def bind_sample(
    binder: Binder, words: Words, media: Sequence[MediumFeatures], target: Tensor | None, dropped: frozenset[Role] = frozenset()
) -> Sample:
    """The sample of a record's words with its media encoded to `media`, and its target to the latent `target` (t, h, w, C).

    `dropped` roles are left out if something is generated; an answer always keeps its question.
    """
    task = words.definition
    grid = None if target is None else _grid(target)
    segments = binder.bind(task, words.text, [medium.grids() for medium in media], grid, words.system)
    branches = [0] * len(segments)
    if words.answer is not None:
        segments += binder.answer(words.answer)
        shared = len(segments) - len(binder.prompt(words.text)) - 1
        branches = [0 if i < shared or not words.more else 1 for i in range(len(segments))]
        for number, (question, answer) in enumerate(words.more, 2):
            asked = [*binder.prompt(question), *binder.answer(answer)]
            segments += asked
            branches += [number] * len(asked)
    else:
        segments = without(segments, dropped)
        branches = [0] * len(segments)
    features = tuple(_fill(segment, media, target) for segment in segments)
    return Sample(task.name, tuple(segments), features, tuple(branches))


def _fill(segment: Segment, media: Sequence[MediumFeatures], target: Tensor | None) -> Tensor | None:
    if segment.kind is Kind.TEXT:
        return None
    if segment.medium is not None:
        return media[segment.medium].of(segment.kind)
    assert target is not None
    return target.flatten(0, 2)


def _grid(features: Tensor | None) -> Grid | None:
    if features is None:
        return None
    t, h, w, _ = features.shape
    return t, h, w
