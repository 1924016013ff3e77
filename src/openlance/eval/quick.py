"""The same suites in the small, for a look at a model while it trains: a number a suite in about a minute, and a sheet of samples."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.eval.answerers import ModelAnswerer
from openlance.eval.rounds import Item, items_of, play
from openlance.eval.scores import marks
from openlance.eval.sheet import label, sheet, strip
from openlance.eval.suite import SEEN, Cell, Suite, find_suites, second

if TYPE_CHECKING:
    from openlance.pipeline import Lance

QUICK = ("generate", "word", "dense", "video", "animate", "edit", "videoedit", "subject", "ask", "askvideo", "ocr", "caption", "multiturn")
QUICK_SEED = 900
"""Training looks at other examples than the final evaluation, whose seed is 0."""
STEPS = 8
CLIP_SHARE = 4
"""Suites of clips take this part of the examples: they cost that much more."""
SHOWN = 2


def quick_scores(
    lance: "Lance", n: int = 16, seed: int = QUICK_SEED, suites: Sequence[str] = QUICK, ring: int = 1, sheet_path: Path | None = None
) -> dict[str, float]:
    """Mean score of each suite on `n` prompts of the seen split (a quarter for clips), categories taking turns, 8 denoising steps.

    Keys: "suite", stories also "suite/after turn k". `sheet_path`: where to write a PNG of some samples with what is wrong with them.
    Same arguments, same prompts and noise, so numbers along a training run can be compared.
    """
    answerer = ModelAnswerer(lance, {"num_inference_steps": STEPS})
    scores: dict[str, list[float]] = {}
    shown: list[tuple[Any, str]] = []
    for suite in find_suites(list(suites)):
        items = _items(suite, n, seed, ring)
        for place, played in enumerate(play(items, answerer)):
            found = marks(played, detailed=False)
            for mark in found:
                scores.setdefault(suite.name if len(found) == 1 else f"{suite.name}/{mark.label}", []).append(mark.score)
            if place < SHOWN * len(suite.categories) and place < 6:
                shown.append((strip(played), label(played, found)))
    if sheet_path is not None and shown:
        temporary = sheet_path.with_name(f".{sheet_path.stem}.tmp.png")
        sheet([tile for tile, _ in shown], [text for _, text in shown]).save(temporary)
        temporary.replace(sheet_path)
    return {name: sum(values) / len(values) for name, values in scores.items()}


def _items(suite: Suite, n: int, seed: int, ring: int) -> list[Item]:
    """Prompts of one cell in which all categories take turns."""
    cell = Cell(suite, second(SEEN) if ring == 2 else replace(SEEN, ring=ring), suite.categories)
    first = items_of(cell, 1, seed, 1)[0].example().turns[0]
    clips = [*first.inputs, *([first.target] if first.target else [])]
    count = max(1, n // CLIP_SHARE) if any(medium.num_frames > 1 for medium in clips) else n
    return items_of(cell, count, seed, 1)
