"""The memory of training as it is computed is what a run allocates."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from openlance.model.config import LanceConfig
from openlance.train.loop import Run, _noised, accumulate, start
from openlance.train.lora import LoraRecipe
from openlance.train.losses import LossSums, ragged
from openlance.train.memory import MODES, Mode, Setting, activation_bytes, memory_of, weights_of
from openlance.train.parallel import ParallelRecipe, Ranks, joined, local
from openlance.train.recipe import read_recipe
from tests.train.test_parallel import torchrun
from tests.train.tiny import tiny_run


def nbytes(tensors: Any) -> int:
    """Of tensors whose memory is their own, each storage once."""
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in map(local, tensors)}
    return sum(storages.values())


def allocated(run: Run) -> dict[str, int]:
    """Bytes that a run holds after its first update and before its second, by what they are for."""
    for step in range(2):
        accumulate(run, run.loader.step(), LossSums())
        if not step:
            run.optimizer.step(0, run.optimizer.gradient_norm())
    optimizer = run.optimizer
    weights = list(run.model.parameters())
    own = {local(p).untyped_storage().data_ptr() for p in weights}
    state = [value for entry in optimizer.adamw.state.values() for value in entry.values()]
    return {
        "weights": nbytes(weights),
        "masters": nbytes(m for m in optimizer.masters if m.untyped_storage().data_ptr() not in own),
        "state": nbytes([*state, *(matrix.momentum for _, matrix in optimizer._matrices)]),
        "average": nbytes(optimizer.averages),
        "gradients": nbytes(w.grad for w in optimizer.weights if w.grad is not None),
    }


def computed(run: Run, mode: Mode, ranks: int = 1) -> dict[str, int]:
    recipe, config = run.recipe, run.model.config
    memory = memory_of(weights_of(config, mode), config, Setting(recipe.precision, recipe.optim, recipe.parallel, ranks))
    return {name: getattr(memory, name) for name in ("weights", "masters", "state", "average", "gradients")}


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])
def test_what_is_computed_is_what_a_run_allocates(tmp_path: Path, mode: Mode, precision: str, split: bool) -> None:
    if mode.lora is not None:
        pytest.importorskip("peft")
    tiny_run(tmp_path, precision=precision, batch={"tokens": 512, "tokens_per_step": 4096})
    more = [f"model.train=[{', '.join(mode.experts)}]", f"parallel.shard={split}".lower()]
    lora = [] if mode.lora is None else [f"model.lora={json.dumps({'rank': mode.lora.rank})}"]
    recipe = read_recipe(tmp_path / "recipe.yaml", [*more, *lora])
    with joined("cpu", group=split):
        run = start(recipe, Ranks())
        assert allocated(run) == computed(run, mode)


@pytest.mark.dist
def test_a_share_is_what_a_process_allocates(tmp_path: Path) -> None:
    tiny_run(tmp_path, precision="bfloat16")
    script = tmp_path / "script.py"
    script.write_text(SHARE)
    assert torchrun(str(script), str(tmp_path / "recipe.yaml")).stdout.count("equal") == 2


SHARE = """
import sys
from pathlib import Path
from openlance.train.loop import start
from openlance.train.memory import MODES
from openlance.train.parallel import joined
from openlance.train.recipe import read_recipe
from tests.train.test_memory import allocated, computed
with joined("cpu") as ranks:
    run = start(read_recipe(Path(sys.argv[1]), ["parallel.shard=true"]), ranks)
    found, expected = allocated(run), computed(run, MODES[0], 2)
    assert found == expected, (found, expected)
    print("equal", flush=True)
"""


def test_activations_are_estimated_well(tmp_path: Path) -> None:
    """Against what is kept for the way back, which is more by what lies outside the layers and less where a kernel recomputes."""
    run = start(tiny_run(tmp_path))
    batch = run.loader.step()[0]
    skipped = {tensor.untyped_storage()._cdata for tensor in (*run.model.parameters(), *(row.mask for row in batch.rows))}
    kept: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run.model(ragged(run.model, *_noised(run, batch, 0)))
    found = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in skipped)
    setting = Setting("float32", tokens=batch.num_tokens, row=batch.rows[0].mask.shape[-1])
    estimate = activation_bytes(run.model.config, setting)
    assert 0.7 * estimate < found < 1.4 * estimate


def test_the_released_model_by_what_learns() -> None:
    """Parameters without the encoders."""
    counts = {mode.name: sum(w.numel() for w in weights_of(LanceConfig(), mode) if w.learns) for mode in MODES}
    assert list(counts.values()) == [6_176_817_200, 2_779_704_368, 26_394_624]


def test_more_ranks_need_less_and_adapters_least() -> None:
    config = LanceConfig()
    for mode in MODES:
        weights = weights_of(config, mode)
        assert mode.lora in (None, LoraRecipe())
        peaks = [memory_of(weights, config, Setting(parallel=ParallelRecipe(shard=True), ranks=n, passes=1)).static for n in (1, 2, 4, 8)]
        assert peaks == sorted(peaks, reverse=True)
        assert peaks[0] / peaks[3] == pytest.approx(8, rel=0.01)
