"""Several processes train as one does: same steps, same weights, same checkpoints, and they leave out a step together."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from openlance.errors import LanceError
from openlance.train import parallel
from openlance.train.checkpoint import Checkpoints
from openlance.train.loop import train
from openlance.train.parallel import Ranks, buckets, deal, joined
from tests.train.tiny import tiny_run

ROOT = Path(__file__).resolve().parents[2]
OPTIM = {"kind": "adamw", "learning_rate": 2e-3, "ema": 0.9, "eps": 1e-4}
"""AdamW divides by the size of a gradient: with a smaller eps, rounding in one that is almost nothing would count as a whole step."""
POISONED = """
import sys
from openlance.train import loop
accumulate = loop.accumulate
def poisoned(run, batches, sums):
    loss = accumulate(run, batches, sums)
    return float("nan") if run.step == 1 and run.ranks.rank == 1 else loss
loop.accumulate = poisoned
loop.main(sys.argv[1:])
"""

TURNED = """
import sys
import torch
from openlance.train.optim import Optimizer
from openlance.train.parallel import joined
from tests.train.test_optim import MUON, with_gradients
from tests.train.tiny import tiny_model
with joined("cpu") as ranks:
    model = tiny_model()
    optimizer = Optimizer(model, MUON, 10, ranks=ranks)
    for step in range(3):
        with_gradients(model, step)
        optimizer.step(step, 1.0)
    torch.save(optimizer.masters, f"{sys.argv[1]}/{ranks.rank}-of-{ranks.world_size}.pt")
"""


def torchrun(*what: str, processes: int = 2, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a program on several processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), *what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert (done.returncode != 0) == fails, done.stderr[-3000:]
    return done


def train_on(processes: int, folder: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return torchrun("-m", "openlance.train.loop", str(folder / "recipe.yaml"), *overrides, processes=processes)


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def assert_same_run(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """Equal to 1e-5: losses and gradient norms of all steps; to `tolerance` the last weights and their average; equal data."""
    a, b = lines(one), lines(other)
    assert [(x["step"], x["tokens"], x["samples"]) for x in a] == [(x["step"], x["tokens"], x["samples"]) for x in b]
    for x, y in zip(a, b, strict=True):
        assert abs(x["loss"] - y["loss"]) <= 1.1e-5, (x, y)
    first, second = (Checkpoints(output / "checkpoints").load() for output in (one, other))
    assert first is not None
    assert second is not None
    assert first["loader"] == second["loader"]
    for key in ("masters", "averages"):
        for x, y in zip(first["optimizer"][key], second["optimizer"][key], strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


@pytest.mark.dist
@pytest.mark.parametrize("processes", [2, 5])
def test_several_processes_train_as_one(tmp_path: Path, processes: int) -> None:
    """With 5 processes some have no batch in a step."""
    recipe = tiny_run(tmp_path, steps=20, save_minutes=5, optim=OPTIM)
    train(recipe)
    done = train_on(processes, tmp_path, f"output={tmp_path / 'several'}")
    assert_same_run(recipe.output, tmp_path / "several")
    assert done.stdout.count("step 7 ") == 1
    assert (tmp_path / "several" / "model").is_dir()


@pytest.mark.dist
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_checkpoint_goes_on_with_another_number_of_processes(tmp_path: Path, before: int, after: int) -> None:
    recipe = tiny_run(tmp_path, steps=8, optim=OPTIM)
    train(recipe)
    other = tmp_path / "other"
    # Constant rates: the number of steps changes nothing before the end.
    train_on(before, tmp_path, f"output={other}", "steps=4")
    assert Checkpoints(other / "checkpoints").steps()[-1] == 4
    train_on(after, tmp_path, f"output={other}")
    assert_same_run(recipe.output, other)


@pytest.mark.dist
def test_a_step_that_is_not_finite_on_one_process_is_left_out_by_all(tmp_path: Path) -> None:
    recipe = tiny_run(tmp_path, steps=4, optim=OPTIM, skip_bad_steps=1)
    script = tmp_path / "poisoned.py"
    script.write_text(POISONED)
    done = torchrun(str(script), str(tmp_path / "recipe.yaml"))
    assert done.stderr.count("skipped step 1: loss nan") == 1
    state = Checkpoints(recipe.output / "checkpoints").load()
    assert state is not None
    assert (state["step"], state["skipped"]) == (4, 1)


@pytest.mark.dist
def test_a_cache_without_shards_stops_all_processes_in_one_sentence(tmp_path: Path) -> None:
    recipe = tiny_run(tmp_path, steps=1)
    for path in (tmp_path / "cache" / "t2i").glob("shard-*"):
        path.unlink()
    done = torchrun("-m", "openlance.train.loop", str(tmp_path / "recipe.yaml"), fails=True)
    assert f"source 't2i' is empty: {tmp_path / 'cache' / 't2i'} has 0 complete shards; fill it" in done.stderr
    assert not (recipe.output / "metrics.jsonl").exists()


def test_gradients_are_put_together_in_order_up_to_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "BUCKET_BYTES", 24)
    sizes = {torch.float32: (3, 3, 1), torch.bfloat16: (3, 9, 1)}
    tensors = [torch.ones(n, dtype=dtype) for dtype, numbers in sizes.items() for n in numbers]
    found = buckets(tensors)
    assert [[tensor.numel() for tensor in bucket] for bucket in found] == [[3, 3], [1], [3, 9], [1]]
    assert [id(tensor) for bucket in found for tensor in bucket] == [id(tensor) for tensor in tensors]
    assert [bucket[0].numel() for bucket in buckets([torch.ones(100), torch.ones(1)])] == [100, 1]
    assert buckets([]) == []


@pytest.mark.parametrize(("costs", "count"), [([5, 3, 3, 2, 2, 1], 2), ([4], 3), ([], 2), ([1] * 7, 3)])
def test_work_is_dealt_out_whole_and_evenly(costs: list[int], count: int) -> None:
    owned = deal(costs, count)
    assert sorted(i for indices in owned for i in indices) == list(range(len(costs)))
    assert all(indices == sorted(indices) for indices in owned)
    loads = [sum(costs[i] for i in indices) for indices in owned]
    assert max(loads) - min(loads) <= max(costs, default=0)


@pytest.mark.dist
def test_matrices_that_ranks_turn_for_each_other_are_those_that_each_would_find(tmp_path: Path) -> None:
    script = tmp_path / "turned.py"
    script.write_text(TURNED)
    for processes in (1, 3):
        torchrun(str(script), str(tmp_path), processes=processes)
    alone = torch.load(tmp_path / "0-of-1.pt", weights_only=True)
    for rank in range(3):
        for ours, theirs in zip(torch.load(tmp_path / f"{rank}-of-3.pt", weights_only=True), alone, strict=True):
            assert torch.equal(ours, theirs)


def test_alone_nothing_is_exchanged() -> None:
    weight = nn.Parameter(torch.ones(2))
    with joined("cpu") as ranks:
        assert ranks == Ranks()
        ranks.wait()
        ranks.sum_gradients([weight])
        ranks.complete([weight], [[0]])
        ranks.check_same("now", [weight])
        assert (ranks.leads, ranks.gather(3), ranks.first(4)) == (True, [3], 4)
    assert weight.grad is None


def test_an_environment_that_torchrun_did_not_make_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(LanceError, match="torchrun"), joined("cpu"):
        pass
