"""A split model starts from the values of a whole one without ever being whole: each process reads or draws its rows."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from openlance.model.config import LanceConfig, TransformerConfig
from openlance.sequence.bind import Binder
from openlance.sequence.template import OWN_WORDING
from openlance.weights.empty import build_empty
from openlance.weights.load import build_model
from openlance.weights.save import save_pretrained
from tests.train.test_parallel import torchrun
from tests.train.tiny import tiny_model, tiny_run, tiny_tokenizer

LARGE = LanceConfig(
    TransformerConfig(8_000, 640, 6, 8, 4, 80, 1_760, mrope_section=(10, 15, 15), rope_inv_freq_dtype="float32"), latent_channels=4
)
"""66 million weights, 265 MB, of which the largest tensor has a thirteenth."""

SAME_VALUES = """
import sys
from dataclasses import replace
from pathlib import Path
import torch
from openlance.train.loop import start
from openlance.train.parallel import ParallelRecipe, Ranks, joined
from openlance.train.recipe import read_recipe
from torch.distributed.tensor import DTensor
recipe = read_recipe(Path(sys.argv[1]), sys.argv[2:])
with joined("cpu") as ranks:
    whole = start(recipe, Ranks())
    split = start(replace(recipe, parallel=ParallelRecipe(shard=True)), ranks)
    for (name, p), (other, q) in zip(whole.model.named_parameters(), split.model.named_parameters(), strict=True):
        encoder = name.startswith(("vision.", "autoencoder."))
        assert (name, p.requires_grad, encoder) == (other, q.requires_grad, not isinstance(q, DTensor)), name
        assert torch.equal(p, (q if encoder else q.full_tensor()).to(p.dtype)), name
    for (name, p), (other, q) in zip(whole.model.named_buffers(), split.model.named_buffers(), strict=True):
        assert name == other and p.dtype == q.dtype and torch.equal(p, q), name
    for kind in ("masters", "averages"):
        for p, q in zip(getattr(whole.optimizer, kind), getattr(split.optimizer, kind), strict=True):
            assert torch.equal(split.shards.part(p), q)
    print("equal", flush=True)
"""
PEAK = """
import re, sys
from dataclasses import replace
from pathlib import Path
from openlance.train.loop import start
from openlance.train.parallel import joined
from openlance.train.recipe import read_recipe
recipe = read_recipe(Path(sys.argv[1]), ["parallel.shard=true"])
def status(key):
    return int(re.search(key + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
with joined("cpu") as ranks:
    small = start(recipe, ranks)  # imports what a start needs
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    large = start(read_recipe(Path(sys.argv[1]), ["parallel.shard=true", *sys.argv[2:]]), ranks)
    print("peak", status("VmHWM") - before, flush=True)
"""
OTHER_WEIGHTS = """
import sys
from pathlib import Path
from openlance.train.loop import start
from openlance.train.parallel import joined
from openlance.train.recipe import read_recipe
with joined("cpu") as ranks:
    start(read_recipe(Path(sys.argv[1]), ["parallel.shard=true", sys.argv[2 + ranks.rank]]), ranks)
"""
CHECKPOINT = "model={checkpoint: %s}"


@pytest.mark.dist
@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("float32", ()),
        ("float32", ("model={config: %(config)s, tokenizer: %(tokenizer)s, lora: {rank: 4, alpha: 8.0}}",)),
        ("bfloat16", ("model={checkpoint: nano, train: [generation]}",)),
        ("bfloat16", ("model={checkpoint: nano, lora: {rank: 4, alpha: 8.0}}",)),
    ],
    ids=["new", "new with adapters", "an expert of a checkpoint", "a checkpoint with adapters"],
)
def test_a_split_start_has_the_values_of_a_whole_one(tmp_path: Path, precision: str, changes: tuple[str, ...]) -> None:
    """To the last bit, on three processes: rows do not divide evenly. Encoders are whole, buffers are exact."""
    if any("lora" in change for change in changes):
        pytest.importorskip("peft")
    recipe = tiny_run(tmp_path, precision=precision)
    names = {"config": recipe.model.config, "tokenizer": recipe.model.tokenizer}
    done = torchrun(script(tmp_path, SAME_VALUES), str(tmp_path / "recipe.yaml"), *(change % names for change in changes), processes=3)
    assert done.stdout.count("equal") == 3


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("new", [False, True], ids=["checkpoint", "new"])
def test_no_process_of_a_split_start_holds_the_whole_model(tmp_path: Path, new: bool) -> None:
    """265 MB of float32 weights on two processes: resident memory grows by half of it and some rows."""
    recipe = tiny_run(tmp_path, optim={"kind": "adamw", "ema": 0})
    if new:
        (tmp_path / "large.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(LARGE.to_dict()))))
        change = f"model={{config: {tmp_path / 'large.yaml'}, tokenizer: {recipe.model.tokenizer}}}"
    else:
        write_large(tmp_path / "large")
        change = CHECKPOINT % (tmp_path / "large")
    done = torchrun(script(tmp_path, PEAK), str(tmp_path / "recipe.yaml"), change)
    size = 4 * sum(p.numel() for p in build_empty(lambda: build_model(LARGE)).parameters())
    assert 260e6 < size < 270e6
    shares = [int(line.split()[-1]) / size for line in done.stdout.splitlines() if "peak" in line]
    print("peak of each process in units of the whole weights:", [round(share, 3) for share in shares])
    assert len(shares) == 2
    assert all(0.45 < share < 0.75 for share in shares)


@pytest.mark.dist
@pytest.mark.parametrize("kind", ["checkpoint", "seed"])
def test_processes_that_would_start_from_different_weights_stop(tmp_path: Path, kind: str) -> None:
    tiny_run(tmp_path)
    changes = ["seed=1", "seed=2"]
    if kind == "checkpoint":
        binder = Binder(tiny_tokenizer(), OWN_WORDING)
        for seed in (0, 1):
            save_pretrained(tiny_model(seed=seed), binder, tmp_path / f"model-{seed}")
        changes = [CHECKPOINT % (tmp_path / f"model-{seed}") for seed in (0, 1)]
    done = torchrun(script(tmp_path, OTHER_WEIGHTS), str(tmp_path / "recipe.yaml"), *changes, fails=True)
    assert "rank 1 starts from other weights than rank 0: give all processes the same recipe and files" in done.stderr


def write_large(folder: Path) -> None:
    """A checkpoint of LARGE, whose tensors all hold one number."""
    model = build_empty(lambda: build_model(LARGE))
    tensors = {name: torch.full((1,), 0.5).expand(parameter.shape) for name, parameter in model.named_parameters()}
    save_pretrained(model, Binder(tiny_tokenizer(), OWN_WORDING), folder, tensors=tensors)


def script(folder: Path, text: str) -> str:
    path = folder / "script.py"
    path.write_text(text)
    return str(path)
