"""What any model made of exported examples, as files in a folder, scored as the suites score the models that run here."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openlance.errors import LanceError
from openlance.eval.answerers import Answer, clip_of
from openlance.eval.rounds import Item, Played
from openlance.eval.scores import Mark, marks
from openlance.eval.suite import SEEN, SUITES, Cell, Suite
from openlance.media.clip import Clip
from openlance.sequence.tasks import find_task
from openlance.world.examples import Example, Turn
from openlance.world.splits import SPLITS
from openlance.world.tasks import CATEGORIES

RESULTS = "results.jsonl"
"""Where `openlance batch` writes answers."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".mp4", ".webm", ".mov", ".txt")


@dataclass(frozen=True)
class Judged:
    """An example with a mark for every turn, or with the name of the first output that is not there."""

    example: Example
    marks: tuple[Mark, ...] = ()
    missing: str | None = None


def read_examples(path: Path) -> list[Example]:
    """The examples of a file that `openlance world sample` wrote. Raises LanceError naming the line that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LanceError(f"{path} cannot be read ({error}): write one with  openlance world sample") from error
    examples = []
    for number, line in enumerate(lines, 1):
        try:
            example = Example.from_dict(json.loads(line))
            known = example.category in CATEGORIES.get(example.task, {}) and example.split in SPLITS and len(example.turns) > 0
        except LanceError as error:
            raise LanceError(f"{path}, line {number}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LanceError(
                f"{path}, line {number} is no example of the world ({error!r}): write it with  openlance world sample"
            ) from error
        if not known or not isinstance(example.seed, int):
            told = ", ".join(repr(part) for part in (example.task, example.category, example.split, example.seed))
            raise LanceError(f"{path}, line {number}: the world has no example {told}")
        examples.append(example)
    return examples


def judge_outputs(examples: list[Example], folder: Path) -> Iterator[Judged]:
    """Every example with the marks of its outputs in `folder`.

    The output of a turn is a file of its name (`Example.names`), a text also a line of results.jsonl, as `openlance batch` writes them.
    Each turn of a story is judged beside what came of the turn before. Raises LanceError for a folder that is none, or for a file that
    is not what the turn asks for.
    """
    if not folder.is_dir():
        raise LanceError(f"{folder} is no folder: give the one with the outputs, a file each, named by the ids of requests.jsonl")
    texts = _texts(folder / RESULTS)
    for example in examples:
        missing = next((name for name in example.names if name not in texts and _file(folder, name) is None), None)
        yield Judged(example, missing=missing) if missing else Judged(example, tuple(marks(_played(example, folder, texts))))


def _played(example: Example, folder: Path, texts: Mapping[str, str]) -> Played:
    answers: list[Answer] = []
    given: list[tuple[Clip, ...]] = []
    for name, turn in zip(example.names, example.turns, strict=True):
        last = next((answer for answer in reversed(answers) if isinstance(answer, Clip)), None)
        given.append((last,) if last is not None and turn.inputs else tuple(clip_of(medium) for medium in turn.inputs))
        answers.append(_answer(name, turn, folder, texts))
        _check_size(name, turn, given[-1], answers[-1])
    cell = Cell(_suite(example), SEEN, (example.category,))
    return Played(Item(cell, 0, example.seed), example, tuple(given), tuple(answers))


def _suite(example: Example) -> Suite:
    """A suite of this category alone, scored as that which has it, or else as one of its task."""
    same = [suite for suite in SUITES.values() if suite.task == example.task]
    first = next((suite for suite in same if example.category in suite.categories), same[0])
    return Suite("outputs", "", example.task, (example.category,), score=first.score)


def _answer(name: str, turn: Turn, folder: Path, texts: Mapping[str, str]) -> Answer:
    from openlance.media import read_image, read_video

    path = _file(folder, name)
    if turn.target is None:
        if name in texts:
            return texts[name]
        if path is None or path.suffix != ".txt":
            raise LanceError(f"{path} should be the text of an answer: write {name}.txt, or a line of {RESULTS}")
        return path.read_text(encoding="utf-8", errors="replace").strip()
    if path is None or path.suffix == ".txt":
        raise LanceError(f"'{name}' asks for pixels and has a text: write a picture or a clip of that name")
    return read_image(path) if turn.target.num_frames == 1 else read_video(path)


def _check_size(name: str, turn: Turn, given: tuple[Clip, ...], answer: Answer) -> None:
    """An edit is compared with its source pixel by pixel."""
    if isinstance(answer, Clip) and find_task(turn.task).keeps_size:
        made, source = answer.frames.shape, given[0].frames.shape
        if made != source:
            sizes = [f"{shape[2]}x{shape[1]} of {shape[0]} frames" for shape in (made, source)]
            raise LanceError(f"'{name}' is {sizes[0]} and what it changes {sizes[1]}: an edit keeps the size")


def _file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _texts(path: Path) -> dict[str, str]:
    """Answers of results.jsonl by id; of a file that is not there, none."""
    if not path.is_file():
        return {}
    found: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        try:
            values: Any = json.loads(line)
            if isinstance(values.get("text"), str):
                found[str(values["id"])] = values["text"]
        except (ValueError, KeyError, AttributeError) as error:
            raise LanceError(f"{path}, line {number} is no result of openlance batch ({error!r})") from error
    return found
