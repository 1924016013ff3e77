"""Fixtures shared by every test: where the golden numbers are and how a case of them is read."""

import json
import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from safetensors.torch import load_file

torch.set_num_threads(1)
ROOT = Path(__file__).resolve().parent.parent


def find_golden() -> Path:
    """Folder of golden numbers: OPENLANCE_GOLDEN, else ../shared/golden, else the small copy in the repository."""
    for candidate in (os.environ.get("OPENLANCE_GOLDEN"), ROOT.parent / "shared" / "golden", ROOT / "tests" / "golden"):
        if candidate and (Path(candidate) / "spec.json").exists():
            return Path(candidate).resolve()
    raise FileNotFoundError("no golden folder: set OPENLANCE_GOLDEN")


class GoldenCase:
    """One case: `case.json` as attributes by [] and its tensors by .tensor(name)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scalars: dict[str, Any] = json.loads((folder / "case.json").read_text())
        self.tensors = load_file(folder / "tensors.safetensors")

    def __getitem__(self, key: str) -> Any:
        return self.scalars[key]

    def __contains__(self, key: str) -> bool:
        return key in self.scalars

    def tensor(self, name: str) -> torch.Tensor:
        if name not in self.tensors:
            pytest.skip(f"{name} of golden case {self.folder.name} is not in the small copy")
        return self.tensors[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


# Machines differ in speed, and a shared one stalls: an example may take as long as it needs.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


@pytest.fixture(scope="session")
def full_golden() -> None:
    """For tests of texts and raw media, which the small copy leaves out; tests/verify covers what the copy holds."""
    if find_golden() == (ROOT / "tests" / "golden").resolve():
        pytest.skip("the small copy of the golden numbers has no texts and raw media")


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    return find_golden()


@pytest.fixture(scope="session")
def golden(golden_dir: Path):
    def load(case: str) -> GoldenCase:
        folder = golden_dir / case
        if not folder.exists():
            pytest.skip(f"golden case {case} is not in {golden_dir}")
        return GoldenCase(folder)

    return load


@pytest.fixture(scope="session")
def golden_media(golden_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(golden_dir / "media.safetensors")
