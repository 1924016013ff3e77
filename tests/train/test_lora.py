"""Adapters learn alone, resume exactly, and are the same model merged at export, by peft and by load_adapter."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

pytest.importorskip("peft")

from openlance.errors import CheckpointError, LanceError
from openlance.model.lance import LanceModel
from openlance.pipeline import Lance
from openlance.sequence.bind import Binder
from openlance.sequence.known_words import KnownWords
from openlance.sequence.template import OWN_WORDING
from openlance.train import loop
from openlance.train.loop import train
from openlance.train.lora import LoraRecipe, attach, is_adapter, merged_tensors, write_adapter
from openlance.train.optim import Optimizer, OptimRecipe
from openlance.train.recipe import TrainRecipe, read_recipe
from openlance.weights.adapter import ADAPTER_CONFIG, ADAPTER_WEIGHTS, merge_adapter
from openlance.weights.save import save_pretrained
from openlance.weights.tensorfile import write_tensors
from tests.train.test_loop import curve, final_state, same_weights
from tests.train.tiny import WIDTH, tiny_model, tiny_run, tiny_tokenizer

ROOT = Path(__file__).resolve().parents[2]
LORA = LoraRecipe(rank=4, alpha=8.0)
BOTH = ("understanding", "generation")


def adapted(experts: tuple[str, ...] = BOTH, recipe: LoraRecipe = LORA) -> LanceModel:
    """A tiny model whose adapters change something."""
    model = tiny_model()
    attach(model, recipe, experts, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in (p for name, p in model.named_parameters() if is_adapter(name)):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def stream(model: LanceModel, expert: str) -> Tensor:
    """Tokens through one expert's layers, attention left out."""
    x = torch.randn(5, WIDTH, generator=torch.Generator().manual_seed(1))
    rotation = model.rotation(torch.arange(5).repeat(3, 1))
    for layer in model.transformer.layers:
        part = getattr(layer, expert)
        query, key, value = part.project(x, rotation)[0].transpose(0, 1).split_with_sizes(part.heads, 1)
        x = part.finish(x, (query + key + value).flatten(1))
    return x


def lora_run(folder: Path, lora: dict[str, Any] | None = None, train: tuple[str, ...] = BOTH, **changes: Any) -> TrainRecipe:
    """The tiny recipe as a fine-tuning of saved weights."""
    base = folder / "base"
    if not base.exists():
        save_pretrained(tiny_model("data"), Binder(tiny_tokenizer(), OWN_WORDING), base, dtype=torch.bfloat16)
    model = {"checkpoint": str(base), "train": list(train), "lora": lora or {"rank": 4, "alpha": 8.0}}
    return tiny_run(folder, model=model, **changes)


@pytest.mark.parametrize("experts", [("generation",), ("understanding",), BOTH])
def test_only_the_adapters_of_the_named_experts_learn(experts: tuple[str, ...]) -> None:
    model = tiny_model()
    attach(model, LoraRecipe(4, 8.0, ("qkv", "down")), experts, seed=0)
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 2 * 2 * 2 * len(experts)
    assert all(is_adapter(name) and name.split(".")[3] in experts and name.split(".")[4] in ("qkv", "down") for name in learning)
    for expert in BOTH:
        assert torch.equal(stream(model, expert), stream(tiny_model(), expert))


def test_the_first_weights_depend_on_the_seed_alone() -> None:
    models = [tiny_model() for _ in range(3)]
    for model, seed in zip(models, (0, 0, 1), strict=True):
        attach(model, LORA, BOTH, seed)
        torch.randn(3)
    first, second, third = (model.state_dict() for model in models)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)


@pytest.mark.parametrize("kind", ["adamw", "muon"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_run_changes_adapters_and_nothing_else(tmp_path: Path, kind: str, precision: str) -> None:
    recipe = lora_run(tmp_path, steps=3, precision=precision, optim={"kind": kind, "learning_rate": 1e-2, "ema": 0.9})
    run = loop.start(recipe)
    before = copy.deepcopy(run.model.state_dict())
    meter = loop.Meter(tmp_path / "metrics.jsonl")
    for _ in range(3):
        loop._one_step(run, meter)
    changed = {name for name, tensor in run.model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any("lora_B" in name for name in changed)
    assert all(is_adapter(name) for name in changed)
    assert not run.optimizer.state()["momenta"]


def test_muon_still_takes_every_matrix_of_a_model_without_adapters() -> None:
    assert len(Optimizer(tiny_model(), OptimRecipe(kind="muon"), 1).state()["momenta"]) == 2 * 2 * 4


@pytest.mark.parametrize("experts", [("generation",), BOTH])
def test_the_merged_model_computes_what_the_adapted_one_does(experts: tuple[str, ...]) -> None:
    from peft.tuners.lora import LoraLayer

    model, merged = adapted(experts), tiny_model()
    merged.load_state_dict(merged_tensors(model.state_dict(), LORA, torch.float32))
    for expert in BOTH:
        assert torch.allclose(stream(model, expert), stream(merged, expert), atol=1e-5)
        assert torch.allclose(stream(tiny_model(), expert), stream(merged, expert), atol=1e-3) == (expert not in experts)
    for name, layer in model.named_modules():
        if isinstance(layer, LoraLayer):
            layer.merge()
            assert torch.allclose(layer.base_layer.weight, merged.get_submodule(name).weight, atol=1e-6), name


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_load_adapter_gives_the_exported_model(tmp_path: Path, precision: str) -> None:
    recipe = lora_run(tmp_path, steps=4, precision=precision, optim={"learning_rate": 5e-2, "ema": 0.5})
    train(recipe)
    adapter = recipe.output / "adapter"
    assert {path.name for path in adapter.iterdir()} == {ADAPTER_CONFIG, ADAPTER_WEIGHTS}
    settings = json.loads((adapter / ADAPTER_CONFIG).read_text())
    assert (settings["peft_type"], settings["r"], settings["lora_alpha"]) == ("LORA", 4, 8.0)
    lance = Lance.from_pretrained(tmp_path / "base", device="cpu", dtype="bfloat16")
    before = copy.deepcopy(lance.model.state_dict())
    lance.binder.known_words = KnownWords(frozenset(), {}, (3, 5))
    lance.load_adapter(adapter)
    assert lance.binder.known_words is None
    exported = Lance.from_pretrained(recipe.output / "model", device="cpu", dtype="bfloat16").model.state_dict()
    loaded = lance.model.state_dict()
    assert all(torch.equal(loaded[name], exported[name]) for name in exported)
    assert sum(not torch.equal(loaded[name], before[name]) for name in exported) == 2 * 2 * 4


def test_peft_reads_the_exported_adapter(tmp_path: Path) -> None:
    from peft import PeftModel

    model = adapted()
    write_adapter(model.state_dict(), LORA, BOTH, tmp_path)
    read = PeftModel.from_pretrained(tiny_model(), str(tmp_path)).base_model.model
    assert all(torch.equal(stream(model, expert), stream(read, expert)) for expert in BOTH)


def test_the_loss_falls(tmp_path: Path) -> None:
    recipe = lora_run(tmp_path, steps=20, save_minutes=5, optim={"learning_rate": 2e-2, "ema": 0.9, "eps": 1e-10})
    train(recipe)
    losses = [loss for loss, _ in curve(recipe.output).values()]
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


def test_resumed_it_ends_with_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = lora_run(tmp_path, steps=6, train=("generation",))
    train(recipe)
    whole, stopped = tmp_path / "whole", tmp_path / "run"
    os.rename(stopped, whole)
    one_step = loop._one_step

    def until_three(run: loop.Run, meter: Any) -> None:
        if run.step == 3:
            raise KeyboardInterrupt
        one_step(run, meter)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "_one_step", until_three)
        with pytest.raises(KeyboardInterrupt):
            train(recipe)
    assert final_state(stopped)["step"] == 3
    train(recipe)
    assert same_weights(whole, stopped)
    assert curve(whole) == curve(stopped)
    assert (whole / "adapter" / ADAPTER_WEIGHTS).read_bytes() == (stopped / "adapter" / ADAPTER_WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["qkv", "gates"]}, "gates.* must be among qkv, output, gate_up, down"),
        ({"targets": []}, "must be among"),
        ({"rank": 0}, "rank 0 must be at least 1"),
        ({"alpha": 0}, "alpha 0.* must be a number above 0"),
        ({"ranks": 3}, "ranks"),
    ],
)
def test_bad_recipes_are_named(tmp_path: Path, lora: dict[str, Any], message: str) -> None:
    with pytest.raises(LanceError, match=message):
        lora_run(tmp_path, lora)


def broken_adapter(folder: Path, change: dict[str, Tensor | None] | None = None, **settings: Any) -> Path:
    """An adapter with some tensors replaced, added or (None) taken out."""
    from safetensors.torch import load_file

    write_adapter(adapted().state_dict(), LORA, BOTH, folder)
    tensors = {**load_file(folder / ADAPTER_WEIGHTS), **(change or {})}
    write_tensors(folder / ADAPTER_WEIGHTS, {name: tensor for name, tensor in tensors.items() if tensor is not None})
    config = json.loads((folder / ADAPTER_CONFIG).read_text())
    (folder / ADAPTER_CONFIG).write_text(json.dumps({**config, **settings}))
    return folder


QKV = "base_model.model.transformer.layers.1.generation.qkv"


@pytest.mark.parametrize(
    ("change", "settings", "message"),
    [
        ({f"{QKV}.lora_A.weight": torch.zeros(4, 7)}, {}, r"generation\.qkv\.lora_A\.weight is \[4, 7\] instead of \[4, 32\].*checkpoint"),
        ({f"{QKV}.lora_B.weight": None}, {}, r"generation\.qkv\.lora_B\.weight is missing"),
        ({f"{QKV}s.lora_B.weight": torch.zeros(4, 4)}, {}, r"qkvs\.lora_B\.weight has no place in the model"),
        ({f"{QKV}.lora_A.weight": torch.full((4, 32), float("nan"))}, {}, r"NaN or infinity for transformer\.layers\.1\.generation\.qkv"),
        ({}, {"r": 8}, r"is \[4, 32\] instead of \[8, 32\]"),
        ({}, {"r": 0}, "rank 0"),
        ({}, {"use_dora": True}, "use_dora: only plain LoRA"),
        ({}, {"peft_type": "IA3"}, "IA3"),
        ({}, {"lora_alpha": None}, "cannot be read"),
    ],
)
def test_an_adapter_that_does_not_fit_changes_nothing(tmp_path: Path, change: Any, settings: dict[str, Any], message: str) -> None:
    model = tiny_model().requires_grad_(False)
    with pytest.raises(CheckpointError, match=message):
        merge_adapter(model, broken_adapter(tmp_path / "adapter", change, **settings))
    before = tiny_model().state_dict()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_folder_without_safetensors_is_refused(tmp_path: Path) -> None:
    folder = broken_adapter(tmp_path / "adapter")
    (folder / ADAPTER_WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.safetensors does not exist"):
        merge_adapter(tiny_model(), folder)
    with pytest.raises(CheckpointError, match="point to its folder"):
        merge_adapter(tiny_model(), tmp_path)


def test_the_recipe_for_the_released_weights_can_be_read() -> None:
    path = ROOT / "recipes" / "finetune" / "lora.yaml"
    recipe = read_recipe(path)
    assert recipe.model.lora == LoraRecipe(rank=16, alpha=16.0)
    assert recipe.model.train == ("generation",)
    assert (recipe.optim.kind, recipe.optim.learning_rate) == ("adamw", 1e-4)
    assert yaml.safe_load(path.read_text())["model"]["checkpoint"] == "bytedance-research/Lance"
