"""TensorBoard and Weights & Biases get the numbers of the run's own files, nothing is sent unasked, and a resumed run goes on as itself."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from openlance.errors import LanceError, MissingExtra
from openlance.rl.loop import practise, start_with
from openlance.train import loop
from openlance.train.loop import train
from openlance.train.tracking import open_trackers, track
from tests.rl import tiny as drawing
from tests.train.tiny import tiny_run

RL: dict[str, Any] = {
    "rollout": {"prompts": 2, "samples": 4, "sampling": {"num_inference_steps": 5}},
    "evaluations": {"held": {"count": 2, "batch": 2, "prompts": {"world": {"single": 1}, "height": 64, "width": 64, "split": "test"}}},
}


class FakeRun:
    """A run of wandb: points at ever higher steps, and how it ended."""

    def __init__(self, settings: dict[str, Any], first: int) -> None:
        self.settings = settings
        self.first = self.step = first
        self.points: list[tuple[int, dict[str, float]]] = []
        self.failed: bool | None = None

    def log(self, values: dict[str, float], step: int) -> None:
        assert step >= self.step, "wandb would leave this out and say so"
        self.step = step
        self.points.append((step, values))

    def __enter__(self) -> "FakeRun":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.failed = kind is not None


class FakeWandb(ModuleType):
    """Knows its runs by their id, as the service does: one that comes again goes on behind its last step."""

    class Error(Exception):
        pass

    def __init__(self) -> None:
        super().__init__("wandb")
        self.runs: list[FakeRun] = []

    def init(self, **settings: Any) -> FakeRun:
        before = [run.step + 1 for run in self.runs if run.points and run.settings["id"] == settings["id"]]
        self.runs.append(FakeRun(settings, max(before, default=0)))
        return self.runs[-1]


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def flat(entry: dict[str, Any]) -> dict[str, float]:
    """An entry as its curves."""
    inner = {f"{key}/{name}": number for key, value in entry.items() if isinstance(value, dict) for name, number in value.items()}
    return {key: value for key, value in entry.items() if isinstance(value, int | float) and key not in ("step", "iteration")} | inner


def test_wandb_gets_the_numbers_of_a_supervised_run(tmp_path: Path, wandb: FakeWandb) -> None:
    recipe = tiny_run(tmp_path, steps=3, wandb="pictures")
    train(recipe)
    (run,) = wandb.runs
    assert run.points == [(line["step"], flat(line)) for line in lines(recipe.output / "metrics.jsonl")]
    assert {"loss", "gradient_norm", "tokens_per_second", "samples/understand"} <= set().union(*(values for _, values in run.points))
    assert (run.settings["project"], run.settings["name"], run.settings["dir"]) == ("pictures", "tiny", str(recipe.output))
    assert (run.settings["resume"], run.settings["config"]["steps"]) == ("allow", 3)
    assert run.failed is False


def test_a_resumed_run_is_the_same_run_of_wandb(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed two steps behind its last checkpoint: those are not told twice."""
    recipe = tiny_run(tmp_path, steps=6, keep=4, wandb="pictures")
    one_step = loop._one_step

    def until_four(run: loop.Run, meter: Any) -> None:
        if run.step == 4:
            raise KeyboardInterrupt
        one_step(run, meter)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_one_step", until_four)
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    for step in (3, 4):
        (recipe.output / "checkpoints" / f"step-{step:08d}.pt").unlink()
    train(recipe)
    first, second = wandb.runs
    assert (first.failed, second.failed) == (True, False)
    assert first.settings["id"] == second.settings["id"] == (recipe.output / "wandb-id.txt").read_text()
    assert [step for step, _ in first.points] == [1, 2, 3, 4]
    assert [step for step, _ in second.points] == [5, 6]
    train(tiny_run(tmp_path, steps=1, wandb="pictures", output=str(tmp_path / "other")))
    assert wandb.runs[-1].settings["id"] != second.settings["id"]


def test_wandb_gets_both_journals_of_a_run_of_stage_four(tmp_path: Path, wandb: FakeWandb) -> None:
    recipe = drawing.recipe_of(tmp_path, wandb="pictures", iterations=2, **RL)
    practise(recipe, start_with(recipe, *drawing.tiny_model()))
    (run,) = wandb.runs
    metrics = [(line["iteration"], flat(line)) for line in lines(recipe.output / "metrics.jsonl")]
    held = [
        (line["iteration"], {f"held/{key}": value for key, value in flat(line).items()})
        for line in lines(recipe.output / "evaluations.jsonl")
    ]
    assert run.points == [held[0], metrics[0], metrics[1], held[1]]
    assert {"tests.rl.tiny:redness", "seconds/draw"} <= set(metrics[0][1])
    assert "held/tests.rl.tiny:redness" in held[0][1]


def test_tensorboard_gets_them_too(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    recipe = drawing.recipe_of(tmp_path, iterations=2, **RL)
    practise(recipe, start_with(recipe, *drawing.tiny_model()))
    events = accumulator.EventAccumulator(str(recipe.output / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("gradient_norm")] == [1, 2]
    assert [event.step for event in events.Scalars("held/tests.rl.tiny:redness")] == [0, 2]


def test_what_a_killed_run_drew_behind_its_checkpoint_is_drawn_anew(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    for first, last, value in ((1, 4, 1.0), (3, 5, 2.0)):
        with open_trackers(tmp_path, "run", None, {}) as trackers:
            for step in range(first, last + 1):
                track(trackers, step, {"loss": value, "text": "no number"})
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert events.Tags()["scalars"] == ["loss"]


def test_nothing_is_sent_unasked(tmp_path: Path, wandb: FakeWandb) -> None:
    recipe = tiny_run(tmp_path, steps=1)
    train(recipe)
    assert not wandb.runs
    assert not (recipe.output / "wandb-id.txt").exists()


def test_a_missing_package_is_named_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    recipe = tiny_run(tmp_path, steps=1, wandb="pictures")
    with pytest.raises(MissingExtra, match=r"'wandb'.*openlance\[track\]"):
        train(recipe)
    assert not (recipe.output / "metrics.jsonl").exists()


def test_a_folder_that_wandb_left_is_not_taken_for_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wandb").mkdir()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(MissingExtra), open_trackers(tmp_path, "run", "pictures", {}):
        pass


def test_a_run_that_wandb_refuses_is_one_sentence(tmp_path: Path, wandb: FakeWandb, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise FakeWandb.Error("No API key configured")

    monkeypatch.setattr(wandb, "init", refused)
    with pytest.raises(LanceError, match=r"'pictures' \(No API key configured\).*WANDB_MODE=offline"):
        train(tiny_run(tmp_path, steps=1, wandb="pictures"))
