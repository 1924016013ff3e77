"""Every recorded case, of the full folder and of the small copy in the repository, through the verifier."""

import json
from functools import cache
from pathlib import Path

import pytest

from openlance.verify.golden import Case, Golden
from openlance.verify.run import CaseReport, verify_case
from tests.conftest import ROOT, find_golden

SMALL = ROOT / "tests" / "golden"
FOLDERS = {"found": find_golden(), "small": SMALL}
CASES = [
    pytest.param(path, id=f"{name}-{path.name}")
    for name, folder in FOLDERS.items()
    if name == "found" or folder != FOLDERS["found"]
    for path in Golden(folder).cases()
]


@cache
def folder_of(path: Path) -> Golden:
    """One model for all cases of a folder."""
    return Golden(path)


@cache
def report_of(path: Path) -> CaseReport:
    return verify_case(folder_of(path.parent), path)


@pytest.mark.parametrize("path", CASES)
def test_case(path: Path) -> None:
    report = report_of(path)
    wrong = [f"{check.name}: {check.error:.2e} > {check.tolerance:.0e} {check.note}" for check in report.checks if check.status == "fail"]
    assert report.error is None
    assert not wrong
    assert any(check.status == "pass" for check in report.checks)
    intended = {check.name for check in report.checks if check.status == "intended"}
    assert not intended or path.name.startswith(("quirk_", "frame_sampler"))


def test_every_tensor_of_a_case_is_compared_or_an_input() -> None:
    left = {}
    for path in folder_of(FOLDERS["found"]).cases():
        missing = sorted(set(report_of(path).rest) & set(Case.load(path).tensors))
        if missing:
            left[path.name] = missing
    assert not left


def test_small_copy_is_small_and_holds_no_prompt() -> None:
    assert sum(path.stat().st_size for path in SMALL.rglob("*") if path.is_file()) <= 12_000_000
    for path in SMALL.glob("*/case.json"):
        values = json.loads(path.read_text(encoding="utf-8"))
        for entry in (values, *values.get("samples", ())):
            assert not {"rendered_text", "prompt", "entries", "caption", "prompt_text", "system_prompts"} & set(entry), path
            assert all(isinstance(token, int) for ids in entry.get("texts", {}).values() for token in ids), path
