"""What a model card knows of training: the runs as their folders tell them."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openlance.errors import LanceError
from openlance.nano.card_curves import Points

LOG_NAMES = ("metrics.jsonl", "log.jsonl")


@dataclass(frozen=True)
class Stage:
    """A training run as its folder tells it: report lines, and scores on held-out prompts. Steps of stage four are iterations."""

    name: str
    lines: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    began_from: str | None = None
    """The checkpoint that its recipe went on from, if it did."""
    rewarded: bool = False
    """Whether it learned from rewards, in stage four."""
    average: tuple[tuple[str, float], ...] = ()
    """Where it is no training but an average: the two models and their shares."""

    @classmethod
    def read(cls, folder: Path) -> "Stage":
        """Raises LanceError where the folder has no metrics and is no average."""
        recipe = folder / "recipe.json"
        values = json.loads(recipe.read_text(encoding="utf-8")) if recipe.exists() else {}
        if "average" in values:
            shares = (1 - values["share"], values["share"])
            return cls(folder.name, [], [], average=tuple(zip(map(_run_name, values["average"]), shares, strict=True)))
        path = next((folder / name for name in LOG_NAMES if (folder / name).exists()), None)
        if path is None:
            raise LanceError(f"{folder} has none of {', '.join(LOG_NAMES)}: pass folders of training runs")
        scores = _read_lines(folder / "scores.jsonl") or _evaluations(_read_lines(folder / "evaluations.jsonl"))
        lines = _last_of_each_step(_read_lines(path))
        return cls(folder.name, lines, scores, values.get("model", {}).get("checkpoint"), "rewards" in values)

    def series(self, key: str) -> list[tuple[float, float]]:
        """(step, value) wherever a line has the key."""
        return [(line["step"], line[key]) for line in self.lines if key in line]

    def score_series(self) -> dict[str, Points]:
        """(step, value) of every score."""
        names = [name for name in dict.fromkeys(key for line in self.scores for key in line) if name not in ("step", "seconds")]
        return {name: [(line["step"], line[name]) for line in self.scores if name in line] for name in names}

    @property
    def hours(self) -> float | None:
        """Hours of training, None where the run did not write them down; of iterations without the evaluations between them."""
        minutes: list[float] = [line["minutes"] for line in self.lines if "minutes" in line]
        if minutes:
            return max(minutes) / 60
        seconds: list[float] = [sum(line["seconds"].values()) for line in self.lines if "seconds" in line]
        return sum(seconds) / 3600 if seconds else None


def _run_name(model: str) -> str:
    """What made a model: the run whose folder it is in, or else the model itself."""
    path = Path(model)
    return path.parent.name if path.name == "model" else model


def _read_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def _last_of_each_step(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A resumed run repeats steps: its last word on each counts."""
    return [{**line, "step": step} for step, line in sorted({_step(line): line for line in lines}.items())]


def _step(line: dict[str, Any]) -> int:
    return int(line["step"] if "step" in line else line["iteration"])


def _evaluations(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines of stage four, one for each of its evaluations, as one for each iteration."""
    merged: dict[int, dict[str, Any]] = {}
    for line in lines:
        numbers = {f"{line['evaluation']} {key}": value for key, value in line.items() if key not in ("iteration", "evaluation")}
        merged.setdefault(_step(line), {"step": _step(line)}).update(numbers)
    return list(merged.values())
