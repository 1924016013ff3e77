"""Adapters in stage four: they alone learn, their first values are the reference, and what is exported is the model that was trained."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("peft")

import openlance.rl.loop as loop
from openlance.apps.cli import main
from openlance.model.lance import LanceModel
from openlance.pipeline import Lance
from openlance.rl.grpo import Grpo
from openlance.rl.loop import Run, iterate, practise, start_with
from openlance.rl.plan import make_plan
from openlance.rl.recipe import RlRecipe, read_rl_recipe
from openlance.rl.rollout import prepare_samples
from openlance.train.checkpoint import Checkpoints
from openlance.train.lora import LoraRecipe, is_adapter
from openlance.train.recipe import RecipeError
from openlance.weights.adapter import ADAPTER_WEIGHTS
from tests.rl.tiny import Tiles, recipe_of, tiny_model

ROOT = Path(__file__).resolve().parents[2]
MODEL: dict[str, Any] = {"checkpoint": "in memory", "train": ["generation"], "lora": {"rank": 4, "alpha": 8.0}}
GRPO: dict[str, Any] = {"objective": "grpo", "grpo": {"clip": 0.01, "level": 0.9, "window": 2, "kl": 0.1}}
NFT: dict[str, Any] = {"objective": "nft", "nft": {"draws": 2, "follow_rate": 0.1, "kl": 0.1}}
SMALL: dict[str, Any] = {"rollout": {"prompts": 2, "samples": 4, "sampling": {"num_inference_steps": 5}}}
BOTH = pytest.mark.parametrize("objective", [GRPO, NFT], ids=["grpo", "nft"])
PRECISIONS = pytest.mark.parametrize("precision", ["float32", "bfloat16"])


def lora_recipe(folder: Path, **values: Any) -> RlRecipe:
    return recipe_of(folder, **{"model": MODEL, "optim": {"learning_rate": 3e-2, "ema": 0.5}, **SMALL, **values})


def fresh(recipe: RlRecipe) -> Run:
    return start_with(recipe, *tiny_model())


def velocity(model: LanceModel, run: Run) -> Tensor:
    """What a model makes of the same noisy latents, with the run's prompt."""
    x = torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        (samples,) = prepare_samples(model, run.binder, run.recipe.prompts.prompt(0), run.recipe.rollout.sampling, [8])
        return samples.velocity(x, [0.6] * 8)


@BOTH
@PRECISIONS
def test_adapters_change_and_nothing_else(tmp_path: Path, objective: dict[str, Any], precision: str) -> None:
    run = fresh(lora_recipe(tmp_path, precision=precision, **objective))
    before = copy.deepcopy({name: p.detach() for name, p in run.model.named_parameters()})
    iterate(run)
    changed = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert all(is_adapter(name) and ".generation." in name for name in changed)
    assert {name.split(".")[4] for name in changed if ".lora_B." in name} == {"qkv", "output", "gate_up", "down"}
    assert run.optimizer.names == [name for name, _ in run.model.named_parameters() if is_adapter(name)]


@PRECISIONS
def test_the_first_ratio_is_one_and_the_divergence_begins_at_nothing(tmp_path: Path, precision: str) -> None:
    run = fresh(lora_recipe(tmp_path, updates=1, precision=precision, **GRPO))
    first, second = iterate(run), iterate(run)
    assert first["first ratio off"] <= 1e-6
    assert first["gradient_norm"] > 0
    assert first["kl"] == 0
    assert second["kl"] > 0


@BOTH
def test_the_reference_is_the_model_without_adapters_and_costs_as_little_as_they(tmp_path: Path, objective: dict[str, Any]) -> None:
    run = fresh(lora_recipe(tmp_path, **objective))
    iterate(run)
    reference: Any = run.objective._reference  # type: ignore[attr-defined]
    plain = velocity(tiny_model()[0], run)
    with reference.active():
        assert torch.equal(velocity(run.model, run), plain)
    assert not torch.allclose(velocity(run.model, run), plain, atol=1e-4)
    adapters = sum(p.nbytes for name, p in run.model.named_parameters() if is_adapter(name))
    assert sum(value.nbytes for value in reference.state()) == adapters
    copies = len([values for values in run.objective.state().values() if values])
    assert make_plan(run).copies == copies * adapters


@BOTH
def test_the_reward_rises(tmp_path: Path, objective: dict[str, Any]) -> None:
    rollout = {"prompts": 2, "samples": 8, "sampling": {"num_inference_steps": 4}}
    values: dict[str, Any] = {"iterations": 8, "rollout": rollout, "advantage": {"deviation": "batch"}}
    optim = {"learning_rate": 3e-2, "eps": 1e-10, "ema": 0.0}
    run = fresh(lora_recipe(tmp_path, **values, **{**objective, "grpo": {**GRPO["grpo"], "kl": 0.0}, "nft": {"draws": 2}, "optim": optim}))
    rewards = [iterate(run)["tests.rl.tiny:redness"] for _ in range(run.recipe.iterations)]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.06


@BOTH
@PRECISIONS
def test_a_stopped_run_ends_with_the_same_adapters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: dict[str, Any], precision: str
) -> None:
    settings = {**objective, "iterations": 3, "save_minutes": 0.0, "precision": precision}
    whole, stopped = (lora_recipe(tmp_path, output=str(tmp_path / name), **settings) for name in ("whole", "stopped"))
    practise(whole, fresh(whole))

    def until_two(run: Run) -> dict[str, Any]:
        if run.iteration == 2:
            raise KeyboardInterrupt
        return iterate(run)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "iterate", until_two)
        with pytest.raises(KeyboardInterrupt):
            practise(stopped, fresh(stopped))
    resumed = practise(stopped, fresh(stopped))
    assert (resumed.iteration, resumed.update) == (3, 6)
    first, second = ((recipe.output / "adapter" / ADAPTER_WEIGHTS).read_bytes() for recipe in (whole, stopped))
    assert first == second
    one, other = (Checkpoints(recipe.output / "checkpoints").load() for recipe in (whole, stopped))
    assert one is not None
    assert other is not None
    for key in ("masters", "averages"):
        assert all(torch.equal(x, y) for x, y in zip(one["optimizer"][key], other["optimizer"][key], strict=True))
    assert set(one["optimizer"]["names"]) == {name for name, _ in resumed.model.named_parameters() if is_adapter(name)}


def test_evaluations_are_of_the_averaged_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluations = {"held": {"count": 2, "batch": 2, "prompts": {"world": {"single": 1}, "height": 64, "width": 64, "split": "test"}}}
    seen = []

    def evaluate(engine: Any, *arguments: Any) -> Any:
        seen.append({name: p.detach().clone() for name, p in engine.model.named_parameters() if is_adapter(name)})
        return honest(engine, *arguments)

    honest = loop.evaluate
    monkeypatch.setattr(loop, "evaluate", evaluate)
    recipe = lora_recipe(tmp_path, iterations=1, evaluations=evaluations, **GRPO)
    run = practise(recipe, fresh(recipe))
    for name, master, average in zip(run.optimizer.names, run.optimizer.masters, run.optimizer.averages, strict=True):
        assert torch.equal(seen[-1][name], average)
        assert torch.equal(run.model.get_parameter(name), master)
    assert any(not torch.equal(x, y) for x, y in zip(run.optimizer.masters, run.optimizer.averages, strict=True))
    lines = [json.loads(line) for line in (recipe.output / "evaluations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1]


@PRECISIONS
def test_what_a_run_leaves_is_the_model_with_its_adapter(recipe: Path, capsys: pytest.CaptureFixture[str], precision: str) -> None:
    """Through the command line, from a checkpoint on disk: a merged model in bfloat16 and the adapter that makes it of the checkpoint."""
    folder = recipe.parent
    lora = "model.lora={rank: 4, alpha: 8.0, targets: [qkv, down]}"
    values = [lora, f"precision={precision}", "optim.ema=0.5", "optim.learning_rate=5e-2", "rollout.samples=4"]
    assert main(["rl", str(recipe), *values, "--plan"]) == 0
    said = capsys.readouterr().out
    assert "weights learn: adapters of rank 4 on qkv, down" in said
    assert "MiB for copies" in said
    assert main(["rl", str(recipe), *values]) == 0
    with_adapter = Lance.from_pretrained(folder / "model", device="cpu", dtype="float32")
    before = copy.deepcopy(with_adapter.model.state_dict())
    if precision == "bfloat16":
        # What is frozen was rounded while it trained.
        with_adapter.model.load_state_dict({name: tensor.bfloat16().float() for name, tensor in before.items()})
    with_adapter.load_adapter(folder / "run" / "adapter")
    merged = Lance.from_pretrained(folder / "run" / "model", device="cpu", dtype="float32").model.state_dict()
    after = with_adapter.model.state_dict()
    assert all(torch.equal(after[name].bfloat16(), merged[name].bfloat16()) for name in after)
    changed = {name.split(".", 3)[3] for name in after if not torch.equal(merged[name], before[name].bfloat16().float())}
    assert changed == {"generation.qkv.weight", "generation.down.weight"}
    assert Lance.from_pretrained(folder / "run" / "model", device="cpu").generate_image("a red circle", num_inference_steps=2).size


def test_the_merged_export_computes_what_was_trained(tmp_path: Path) -> None:
    """To the rounding of bfloat16: far closer to the trained model than that is to the one it began with."""
    recipe = lora_recipe(tmp_path, iterations=3, **GRPO, optim={"learning_rate": 5e-2, "ema": 0.0})
    run = practise(recipe, fresh(recipe))
    trained, plain = velocity(run.model, run), velocity(tiny_model()[0], run)
    merged = Lance.from_pretrained(recipe.output / "model", device="cpu", dtype="float32").model
    merged.autoencoder = Tiles()
    change = (trained - plain).abs().max()
    assert change > 0.01
    assert (velocity(merged, run) - trained).abs().max() < 0.1 * change


def test_learns_narrows_the_adapters(tmp_path: Path) -> None:
    run = fresh(lora_recipe(tmp_path, learns=["qkv"], **GRPO))
    assert len(run.optimizer.names) == 2 * 2
    assert all(".generation.qkv.lora_" in name for name in run.optimizer.names)
    model = {**MODEL, "lora": {"targets": ["output", "down"]}}
    with pytest.raises(RecipeError, match=r"learns \['qkv'\] fits no adapter .*model\.lora.*: output, down$"):
        fresh(lora_recipe(tmp_path, model=model, learns=["qkv"]))
    with pytest.raises(RecipeError, match=r"learns \['lora_A'\] fits no weight .*: qkv, output, gate_up, down$"):
        fresh(lora_recipe(tmp_path, model={**MODEL, "lora": None}, learns=["lora_A"]))


def test_the_recipe_for_the_released_weights_can_be_read_and_practised(tmp_path: Path) -> None:
    """On the tiny model, as the released one is not at hand: its window fits its steps, its adapters and its reward exist."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"text": "a shop sign that says \\"OPEN\\"", "height": 32, "width": 32}\n')
    path = ROOT / "recipes" / "finetune" / "rl-lora.yaml"
    released = read_rl_recipe(path)
    assert released.model.checkpoint == "bytedance-research/Lance"
    assert isinstance(released.model.lora, LoraRecipe)
    assert (released.device, released.output.parts[0]) == ("cuda", "runs")
    assert Grpo(released.grpo, [], 0, released.rollout.sampling.num_inference_steps or 0).window(0)
    values = [f"prompts.file={prompts}", f"output={tmp_path / 'run'}", "device=cpu", "rollout.prompts=2", "rollout.samples=2"]
    run = fresh(read_rl_recipe(path, [*values, "rewards={'tests.rl.tiny:redness': 1.0}", "evaluations={}"]))
    assert f"adapters of rank {released.model.lora.rank}" in "\n".join(make_plan(run).lines(run))
    assert iterate(run)["gradient_norm"] > 0
