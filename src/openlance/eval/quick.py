"""The same suites in the small, for a look at a model while it trains: a number a suite in about a minute, and a sheet of samples."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.eval.answerers import ModelAnswerer
from openlance.eval.rounds import Item, items_of, play
from openlance.eval.scores import marks
from openlance.eval.sheet import label, sheet, strip
from openlance.eval.suite import Cell, Suite, find_suites
from openlance.files import whole_file
from openlance.sequence.segment import Kind
from openlance.sequence.tasks import find_task

if TYPE_CHECKING:
    from openlance.pipeline import Lance

QUICK = (
    "generate", "generate2", "word", "dense", "video", "animate", "edit", "videoedit", "subject", "ask", "askvideo", "ocr", "caption",
    "multiturn",
)  # fmt: skip
QUICK_SEED = 900
"""Training looks at other examples than the final evaluation, whose seed is 0."""
STEPS = 8
ANSWER_TOKENS = 64
CLIP_SHARE = 4
"""Suites of clips take this part of the examples: they cost that much more."""
SHOWN = 2


def quick_scores(
    lance: "Lance",
    n: int = 16,
    seed: int = QUICK_SEED,
    suites: Sequence[str] = QUICK,
    sheet_path: Path | None = None,
    steps: int = STEPS,
) -> dict[str, float]:
    """Mean score of each suite on `n` prompts of its first setting (a quarter for clips), categories taking turns, in `steps` steps.

    Suites that look at pictures are left out while the model has no vision encoder. Keys: the suite, of stories "suite/after turn k".
    `sheet_path`: where to write a PNG of some samples with what is wrong with them.
    Same arguments, same prompts and noise, so numbers along a training run can be compared.
    """
    answerer = ModelAnswerer(lance, {"num_inference_steps": steps, "max_new_tokens": ANSWER_TOKENS})
    scores: dict[str, list[float]] = {}
    shown: list[tuple[Any, str]] = []
    for suite in find_suites(list(suites)):
        items = _items(suite, n, seed)
        if not _able(lance, items[0]):
            continue
        for place, played in enumerate(play(items, answerer)):
            found = marks(played, detailed=False)
            for mark in found:
                scores.setdefault(suite.name if len(found) == 1 else f"{suite.name}/{mark.label}", []).append(mark.score)
            if place < SHOWN * len(suite.categories) and place < 6:
                shown.append((strip(played), label(played, found)))
    if sheet_path is not None and shown:
        with whole_file(sheet_path) as temporary:
            sheet([tile for tile, _ in shown], [text for _, text in shown]).save(temporary, format="PNG")
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _items(suite: Suite, n: int, seed: int) -> list[Item]:
    """Prompts of one cell in which all categories take turns."""
    cell = Cell(suite, suite.settings[0], suite.categories)
    turns = items_of(cell, 1, seed, 1)[0].example().turns
    clips = [medium for turn in turns for medium in (*turn.inputs, *([turn.target] if turn.target else []))]
    return items_of(cell, max(1, n // CLIP_SHARE) if any(medium.num_frames > 1 for medium in clips) else n, seed, 1)


def _able(lance: "Lance", item: Item) -> bool:
    """Whether the model has what the turns of an item need."""
    kinds = {kind for turn in item.example().turns for kind in find_task(turn.task).blocks}
    return lance.model.vision is not None or Kind.VISION not in kinds


def watch(folder: Path, step: int) -> None:
    """Hook of a training run: score the model exported to `folder`, append to scores.jsonl beside it, write samples.png there."""
    from openlance.pipeline import Lance

    started = time.monotonic()
    scores = quick_scores(Lance.from_pretrained(folder), sheet_path=folder.parent / "samples.png")
    line = {"step": step, "seconds": round(time.monotonic() - started, 1), **{name: round(value, 4) for name, value in scores.items()}}
    with (folder.parent / "scores.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print("  ".join(f"{name} {value}" for name, value in line.items()), flush=True)
