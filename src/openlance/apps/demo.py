"""Everything once: every task of the model on held-out examples of the world, timed and judged.

The exhibits are chosen by what they ask for, before any model has answered them; their seeds lie in the evaluation range, so no model
trained in the world has seen them. What comes out is shown as it is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.eval.answerers import Answer, Ask, ModelAnswerer, clip_of
from openlance.eval.rounds import Item, Played
from openlance.eval.scores import Mark, marks
from openlance.eval.suite import SEEN, Cell, Suite
from openlance.media.clip import Clip
from openlance.world.draw import Setting
from openlance.world.examples import Example, Turn
from openlance.world.tasks import make_example

if TYPE_CHECKING:
    from openlance.pipeline import Lance

FIRST_INDEX = 50_000_000
"""Index of exhibit 0: far from what `openlance eval` uses."""
SEED = 42
LEARNED = SEEN
"""What the embedded model has been trained on so far: the first ring. Its exhibits move to the second with it."""


@dataclass(frozen=True)
class Exhibit:
    """One example of the world to show."""

    task: str
    category: str
    number: int
    setting: Setting = LEARNED

    def example(self) -> Example:
        """The example, the same on every machine."""
        return make_example(self.task, self.category, FIRST_INDEX + self.number, self.setting)

    def item(self) -> Item:
        """The exhibit as the evaluation sees it."""
        score = "state" if len(self.example().turns) > 1 else "verdict"
        suite = Suite("demo", "demo", self.task, (self.category,), score=score)
        return Item(Cell(suite, self.setting, (self.category,)), 0, self.number)


@dataclass(frozen=True)
class Section:
    """Exhibits of one ability."""

    title: str
    about: str
    exhibits: tuple[Exhibit, ...]


SECTIONS = (
    Section(
        "Draw", "Pictures from words: colours, counts, places, written words, any size.",
        (
            Exhibit("t2i", "position", 1),
            Exhibit("t2i", "attribute", 4),
            Exhibit("t2i", "count", 5),
            Exhibit("t2i", "word", 0),
            Exhibit("t2i", "dense", 6, replace(LEARNED, height=256, width=256)),
            Exhibit("t2i", "free", 2, replace(LEARNED, height=96, width=192)),
        ),
    ),
    Section(
        "Film", "Clips of 17 frames from words, or from a first frame and words.",
        (
            Exhibit("t2v", "free", 6),
            Exhibit("t2v", "free", 3),
            Exhibit("t2v", "free", 7),
            Exhibit("i2v", "free", 1),
            Exhibit("i2v", "free", 7),
        ),
    ),
    Section(
        "Change", "Pictures and clips edited as told, the rest left alone.",
        (
            Exhibit("image_edit", "colour", 0),
            Exhibit("image_edit", "replace", 0),
            Exhibit("image_edit", "add", 2),
            Exhibit("image_edit", "remove", 6),
            Exhibit("image_edit", "background", 6),
            Exhibit("image_edit", "text", 5),
            Exhibit("video_edit", "colour", 6),
            Exhibit("video_edit", "background", 4),
        ),
    ),
    Section(
        "Keep a subject", "The object of one picture in a new picture or clip.",
        (Exhibit("subject_image", "free", 1), Exhibit("subject_video", "free", 3)),
    ),
    Section(
        "Look and answer", "Questions about pictures and clips: counting, comparing, reading, finding, describing.",
        (
            Exhibit("understand", "colour", 0),
            Exhibit("understand", "count", 4),
            Exhibit("understand", "compare", 7),
            Exhibit("understand", "ocr", 0),
            Exhibit("understand", "grounding", 5),
            Exhibit("understand", "caption full", 1),
            Exhibit("understand", "video direction", 1),
            Exhibit("understand", "video order", 5),
            Exhibit("understand", "video caption", 3),
        ),
    ),
    Section(
        "Converse", "Several turns about one picture; each starts from what the model itself made before.",
        (Exhibit("story", "four turns", 7), Exhibit("story", "four turns", 3)),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One turn as it went: files relative to the demo's folder."""

    turn: Turn
    inputs: tuple[Path, ...]
    answer: Answer
    output: Path | None
    seed: int
    seconds: float
    mark: Mark


@dataclass(frozen=True)
class Shown:
    """One exhibit as it went."""

    section: Section
    exhibit: Exhibit
    steps: tuple[Step, ...]


def run_demo(lance: Lance, folder: Path, sections: tuple[Section, ...] = SECTIONS) -> Iterator[Shown]:
    """Run the exhibits one by one, media as files in `folder`/media: the model reads its inputs from there and its outputs go there."""
    (folder / "media").mkdir(parents=True, exist_ok=True)
    answerer = ModelAnswerer(lance)
    for section in sections:
        for place, exhibit in enumerate(section.exhibits):
            name = f"{section.title.split()[0].lower()}-{place + 1}"
            yield Shown(section, exhibit, _steps(answerer, exhibit, folder, name))


def _steps(answerer: ModelAnswerer, exhibit: Exhibit, folder: Path, name: str) -> tuple[Step, ...]:
    item, example = exhibit.item(), exhibit.example()
    asks: list[Ask] = []
    answers: list[Answer] = []
    files: list[tuple[tuple[Path, ...], Path | None]] = []
    seconds: list[float] = []
    made: Path | None = None
    for k, turn in enumerate(example.turns):
        if made is not None and turn.inputs:
            paths: tuple[Path, ...] = (made,)
        else:
            paths = tuple(_write(clip_of(medium), folder, f"{name}-given-{i + 1}") for i, medium in enumerate(turn.inputs))
        ask = Ask(turn, tuple(answerer.lance.read(folder / path) for path in paths), SEED)
        started = time.perf_counter()
        (answer,) = answerer.answer([ask])
        seconds.append(time.perf_counter() - started)
        output = _write(answer, folder, f"{name}-made-{k + 1}") if isinstance(answer, Clip) else None
        made = output or made
        asks.append(ask)
        answers.append(answer)
        files.append((paths, output))
    found = marks(Played(item, example, tuple(ask.media for ask in asks), tuple(answers)), detailed=False)
    parts = zip(asks, files, answers, seconds, found, strict=True)
    return tuple(Step(ask.turn, paths, answer, output, ask.seed, taken, mark) for ask, (paths, output), answer, taken, mark in parts)


def _write(clip: Clip, folder: Path, name: str) -> Path:
    path = Path("media") / f"{name}.{'png' if clip.is_image else 'mp4'}"
    clip.save(folder / path)
    return path
