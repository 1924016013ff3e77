"""The loop learns, stops, goes on from where it was killed, and leaves out steps that are not finite."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from openlance.errors import CheckpointError, LanceError
from openlance.train import loop
from openlance.train.checkpoint import Checkpoints
from openlance.train.loop import train
from openlance.weights.load import load_pretrained
from tests.train.tiny import tiny_run


def final_state(folder: Path) -> dict[str, Any]:
    state = Checkpoints(folder / "checkpoints").load()
    assert state is not None
    return state


def curve(folder: Path) -> dict[int, tuple[float, float]]:
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: (line["loss"], line["gradient_norm"]) for line in lines}


def same_weights(a: Path, b: Path) -> bool:
    first, second = final_state(a)["optimizer"], final_state(b)["optimizer"]
    return all(torch.equal(x, y) for key in ("masters", "averages", "momenta") for x, y in zip(first[key], second[key], strict=True))


def test_it_learns_and_exports_the_averaged_model(tmp_path: Path) -> None:
    recipe = tiny_run(tmp_path, steps=16, save_minutes=5, optim={"learning_rate": 2e-2, "ema": 0.9})
    train(recipe)
    lines = [json.loads(line) for line in (recipe.output / "metrics.jsonl").read_text().splitlines()]
    for task in ("ce/understand", "mse/t2i"):
        losses = [line[task] for line in lines if task in line]
        assert sum(losses[-3:]) < 0.9 * sum(losses[:3]), task
    model, binder = load_pretrained(recipe.output / "model", dtype="float32", device="cpu")
    state = final_state(recipe.output)["optimizer"]
    average = state["averages"][state["names"].index("head.weight")]
    assert torch.equal(model.head.weight, average.bfloat16().float())
    assert len(binder.tokenizer) == 261


def test_a_step_attended_at_once_is_the_same_step(tmp_path: Path) -> None:
    reports = [train(tiny_run(tmp_path, steps=1, attention=way, output=str(tmp_path / way))) for way in ("fused", "flex")]
    assert abs(reports[0]["loss"] - reports[1]["loss"]) < 1e-5
    assert abs(reports[0]["gradient_norm"] - reports[1]["gradient_norm"]) < 1e-5


def test_curves_can_be_looked_at_in_tensorboard(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    train(tiny_run(tmp_path, steps=3))
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    assert {"loss", "gradient_norm", "tokens_per_second"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]


def test_killed_at_any_moment_it_ends_with_the_same_weights(tmp_path: Path) -> None:
    """kill -9 while it runs; what follows equals the run that was left alone, to the last bit."""
    recipe = tiny_run(tmp_path)
    train(recipe)
    whole, killed = tmp_path / "whole", tmp_path / "run"
    os.rename(killed, whole)
    command = [sys.executable, "-m", "openlance.train.loop", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3 "):
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert 2 <= max(Checkpoints(killed / "checkpoints").steps()) < 8
    train(recipe)
    assert same_weights(whole, killed)
    assert curve(whole) == curve(killed)


def test_a_step_that_is_not_finite_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    accumulate = loop.accumulate

    def poisoned(run: loop.Run, batches: Any, sums: Any) -> float:
        loss = accumulate(run, batches, sums)
        return float("nan") if run.step in bad else loss

    monkeypatch.setattr(loop, "accumulate", poisoned)
    bad = {1}
    recipe = tiny_run(tmp_path, steps=4, skip_bad_steps=1)
    train(recipe)
    assert "skipped step 1: loss nan" in capsys.readouterr().err
    assert final_state(recipe.output)["skipped"] == 1
    bad = {1, 3}
    with pytest.raises(LanceError, match="the limit is 1"):
        train(tiny_run(tmp_path, steps=4, skip_bad_steps=1, output=str(tmp_path / "other")))


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(1, {"step": 1})

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match="No space left"):
        checkpoints.save(2, {"step": 2})
    assert checkpoints.load() == {"step": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.pt"]


def test_only_the_last_checkpoints_are_kept_and_a_damaged_one_is_named(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        path = checkpoints.save(step, {"step": step})
    assert checkpoints.steps() == [2, 3]
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"step-00000003\.pt cannot be read"):
        checkpoints.load()
