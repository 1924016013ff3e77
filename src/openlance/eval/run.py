"""The one runner of all suites: items in chunks through an answerer and the judge, every chunk on disk before the next begins."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openlance.eval.answerers import Answerer
from openlance.eval.records import Record, RecordFile
from openlance.eval.rounds import Item, Played, items_of, play
from openlance.eval.scores import marks
from openlance.eval.sheet import label, strip
from openlance.eval.suite import Suite
from openlance.media.clip import Clip

CHUNK = 32
FAILURES = 4
"""Failures of a cell that are kept as pictures."""
FAILED = 0.5

OnChunk = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Evaluation:
    """What to evaluate and where to keep it. `n`: prompts a cell. `seed`: which stretch of the evaluation range they come from."""

    suites: Sequence[Suite]
    n: int
    seed: int
    folder: Path

    def file(self, suite: Suite) -> RecordFile:
        """The records of a suite."""
        folder = self.folder / "records"
        folder.mkdir(parents=True, exist_ok=True)
        return RecordFile(folder / f"{suite.name}.jsonl")

    def items(self, suite: Suite, pictures: int | None = None) -> list[Item]:
        """Everything there is to answer of a suite."""
        return [item for cell in suite.cells for item in items_of(cell, self.n, self.seed, pictures)]


def run(evaluation: Evaluation, model: Answerer, bounds: Sequence[Answerer] = (), on_chunk: OnChunk | None = None) -> None:
    """Answer and judge everything that has no record yet: by the model, and one picture a prompt by each of the `bounds`.

    `on_chunk(what, done, total)` hears after every chunk. Interrupt it at any time and call it again.
    """
    for suite in evaluation.suites:
        file = evaluation.file(suite)
        for role, answerer in (("model", model), *((bound.name, bound) for bound in bounds)):
            items = evaluation.items(suite, None if role == "model" else 1)
            missing = [item for item in items if (role, item.key) not in file.records]
            for start in range(0, len(missing), CHUNK):
                played = play(missing[start : start + CHUNK], answerer)
                for one in played:
                    file.add(_record(role, one, evaluation.folder, file))
                if on_chunk:
                    on_chunk(f"{suite.name}, {role}", len(items) - len(missing) + start + len(played), len(items))


def _record(role: str, played: Played, folder: Path, file: RecordFile) -> Record:
    item, found = played.item, marks(played)
    media = any(isinstance(answer, Clip) for answer in played.answers)
    kept = None
    if role == "model" and found[-1].score < FAILED and _failures(file)[item.cell.key] < FAILURES:
        kept = _keep(played, folder)
    return Record(role, item.key, played.example.category, tuple(found), media, kept, label(played, found) if kept else None)


def _failures(file: RecordFile) -> Counter[str]:
    """Failures kept of each cell."""
    return Counter(record.key.rsplit("/", 2)[0] for record in file.records.values() if record.strip)


def _keep(played: Played, folder: Path) -> str:
    """Write the strip of a failure; returns its file relative to the folder."""
    name = Path("failures") / (re.sub(r"[^a-z0-9]+", "-", played.item.key.lower()) + ".png")
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Clip.from_image(strip(played)).save(folder / name)
    return str(name)
