"""Prompts to practise on: drawn from the synthetic world, or the lines of a file. The k-th prompt of a source is always the same."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from openlance.errors import LanceError
from openlance.sequence.tasks import find_task
from openlance.world.draw import Setting
from openlance.world.examples import Turn
from openlance.world.splits import SPLITS
from openlance.world.tasks import CATEGORIES, make_example

QUOTED = re.compile(r"[\"“”]([^\"“”]+)[\"“”]")


@dataclass(frozen=True)
class Prompt:
    """What one group of samples is drawn from. `turn`: the example of the world it belongs to, with the facts it determines."""

    text: str
    task: str = "t2i"
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    turn: Turn | None = None
    category: str = ""

    @property
    def words(self) -> str:
        """What must be written in the picture: the quoted parts of the prompt, joined by spaces; empty for none."""
        return " ".join(QUOTED.findall(self.text))


@dataclass(frozen=True)
class PromptSource:
    """Exactly one of `world` (shares of categories) and `file`: JSON lines with `text` and, if wanted, height, width, num_frames.

    Lines of a file are taken in seeded order, again and again.
    """

    task: str = "t2i"
    world: dict[str, float] | None = None
    file: Path | None = None
    height: int | None = None
    width: int | None = None
    num_frames: int | None = None
    split: str = "train"
    """Of the world: train, or a held-out one."""
    ring: int = 1
    first: int = 0
    """Index of the first example of the world, so that practice does not repeat what training showed."""

    def __post_init__(self) -> None:
        if (self.world is None) == (self.file is None):
            raise LanceError("prompts need exactly one of world (shares of its categories) and file (JSON lines)")
        task = find_task(self.task)
        if task.output == "text" or task.media[1]:
            raise LanceError(f"prompts.task '{self.task}' must make a picture or a clip from words alone")
        unknown = sorted(set(self.world or {}) - set(CATEGORIES.get(self.task, {})))
        if unknown or self.split not in SPLITS:
            known = list(CATEGORIES.get(self.task, {}))
            raise LanceError(f"the world has no {', '.join(unknown) or self.split} for {self.task}: categories {known}, splits {SPLITS}")
        if self.world is not None and (min(self.world.values(), default=0) < 0 or sum(self.world.values()) <= 0):
            raise LanceError(f"prompts.world {self.world}: shares must be at least 0 and one above it")

    def prompt(self, index: int, seed: int = 0) -> Prompt:
        """The index-th prompt."""
        return self._of_world(index, seed) if self.world is not None else self._of_file(index, seed)

    def _of_world(self, index: int, seed: int) -> Prompt:
        shares = self.world or {}
        (category,) = Random(f"{seed}/category/{index}").choices(list(shares), list(shares.values()))
        sizes = {k: v for k in ("height", "width", "num_frames") if (v := getattr(self, k)) is not None}
        setting = replace(Setting(ring=self.ring, split=self.split), **sizes)
        turn = make_example(self.task, category, self.first + index, setting).turns[0]
        assert turn.target is not None
        frames = turn.target.num_frames if turn.target.num_frames > 1 else None
        return Prompt(turn.text, turn.task, turn.target.height, turn.target.width, frames, turn, category)

    def _of_file(self, index: int, seed: int) -> Prompt:
        assert self.file is not None
        lines = _read(self.file)
        order = list(range(len(lines)))
        epoch, place = divmod(index, len(lines))
        Random(f"{seed}/{epoch}").shuffle(order)
        given: dict[str, Any] = {"height": self.height, "width": self.width, "num_frames": self.num_frames, **lines[order[place]]}
        return Prompt(task=self.task, **given)


@cache
def _read(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.exists():
        raise LanceError(f"prompts.file: no file {path}")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            raise LanceError(f"{path} line {number} is not JSON: {error}") from error
        known = {"text": str, "height": int, "width": int, "num_frames": int}
        if not isinstance(value, dict) or "text" not in value or any(not isinstance(v, known.get(k, type(None))) for k, v in value.items()):
            raise LanceError(f"{path} line {number} must be an object with text and, if wanted, height, width, num_frames: {line[:80]}")
        found.append(value)
    if not found:
        raise LanceError(f"{path} holds no prompt: write one JSON object with text a line")
    return tuple(found)
