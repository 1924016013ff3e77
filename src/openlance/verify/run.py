"""Run every case of a folder and collect what came out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openlance.errors import CheckpointError, LanceError
from openlance.sequence.tasks import find_task
from openlance.verify.check import Check
from openlance.verify.golden import Case, Golden


@dataclass(frozen=True)
class CaseReport:
    """What one case gave. `error`: why it could not be run to its end."""

    name: str
    checks: tuple[Check, ...] = ()
    rest: tuple[str, ...] = ()
    """Names of entries that were neither inputs nor compared."""
    error: str | None = None
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return self.error is None and all(check.status != "fail" for check in self.checks)


@dataclass
class Report:
    """All cases of a run."""

    folder: Path
    cases: list[CaseReport] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return bool(self.cases) and all(case.passed for case in self.cases)

    def to_dict(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "passed": self.passed,
            "cases": [
                {
                    "case": case.name,
                    "passed": case.passed,
                    "seconds": round(case.seconds, 3),
                    "error": case.error,
                    "checks": [check.to_dict() for check in case.checks],
                    "not_compared": list(case.rest),
                }
                for case in self.cases
            ],
        }


def checker_of(case: Case) -> Callable[[Golden, Case], None]:
    """The function that compares a case, told by what the case holds. Raises CheckpointError for an unknown form."""
    from openlance.verify import encoders, generation, tables, training, understanding

    if "task" in case.scalars:
        answers = find_task(case.scalars["task"]).output == "text"
        return understanding.check_understanding if answers else generation.check_generation
    marks: Iterable[tuple[bool, Callable[[Golden, Case], None]]] = (
        ("samples" in case.scalars, training.check_training),
        ("embeds" in case.tensors, encoders.check_vision),
        ("mean48" in case.scalars or bool(case.numbered("in_u8.")), encoders.check_autoencoder),
        ("presets" in case.scalars, tables.check_transforms),
        ("rows" in case.scalars, tables.check_frame_sampling),
        ("special_ids" in case.scalars or "schedules" in case.scalars, tables.check_tables),
    )
    found = next((check for holds, check in marks if holds), None)
    if found is None:
        raise CheckpointError(f"case {case.name} is of no known form: it holds {sorted({*case.scalars, *case.tensors})[:8]}")
    return found


def verify_case(golden: Golden, folder: Path) -> CaseReport:
    """Run one case. Whatever goes wrong inside is part of its report."""
    started = time.perf_counter()
    case = None
    error = None
    try:
        case = Case.load(folder)
        checker_of(case)(golden, case)
        if not case.checks:
            error = "nothing in it could be compared"
    except Exception as failure:  # one broken case must not hide the others
        error = str(failure) if isinstance(failure, LanceError) else f"{type(failure).__name__}: {failure}"
    seconds = time.perf_counter() - started
    if case is None:
        return CaseReport(folder.name, error=error, seconds=seconds)
    return CaseReport(case.name, tuple(case.checks), tuple(case.rest()), error, seconds)


def verify(folder: Path, pattern: str = "*", device: str = "cpu") -> Iterator[CaseReport]:
    """Reports of all matching cases of `folder`, as they finish.

    Raises CheckpointError if the folder is no checkpoint or no case matches.
    """
    golden = Golden(folder, device)
    if not folder.is_dir():
        raise CheckpointError(f"there is no folder '{folder}': pass a checkpoint folder with cases in it")
    cases = list(golden.cases(pattern))
    if not cases:
        known = ", ".join(path.name for path in golden.cases()) or "none"
        raise CheckpointError(f"no case in {folder} matches '{pattern}': it has {known}")
    return (verify_case(golden, path) for path in cases)
