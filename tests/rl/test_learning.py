"""Both objectives raise a reward that is known; runs resume bit for bit; what cannot be learned from is skipped and counted."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openlance.errors import LanceError
from openlance.model.mot import Layer
from openlance.rl.loop import Run, iterate, practise, start_with
from openlance.rl.plan import make_plan
from openlance.rl.recipe import RlRecipe
from openlance.rl.watch import change, suspicions
from tests.rl.tiny import recipe_of, tiny_model

GRPO: dict[str, Any] = {"objective": "grpo", "grpo": {"clip": 0.01, "level": 0.9, "window": 2}}
NFT: dict[str, Any] = {"objective": "nft", "nft": {"draws": 2, "follow_rate": 0.1}}
SMALL: dict[str, Any] = {"rollout": {"prompts": 2, "samples": 4, "sampling": {"num_inference_steps": 5}}}
CALLS = {"left": -1}


def fresh(recipe: RlRecipe) -> Run:
    return start_with(recipe, *tiny_model())


def weights(run: Run) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in run.model.parameters() if p.requires_grad])


@pytest.mark.parametrize("objective", [GRPO, NFT, {**GRPO, "grpo": {**GRPO["grpo"], "guard": True}}], ids=["grpo", "nft", "guard"])
def test_reward_rises(tmp_path: Path, objective: dict[str, Any]) -> None:
    """Redness of tiles: the mean of the last iterations lies clearly above that of the first, where nothing was learned yet."""
    rollout = {"prompts": 2, "samples": 8, "sampling": {"num_inference_steps": 4}}
    optim = {"learning_rate": 6e-3, "eps": 1e-15, "ema": 0.0}
    run = fresh(recipe_of(tmp_path, iterations=8, rollout=rollout, optim=optim, advantage={"deviation": "batch"}, **objective))
    rewards = [iterate(run)["tests.rl.tiny:redness"] for _ in range(run.recipe.iterations)]
    assert np.mean(rewards[-3:]) > np.mean(rewards[:3]) + 0.06


@pytest.mark.slow
@pytest.mark.parametrize("objective", [GRPO, NFT], ids=["grpo", "nft"])
def test_reward_rises_far(tmp_path: Path, objective: dict[str, Any]) -> None:
    rollout = {"prompts": 3, "samples": 16, "sampling": {"num_inference_steps": 6}}
    optim = {"learning_rate": 4e-3, "eps": 1e-15, "ema": 0.0}
    run = fresh(recipe_of(tmp_path, iterations=60, rollout=rollout, optim=optim, **objective))
    rewards = [iterate(run)["tests.rl.tiny:redness"] for _ in range(run.recipe.iterations)]
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.3


def brittle(frames: np.ndarray, prompt: str) -> float:
    """Redness that stops the process after a number of pictures."""
    CALLS["left"] -= 1
    if CALLS["left"] == 0:
        raise KeyboardInterrupt
    return float(frames[..., 0].mean() - frames[..., 1:].mean())


@pytest.mark.parametrize("objective", [{**GRPO, "grpo": {"window": 2, "kl": 0.1}}, {**NFT, "nft": {"kl": 0.1}}], ids=["grpo", "nft"])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, objective: dict[str, Any]) -> None:
    settings = {**SMALL, **objective, "iterations": 4, "rewards": {"tests.rl.test_learning:brittle": 1.0}, "save_minutes": 0.0}
    optim = {"learning_rate": 1e-3, "ema": 0.5, "schedule": "linear"}
    whole, broken = (recipe_of(tmp_path, output=str(tmp_path / name), optim=optim, **settings) for name in ("whole", "broken"))
    CALLS["left"] = -1
    expected = practise(whole, fresh(whole))
    CALLS["left"] = 8 * 2 + 3
    with pytest.raises(KeyboardInterrupt):
        practise(broken, fresh(broken))
    resumed = practise(broken, fresh(broken))
    assert torch.equal(weights(resumed), weights(expected))
    assert (resumed.iteration, resumed.update) == (4, 8)
    lines = [[json.loads(line) for line in (r.output / "metrics.jsonl").read_text().splitlines()] for r in (whole, broken)]
    for a, b in zip(*lines, strict=True):
        assert {k: v for k, v in a.items() if k != "seconds"} == {k: v for k, v in b.items() if k != "seconds"}
    assert (broken.output / "model" / "config.json").exists()


@pytest.mark.parametrize("objective", [{**GRPO, "grpo": {"window": 2, "kl": 0.1}}, NFT], ids=["grpo", "nft"])
def test_layers_that_are_computed_again_learn_the_same(tmp_path: Path, objective: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    learning: list[bool] = []
    forward = Layer.forward

    def counted(*inputs: Any) -> Any:
        learning.append(torch.is_grad_enabled())
        return forward(*inputs)

    monkeypatch.setattr(Layer, "forward", counted)
    seen, learned = [], []
    for again in (False, True):
        run = fresh(recipe_of(tmp_path, **SMALL, **objective, activation_checkpointing=again))
        learning.clear()
        for _ in range(2):
            iterate(run)
        seen.append((learning.count(False), learning.count(True)))
        learned.append(weights(run))
    assert torch.equal(*learned)
    assert seen[1] == (seen[0][0], 2 * seen[0][1])


def test_alike_samples_are_skipped_and_counted(tmp_path: Path) -> None:
    """A reward that cannot tell samples apart teaches nothing: no weight moves."""
    run = fresh(recipe_of(tmp_path, rewards={"tests.rl.test_learning:constant": 1.0}, **SMALL, **GRPO))
    before = weights(run)
    numbers = iterate(run)
    assert numbers["alike groups"] == 2
    assert numbers["idle updates"] == 2
    assert torch.equal(weights(run), before)


def constant(frames: np.ndarray, prompt: str) -> float:
    return 0.25


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_ratios_leave_one_only_after_the_first_update(tmp_path: Path, precision: str) -> None:
    run = fresh(recipe_of(tmp_path, updates=2, precision=precision, optim={"learning_rate": 1e-2, "ema": 0.0}, **SMALL, **GRPO))
    numbers = iterate(run)
    assert numbers["first ratio off"] <= 1e-6
    assert numbers["ratio_off"] > 1e-5
    assert numbers["gradient_norm"] > 0


def test_kl_holds_the_policy_back(tmp_path: Path) -> None:
    moved = []
    for kl in (0.0, 1e4):
        optim, grpo = {"learning_rate": 3e-3, "ema": 0.0}, {"clip": 0.1, "window": 2, "kl": kl}
        run = fresh(recipe_of(tmp_path, **SMALL, grpo=grpo, optim=optim))
        kept, _ = tiny_model()
        for _ in range(5):
            iterate(run)
        x = torch.randn(8, 4, 4, generator=torch.Generator().manual_seed(0))
        moved.append(_distance(run, kept, x))
    assert moved[1] < 0.5 * moved[0]


def _distance(run: Run, kept: Any, x: torch.Tensor) -> float:
    """Mean squared change of the policy's velocity."""
    from openlance.rl.rollout import prepare_samples

    prompt, sampling = run.recipe.prompts.prompt(0), run.recipe.rollout.sampling
    with torch.no_grad():
        now, then = (prepare_samples(m, run.binder, prompt, sampling, [8])[0].velocity(x, [0.6] * 8) for m in (run.model, kept))
    return float((now - then).square().mean())


def test_an_update_that_is_not_finite_is_left_out_and_too_many_stop_the_run(tmp_path: Path) -> None:
    run = fresh(recipe_of(tmp_path, skip_bad_updates=2, **SMALL, **GRPO))
    before = weights(run)
    run.objective.losses = _poisoned(run)  # type: ignore[method-assign]
    iterate(run)
    assert run.skipped == 2
    assert torch.equal(weights(run), before)
    with pytest.raises(LanceError, match=r"learning_rate"):
        iterate(run)


def _poisoned(run: Run) -> Any:
    honest = run.objective.losses

    def losses(*arguments: Any) -> Any:
        for loss, numbers in honest(*arguments):
            yield loss * float("nan"), numbers

    return losses


def test_evaluations_and_sheets_are_written(tmp_path: Path) -> None:
    evaluations = {"held": {"count": 3, "batch": 2, "prompts": {"world": {"single": 1}, "height": 64, "width": 64, "split": "test"}}}
    run = practise_one(tmp_path, evaluations=evaluations, watch=["world_judge"], evaluate_every=1)
    lines = [json.loads(line) for line in (run.recipe.output / "evaluations.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 1]
    assert {"tests.rl.tiny:redness", "world_judge", "world_judge.right"} <= set(lines[0])
    assert len(list((run.recipe.output / "sheets").iterdir())) == 2


def practise_one(folder: Path, **values: Any) -> Run:
    recipe = recipe_of(folder, **{**SMALL, **GRPO, **values, "iterations": 1})
    return practise(recipe, fresh(recipe))


def test_plan_counts_what_a_run_computes(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path, **GRPO, rollout={"prompts": 2, "samples": 4, "sampling": {"num_inference_steps": 5}}, updates=2, passes=3)
    run = fresh(recipe)
    plan = make_plan(run)
    assert plan.samples == 2 * 2 * 4
    assert plan.updates == 2 * 2 * 3
    assert plan.tokens_per_iteration == 8 * 4 * (5 + 3 * 2)
    assert plan.learns == weights(run).numel() < plan.parameters
    assert any("redness" in line for line in plan.lines(run))


def test_watching_speaks_up_only_when_metrics_part() -> None:
    rng = np.random.default_rng(0)
    up, down, flat = (list(slope * np.arange(40) + rng.normal(0, 0.05, 40)) for slope in (0.02, -0.02, 0.0))
    assert change(up) > 2 > -2 > change(down)
    assert change(up[:4]) == 0
    assert suspicions({"a": up, "b": down}, ["a"], ["b"])
    assert not suspicions({"a": up, "b": up}, ["a"], ["b"])
    assert not suspicions({"a": flat, "b": down}, ["a"], ["b"])
