"""Several processes practise as one does."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from openlance.apps.cli import main
from openlance.rl.loop import start_with
from openlance.train.checkpoint import Checkpoints
from openlance.train.parallel import Ranks
from tests.rl.tiny import recipe_of, tiny_model
from tests.train.test_parallel import torchrun

WAYS = {"grpo": ["grpo.window=2", "grpo.kl=0.1"], "nft": ["objective=nft", "nft.draws=2"]}


def practise_on(processes: int, recipe: Path, *overrides: str) -> str:
    return torchrun("-m", "openlance.rl.loop", str(recipe), *overrides, processes=processes).stdout


def entries(output: Path, name: str) -> list[dict[str, Any]]:
    path = output / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def assert_same_practice(one: Path, other: Path) -> None:
    """Equal but for rounding: the numbers of all iterations and evaluations; to 1e-5: the last weights and their average."""
    for name in ("metrics", "evaluations"):
        for a, b in zip(entries(one, name), entries(other, name), strict=True):
            assert a.keys() == b.keys()
            assert a.get("evaluation") == b.get("evaluation")
            numbers = a.keys() - {"seconds", "evaluation"}
            assert {key: a[key] for key in numbers} == pytest.approx({key: b[key] for key in numbers}, rel=1e-3, abs=1e-5)
    first, second = (Checkpoints(output / "checkpoints").load() for output in (one, other))
    assert first is not None
    assert second is not None
    for key in ("masters", "averages"):
        for x, y in zip(first["optimizer"][key], second["optimizer"][key], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=1e-5)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
def test_every_group_is_one_process_s_and_updates_are_shared(tmp_path: Path, world_size: int) -> None:
    recipe = recipe_of(tmp_path, rollout={"prompts": 7, "samples": 2}, updates=2)
    runs = [start_with(recipe, *tiny_model(), Ranks(rank, world_size)) for rank in range(world_size)]
    for update in range(recipe.updates):
        places = [place for place in range(recipe.rollout.prompts) if place % recipe.updates == update]
        owners = [[run.ranks.rank for run in runs if run.draws(place)] for place in places]
        assert owners == [[index % world_size] for index in range(len(places))]


@pytest.mark.dist
@pytest.mark.parametrize("objective", WAYS)
def test_several_processes_practise_as_one(recipe: Path, objective: str) -> None:
    """Of three processes one has no group in the second update, and one no batch of the evaluation."""
    overrides = [
        "iterations=3", "updates=2", "rollout.prompts=5", "evaluate_every=2", "optim.ema=0.5", "optim.eps=1e-4", *WAYS[objective],
        "evaluations={held-out: {count: 5, batch: 3, prompts: {world: {single: 1}, split: test, height: 64, width: 64}}}",
    ]  # fmt: skip
    folder = recipe.parent
    assert main(["rl", str(recipe), *overrides]) == 0
    for processes in (2, 3):
        said = practise_on(processes, recipe, *overrides, f"output={folder / str(processes)}")
        assert said.count("iteration 2  evaluation held-out") == 1
        assert_same_practice(folder / "run", folder / str(processes))
        assert (folder / str(processes) / "model" / "config.json").exists()


@pytest.mark.dist
def test_a_run_goes_on_with_another_number_of_processes(recipe: Path) -> None:
    folder, overrides = recipe.parent, ["rollout.prompts=2", "optim.eps=1e-4"]
    assert main(["rl", str(recipe), *overrides, "iterations=4"]) == 0
    practise_on(2, recipe, *overrides, "iterations=2", f"output={folder / 'other'}")
    assert main(["rl", str(recipe), *overrides, "iterations=4", f"output={folder / 'other'}"]) == 0
    assert_same_practice(folder / "run", folder / "other")
