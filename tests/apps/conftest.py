"""A tiny checkpoint with wording of its own, and the command line run in this process."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from openlance.apps.cli import main
from openlance.sequence.bind import Binder
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import Tokenizer
from openlance.weights.hub import resolve
from openlance.weights.load import load_checkpoint
from openlance.weights.save import save_pretrained

SMALL = ("--height", "32", "--width", "32", "--num-inference-steps", "2")


@pytest.fixture(scope="session")
def checkpoint(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden weights in our own layout, float32, with our own wording."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    model = load_checkpoint(resolve(golden_dir), dtype=torch.float32)
    save_pretrained(model, Binder(Tokenizer.load(golden_dir), OWN_WORDING), folder)
    return folder


@dataclass(frozen=True)
class Run:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def results(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


Cli = Callable[..., Run]


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Run:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        return Run(code, captured.out, captured.err)

    return run


@pytest.fixture
def tiny(checkpoint: Path, cli: Cli) -> Cli:
    """Runs a command with the tiny checkpoint on the CPU."""

    def run(command: str, *arguments: object) -> Run:
        return cli(command, *arguments, "--model", checkpoint, "--device", "cpu", "--dtype", "float32")

    return run
