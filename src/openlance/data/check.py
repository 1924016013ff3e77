"""Checking a file of records: every line read, every medium decoded, what fails counted and named."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

from openlance.data.files import open_records
from openlance.data.jsonl import parse
from openlance.data.records import Record, RecordError
from openlance.errors import LanceError
from openlance.media.clip import Clip

KEPT_MEDIA = 24


@dataclass
class CheckReport:
    """What a check found."""

    good: int = 0
    failures: list[str] = field(default_factory=list)
    tasks: Counter[str] = field(default_factory=Counter)
    media: list[tuple[Clip, str]] = field(default_factory=list)
    """The first media with their labels, for a contact sheet."""


def check_records(path: Path, limit: int | None = None) -> CheckReport:
    """Read and decode the first `limit` records of a JSONL or parquet file (default: all). Raises RecordError if there is no such file."""
    if not path.exists():
        raise RecordError(f"no file {path}")
    report = CheckReport()
    for name, read in islice(_readers(path), limit):
        _check(report, name, read)
    return report


def _readers(path: Path) -> Iterator[tuple[str, Callable[[], Record]]]:
    """What to call each record of a file, and how to read it."""
    if path.suffix == ".parquet":
        records = open_records(path)
        yield from ((f"record {i}", partial(records.__getitem__, i)) for i in range(len(records)))
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield f"line {number}", partial(_parse_line, line, path, number)


def _parse_line(line: str, path: Path, number: int) -> Record:
    return parse(json.loads(line), path.parent, f"{path.name}:{number}")


def _check(report: CheckReport, name: str, read: Callable[[], Record]) -> None:
    try:
        record = read()
        clips = [medium.clip() for medium in (*record.media, *([record.target] if record.target else []))]
    except (LanceError, ValueError, TypeError, KeyError, OSError) as error:
        report.failures.append(f"{name}: {error}")
        return
    report.good += 1
    report.tasks[record.task] += 1
    for clip in clips[: max(0, KEPT_MEDIA - len(report.media))]:
        report.media.append((clip, _label(record)))


def _label(record: Record) -> str:
    return f"{record.id} {record.task}: {record.text}"[:60]
