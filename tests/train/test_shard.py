"""A model split among processes trains as a whole one does, and goes on from any checkpoint on any number of processes."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from openlance.errors import CheckpointError, LanceError
from openlance.model.precision import multiplies_bfloat16
from openlance.train.checkpoint import Checkpoints
from openlance.train.loop import _loss, _noised, start, train
from openlance.train.losses import LossSums
from openlance.train.optim import Optimizer, OptimRecipe
from openlance.train.parallel import ParallelRecipe, Ranks, joined, local
from openlance.train.recipe import read_recipe
from openlance.train.recompute import recompute_layers
from openlance.train.shard import Shards, shard_model
from openlance.weights.load import load_pretrained
from tests.disk import no_file_larger_than
from tests.train.test_parallel import OPTIM, assert_same_run, lines, torchrun, train_on
from tests.train.tiny import tiny_model, tiny_run

SHARD, WHOLE = "parallel.shard=true", "parallel.shard=false"
MUON = {**OPTIM, "kind": "muon", "matrix_learning_rate": 5e-5}
MUON_TOLERANCE = 5e-5 if multiplies_bfloat16("cpu") else 1e-5
"""Where Muon turns in bfloat16, another order of sums in a gradient has moved a weight by 0.4 of a step in 8 (AVX512-BF16 of AMD); a
whole step is far from what a lost gradient would do."""
LORA = {"rank": 4, "alpha": 8.0}
KILLED = """
import os, signal, sys
from openlance.train import checkpoint, loop
finish = checkpoint.Checkpoints._finish
def killed(self, temporary, path):
    if path.name == "step-00000003":
        os.kill(os.getpid(), signal.SIGKILL)
    finish(self, temporary, path)
checkpoint.Checkpoints._finish = killed
loop.main(sys.argv[1:])
"""
SAME_STEP = """
import torch
from openlance.train.optim import Optimizer, OptimRecipe
from openlance.train.parallel import joined
from openlance.train.shard import Shards, shard_model, whole
from tests.train.tiny import tiny_model
recipe = OptimRecipe("muon", 1e-3, matrix_learning_rate=0.1, ema=0.5, eps=1e-8, weight_decay=0.1, clip=0.0)
with joined("cpu") as ranks:
    one, split = tiny_model(), tiny_model()
    shards = Shards(ranks)
    shard_model(split, "float32", ranks, shards)
    alone, together = Optimizer(one, recipe, 10), Optimizer(split, recipe, 10, shards)
    generator = torch.Generator().manual_seed(0)
    for step in range(3):
        for p, q in zip(one.parameters(), split.parameters()):
            p.grad = torch.randn(p.shape, generator=generator)
            q.grad = torch.distributed.tensor.distribute_tensor(p.grad.clone(), shards.mesh, q.placements)
        norms = alone.gradient_norm(), together.gradient_norm()
        assert abs(norms[0] - norms[1]) < 1e-4 * norms[0]
        alone.step(step, 1.0)
        together.step(step, 1.0)
    for p, q in zip(one.parameters(), split.parameters()):
        torch.testing.assert_close(p, q.full_tensor(), rtol=1e-6, atol=1e-6)
    for average, part in zip(alone.averages, together.averages):
        torch.testing.assert_close(shards.part(average), part, rtol=1e-6, atol=1e-6)
    print("the same", flush=True)
"""


def assert_same_models(one: Path, other: Path, tolerance: float = 1e-5) -> None:
    """The exported models: bfloat16, so that a difference in the last bit of a float32 weight may be one in the eighth."""
    first, second = (load_pretrained(folder / "model", dtype="float32", device="cpu")[0].state_dict() for folder in (one, other))
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-2, atol=tolerance, msg=name)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("processes", "optim", "more"),
    [
        (2, OPTIM, ()),
        (2, MUON, ("parallel.activation_checkpointing=true",)),
        (3, MUON, ("parallel.reduce_every_pass=true",)),
        (4, OPTIM, ("parallel.replicas=2", "parallel.reduce_every_pass=true")),
    ],
    ids=["adamw", "muon, recomputed", "uneven rows, reduced every pass", "two copies of two halves"],
)
def test_a_split_model_trains_as_a_whole_one(tmp_path: Path, processes: int, optim: dict[str, Any], more: tuple[str, ...]) -> None:
    recipe = tiny_run(tmp_path, steps=20, save_minutes=5, optim=optim)
    train(recipe)
    train_on(processes, tmp_path, f"output={tmp_path / 'split'}", SHARD, *more)
    tolerance = MUON_TOLERANCE if optim is MUON else 1e-5
    assert_same_run(recipe.output, tmp_path / "split", tolerance)
    assert_same_models(recipe.output, tmp_path / "split", tolerance)


@pytest.mark.dist
@pytest.mark.parametrize("lora", [None, LORA], ids=["generation expert", "adapters"])
def test_a_part_of_a_split_model_learns(tmp_path: Path, lora: dict[str, Any] | None) -> None:
    """In bfloat16, with frozen weights among those that learn: losses and exports of both runs agree to its precision."""
    pytest.importorskip("peft")
    recipe = tiny_run(tmp_path, steps=6, save_minutes=5, optim=OPTIM, precision="bfloat16")
    values = ["model.train=[generation]", *([] if lora is None else ["model.lora={rank: 4, alpha: 8.0}"])]
    recipe = read_recipe(tmp_path / "recipe.yaml", values)
    train(recipe)
    train_on(2, tmp_path, f"output={tmp_path / 'split'}", SHARD, *values)
    first, second = lines(recipe.output), lines(tmp_path / "split")
    assert [x["samples"] for x in first] == [x["samples"] for x in second]
    assert [x["loss"] for x in second] == pytest.approx([x["loss"] for x in first], rel=1e-3)
    assert_same_models(recipe.output, tmp_path / "split", tolerance=2e-3)
    assert (tmp_path / "split" / "adapter").is_dir() == (lora is not None)


@pytest.mark.dist
@pytest.mark.parametrize(
    ("before", "after"),
    [((2, SHARD), (1, WHOLE)), ((1, SHARD), (2, SHARD)), ((2, SHARD), (1, SHARD)), ((1, WHOLE), (2, SHARD)), ((2, WHOLE), (3, SHARD))],
    ids=["2 split to 1 whole", "1 split to 2", "2 split to 1", "1 whole to 2 split", "2 whole to 3 split"],
)
def test_a_checkpoint_goes_on_split_otherwise(tmp_path: Path, before: tuple[int, str], after: tuple[int, str]) -> None:
    recipe = tiny_run(tmp_path, steps=8, optim=MUON)
    train(recipe)
    other = tmp_path / "other"
    train_on(before[0], tmp_path, f"output={other}", "steps=4", before[1])
    assert Checkpoints(other / "checkpoints").steps() == [3, 4]
    train_on(after[0], tmp_path, f"output={other}", after[1])
    assert_same_run(recipe.output, other, MUON_TOLERANCE)


@pytest.mark.dist
def test_killed_while_it_writes_a_split_run_goes_on_from_the_last_whole_checkpoint(tmp_path: Path) -> None:
    """The checkpoint of step 3 is half-written when all is killed; what follows equals the run that was left alone, to the last bit."""
    recipe = tiny_run(tmp_path, steps=5, optim=MUON)
    train_on(2, tmp_path, f"output={tmp_path / 'whole'}", SHARD)
    done = torchrun(_script(tmp_path, KILLED), str(tmp_path / "recipe.yaml"), SHARD, fails=True)
    assert "Signal 9" in done.stderr
    folder = recipe.output / "checkpoints"
    assert Checkpoints(folder).steps() == [1, 2]
    assert (folder / "step-00000003.tmp" / "rest.pt").exists()
    train_on(2, tmp_path, SHARD)
    assert sorted(path.name for path in folder.iterdir()) == ["step-00000004", "step-00000005"]
    one, other = (Checkpoints(output / "checkpoints").load() for output in (tmp_path / "whole", recipe.output))
    assert one is not None
    assert other is not None
    for key in ("masters", "averages", "momenta"):
        assert all(torch.equal(x, y) for x, y in zip(one["optimizer"][key], other["optimizer"][key], strict=True))


def test_a_full_disk_leaves_the_last_good_checkpoint_of_a_split_run(tmp_path: Path) -> None:
    with joined("cpu", group=True) as ranks:
        shards = Shards(ranks)
        checkpoints = Checkpoints(tmp_path, keep=2, shards=shards)
        weight = torch.arange(4000.0).view(1000, 4)
        checkpoints.save(1, {"step": 1, "weights": [shards.copied(weight, weight.shape)]})
        checkpoints.wait()
        with no_file_larger_than(8000):
            checkpoints.save(2, {"step": 2, "weights": [shards.copied(weight, weight.shape)]})
            with pytest.raises(CheckpointError, match=r"step-00000002 cannot be written .*free some space"):
                checkpoints.wait()
        assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
        state = checkpoints.load()
        assert state is not None
        assert (state["step"], state["weights"][0].tolist()) == (1, weight.tolist())


def test_what_is_saved_is_the_state_when_it_was_asked_for(tmp_path: Path) -> None:
    """It is written beside the steps that follow, which change the weights."""
    with joined("cpu", group=True) as ranks:
        checkpoints = Checkpoints(tmp_path, keep=2, shards=Shards(ranks))
        weight = torch.ones(3, 2)
        for step in (1, 2, 3):
            checkpoints.save(step, {"weight": checkpoints.shards.copied(weight, weight.shape)})  # type: ignore[union-attr]
            weight.add_(1)
        checkpoints.wait()
        assert checkpoints.steps() == [2, 3]
    state = Checkpoints(tmp_path).load()
    assert state is not None
    assert torch.equal(state["weight"], torch.full((3, 2), 3.0))
    (tmp_path / "step-00000003" / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"step-00000003 cannot be read"):
        Checkpoints(tmp_path).load()


class Killed(BaseException):
    """Nothing catches it, as nothing runs after kill -9."""


@contextmanager
def killed_at(moment: int) -> Iterator[None]:
    """The `moment`-th change of names or removal of a folder does not take place; of what is removed one file has gone."""
    left = moment

    def until(function: Any) -> Any:
        def call(path: Path, *more: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                if function is rmtree:
                    next(path.iterdir()).unlink()
                raise Killed
            return function(path, *more, **options)

        return call

    replace, rmtree = os.replace, shutil.rmtree
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", until(replace))
        patched.setattr(shutil, "rmtree", until(rmtree))
        yield


@pytest.mark.parametrize(
    ("before", "after"),
    [(False, False), (False, True), (True, False), (True, True)],
    ids=["file again", "file as folder", "folder as file", "folder again"],
)
def test_a_step_saved_again_is_whole_at_every_moment(tmp_path: Path, before: bool, after: bool) -> None:
    """It is the only checkpoint, as of a file or of a folder; saving again is killed at each of its moments in turn."""
    with joined("cpu", group=True) as ranks:
        shards = Shards(ranks)

        def save(folder: Path, split: bool, value: float) -> None:
            weight = torch.full((3, 2), value)
            checkpoints = Checkpoints(folder, keep=1, shards=shards if split else None)
            checkpoints.save(1, {"value": value, "weights": [shards.copied(weight, weight.shape) if split else weight]})
            checkpoints.wait()

        def saved(folder: Path) -> float:
            assert Checkpoints(folder).steps() == [1]
            state = Checkpoints(folder).load()
            assert state is not None
            assert state["weights"][0].tolist() == [[state["value"]] * 2] * 3
            return float(state["value"])

        found = []
        for moment in range(1, 20):
            folder = tmp_path / str(moment)
            save(folder, before, 1.0)
            try:
                with killed_at(moment):
                    save(folder, after, 2.0)
                break
            except Killed:
                found.append(saved(folder))
                save(folder, after, 3.0)
                assert saved(folder) == 3.0
                assert len(list(folder.iterdir())) == 1
        assert saved(folder) == 2.0
        assert len(list(folder.iterdir())) == 1
        assert found == sorted(found)
        assert found[0] == 1.0


def test_a_disk_that_fills_up_leaves_the_step_that_is_saved_again(tmp_path: Path) -> None:
    with joined("cpu", group=True) as ranks:
        shards = Shards(ranks)
        checkpoints = Checkpoints(tmp_path, keep=1, shards=shards)
        weight = torch.arange(4000.0).view(1000, 4)
        checkpoints.save(1, {"weight": shards.copied(weight, weight.shape)})
        checkpoints.wait()
        with no_file_larger_than(8000):
            checkpoints.save(1, {"weight": shards.copied(weight + 1, weight.shape)})
            with pytest.raises(CheckpointError, match="step-00000001 cannot be written"):
                checkpoints.wait()
        state = Checkpoints(tmp_path).load()
        assert state is not None
        assert torch.equal(state["weight"], weight)


@pytest.mark.parametrize("split", [False, True], ids=["file", "folder"])
def test_what_a_killed_run_of_the_other_kind_left_half_written_is_no_obstacle(tmp_path: Path, split: bool) -> None:
    stale = tmp_path / "step-00000001.tmp"
    if split:
        stale.write_bytes(b"half")
    else:
        stale.mkdir()
        (stale / "rest.pt").write_bytes(b"half")
    with joined("cpu", group=True) as ranks:
        checkpoints = Checkpoints(tmp_path, shards=Shards(ranks) if split else None)
        path = checkpoints.save(1, {"step": 1})
        checkpoints.wait()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_the_state_of_a_split_optimiser_stays_as_it_was_asked_for(kind: str) -> None:
    """Down to the count of steps that AdamW keeps: a slow disk must not save a later one with earlier weights."""

    def numbers(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return local(value).tolist()
        if isinstance(value, dict):
            return {key: numbers(each) for key, each in value.items()}
        return [numbers(each) for each in value] if isinstance(value, list) else value

    with joined("cpu", group=True) as ranks:
        model, shards = tiny_model(), Shards(ranks)
        shard_model(model, torch.float32, ranks, shards)
        optimizer = Optimizer(model, OptimRecipe(kind, ema=0.5), 10, shards)

        def step(number: int) -> None:
            for weight in model.parameters():
                weight.grad = torch.ones_like(weight)
            optimizer.step(number, 1.0)

        step(0)
        state = optimizer.state()
        before = numbers(state)
        step(1)
        assert numbers(state) == before
        assert numbers(optimizer.state()) != before


@pytest.mark.dist
def test_a_step_of_a_split_optimiser_is_that_of_a_whole_one(tmp_path: Path) -> None:
    """From the same gradients, but for the last bits, with rows that do not divide evenly and matrices that fall to other ranks."""
    done = torchrun(_script(tmp_path, SAME_STEP), processes=3)
    assert done.stdout.count("the same") == 3


def test_copies_must_divide_the_processes_and_need_a_split_model() -> None:
    with pytest.raises(LanceError, match="2 does not divide 3 processes"):
        Shards(Ranks(0, 3), 2)
    with pytest.raises(LanceError, match=r"parallel\.shard=true"):
        ParallelRecipe(replicas=2)
    with pytest.raises(LanceError, match="replicas 0"):
        ParallelRecipe(shard=True, replicas=0)


def test_recomputed_layers_have_the_same_gradients_and_keep_less(tmp_path: Path) -> None:
    """float32: the same products in the same order, to the last bit."""
    run = start(tiny_run(tmp_path, optim=OPTIM))
    batches = run.loader.step()

    def gradients() -> tuple[list[torch.Tensor], int]:
        kept: dict[int, int] = {}

        def note(tensor: torch.Tensor) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        run.optimizer.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            _loss(run, _noised(run, batches[0], 0), True, batches[0].counts, LossSums()).backward()  # type: ignore[no-untyped-call]
        return [torch.zeros_like(w) if w.grad is None else w.grad for w in run.optimizer.weights], sum(kept.values())

    plain, all_kept = gradients()
    recompute_layers(run.model)
    again, kept = gradients()
    assert all(torch.equal(x, y) for x, y in zip(plain, again, strict=True))
    assert any(x.any() for x in plain)
    assert kept < 0.7 * all_kept


def _script(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text(text)
    return str(path)
