"""Records become a table: per category the score with its interval, beside what the judge gives the truth and its reconstruction."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from openlance.eval.records import Record
from openlance.eval.run import Evaluation
from openlance.eval.sheet import sheet
from openlance.eval.statistics import Estimate, estimate, mean_of
from openlance.eval.suite import Suite
from openlance.files import whole_file, write_json

SHEET_STRIPS = 32
FILE_WIDTH = 130


@dataclass(frozen=True)
class Row:
    """One line: a category (or a turn of a story) under one condition.

    `truth`, `reconstruction`: mean scores of the bounds, None where they were not run or have no pixels.

    `measures`: mean of each measure beside the score; `bounds`: the same of the truth.
    """

    suite: str
    condition: str
    category: str
    score: Estimate
    truth: float | None
    reconstruction: float | None
    measures: dict[str, float]
    bounds: dict[str, float]


@dataclass(frozen=True)
class Report:
    """All rows, and the mean of the categories of each suite and condition that has several."""

    run: dict[str, Any]
    rows: tuple[Row, ...]
    means: tuple[Row, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> "Report":
        """Inverse of `to_dict`."""
        rows, means = (tuple(Row(**{**row, "score": Estimate(**row["score"])}) for row in raw[name]) for name in ("rows", "means"))
        return cls(dict(raw["run"]), rows, means)

    def mean(self, suite: str, condition: str = "ring 1, seen") -> Row | None:
        """The mean of a suite under a condition, or its only row."""
        for rows in (self.means, self.rows):
            found = [row for row in rows if (row.suite, row.condition) == (suite, condition)]
            if len(found) == 1:
                return found[0]
        return None


def make_report(evaluation: Evaluation, run: dict[str, Any]) -> Report:
    """The report of everything of the evaluation that has records so far."""
    rows: list[Row] = []
    means: list[Row] = []
    for suite in evaluation.suites:
        records = evaluation.file(suite).records
        mine = [_row(suite, *key, marks) for key, marks in _grouped(evaluation, suite, records).items()]
        rows += mine
        for condition in dict.fromkeys(row.condition for row in mine):
            several = [row for row in mine if row.condition == condition]
            if len(several) > 1 and len(suite.categories) == len(several):
                means.append(_mean_row(suite, condition, several))
    return Report(run, tuple(rows), tuple(means))


Marked = dict[str, dict[str, list[tuple[float, dict[str, float]]]]]
"""answerer -> prompt -> (score, measures) of each picture"""


def _grouped(evaluation: Evaluation, suite: Suite, records: dict[tuple[str, str], Record]) -> dict[tuple[str, str], Marked]:
    """(condition, label) -> marks. Only prompts within the evaluation's n: a folder may hold more."""
    found: dict[tuple[str, str], Marked] = {}
    keys = {item.key: item for item in evaluation.items(suite)}
    for (answerer, key), record in records.items():
        if key not in keys or (answerer == "reconstruction" and not record.media):
            continue
        cell = keys[key].cell
        for mark in record.marks:
            marked = found.setdefault((cell.condition, mark.label), {})
            marked.setdefault(answerer, {}).setdefault(key.rsplit("/", 1)[0], []).append((mark.score, mark.measures))
    return found


def _row(suite: Suite, condition: str, category: str, marked: Marked) -> Row:
    model = marked.get("model", {})
    score = estimate([[score for score, _ in pictures] for pictures in model.values()])
    truth, reconstruction = (_mean_score(marked.get(name, {})) for name in ("truth", "reconstruction"))
    measures, bounds = _mean_measures(model), _mean_measures(marked.get("truth", {}))
    return Row(suite.name, condition, category, score, truth, reconstruction, measures, bounds)


def _mean_score(prompts: dict[str, list[tuple[float, dict[str, float]]]]) -> float | None:
    scores = [score for pictures in prompts.values() for score, _ in pictures]
    return sum(scores) / len(scores) if scores else None


def _mean_measures(prompts: dict[str, list[tuple[float, dict[str, float]]]]) -> dict[str, float]:
    values: dict[str, list[float]] = {}
    for pictures in prompts.values():
        for _, measures in pictures:
            for name, value in measures.items():
                values.setdefault(name, []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def _mean_row(suite: Suite, condition: str, rows: Sequence[Row]) -> Row:
    def plain(values: Iterable[float | None]) -> float | None:
        given = [value for value in values if value is not None]
        return sum(given) / len(given) if len(given) == len(rows) else None

    score = mean_of([row.score for row in rows])
    bounds = plain(row.truth for row in rows), plain(row.reconstruction for row in rows)
    return Row(suite.name, condition, f"mean of {len(rows)}", score, *bounds, {}, {})


def write_report(report: Report, evaluation: Evaluation) -> list[Path]:
    """Write report.json, and a contact sheet of the kept failures of each suite that has some. Returns the files."""
    paths = [evaluation.folder / "report.json"]
    write_json(paths[0], report.to_dict())
    for suite in evaluation.suites:
        failed = [record for record in evaluation.file(suite).records.values() if record.strip]
        if path := _failure_sheet(failed[:SHEET_STRIPS], evaluation.folder, suite):
            paths.append(path)
    return paths


def _failure_sheet(records: Sequence[Record], folder: Path, suite: Suite) -> Path | None:
    from openlance.media.read import read_image

    shown = [(read_image(folder / record.strip).frames[0], record.label or "") for record in records if record.strip]
    if not shown:
        return None
    path = folder / f"failures-{suite.name}.png"
    with whole_file(path) as temporary:
        sheet([strip for strip, _ in shown], [label for _, label in shown]).save(temporary, format="PNG")
    return path


def print_report(report: Report) -> None:
    """The scores, and in a second table the measures beside them, for people."""
    from rich.console import Console
    from rich.table import Table

    caption = "95 %: interval. truth, autoencoder: the judge's score of the right answers, and of them through the autoencoder."
    table = Table(title=f"{report.run['model']} in the world", caption=caption)
    for name in ("suite", "condition", "category", "score", "95 %", "n", "truth", "autoencoder"):
        table.add_column(name, justify="left" if name in ("suite", "condition", "category") else "right", no_wrap=True)
    last = ""
    for row in sorted([*report.rows, *report.means], key=lambda row: _order(row, report)):
        if row.suite != last:
            table.add_section()
        score = f"[bold]{row.score.mean:.3f}[/bold]" if row in report.means else f"{row.score.mean:.3f}"
        bounds = (_figure(row.truth), _figure(row.reconstruction))
        interval = f"{row.score.low:.3f}-{row.score.high:.3f}"
        table.add_row(row.suite if row.suite != last else "", row.condition, row.category, score, interval, str(row.score.scores), *bounds)
        last = row.suite
    console = Console()
    if not console.is_terminal:
        console.width = FILE_WIDTH
    console.print(table)
    if measured := list(_measured(report)):
        beside = Table(title="beside the scores: means over all categories of a suite")
        for name in ("suite", "condition", "measure", "model", "truth"):
            beside.add_column(name, justify="right" if name in ("model", "truth") else "left", no_wrap=True)
        for suite, condition, name, value, bound in measured:
            beside.add_row(suite, condition, name, f"{value:.4g}", "-" if bound is None else f"{bound:.4g}")
        console.print(beside)


def _measured(report: Report) -> Iterator[tuple[str, str, str, float, float | None]]:
    """(suite, condition, measure, mean of the model, mean of the truth)"""
    values: dict[tuple[str, str, str], tuple[list[float], list[float]]] = {}
    for row in report.rows:
        for name, value in row.measures.items():
            mine, truth = values.setdefault((row.suite, row.condition, name), ([], []))
            mine.append(value)
            truth += [row.bounds[name]] if name in row.bounds else []
    for key, (mine, truth) in values.items():
        yield *key, sum(mine) / len(mine), sum(truth) / len(truth) if truth else None


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _order(row: Row, report: Report) -> tuple[int, int]:
    """Suites in their order; each mean after the rows it is of."""
    places = [place for place, other in enumerate(report.rows) if (other.suite, other.condition) == (row.suite, row.condition)]
    return (report.rows.index(row), 0) if row in report.rows else (places[-1], 1)
