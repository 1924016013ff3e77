"""Rewards, advantages, prompts and recipes: what is scored, what is counted, what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openlance.errors import LanceError
from openlance.media.clip import Clip
from openlance.rl.advantage import AdvantageRecipe, advantages
from openlance.rl.prompts import Prompt, PromptSource
from openlance.rl.recipe import RlRecipe, read_rl_recipe
from openlance.rl.rewards import Score, find_reward
from openlance.rl.rewards.reading import agreement, distance
from openlance.rl.scoring import Judges, RewardError, pooled
from openlance.train.recipe import RecipeError
from openlance.world.splits import splits
from tests.rl.tiny import recipe_of

RECIPES = Path(__file__).resolve().parent.parent.parent / "recipes"
BLANK = Clip(np.full((1, 64, 64, 3), 200, np.uint8), 1.0)
WORDS = PromptSource(world={"word": 1.0}, split="unseen words")


def drawn(prompt: Prompt) -> Clip:
    """The right picture of a prompt of the world."""
    assert prompt.turn is not None
    assert prompt.turn.target is not None
    return Clip(prompt.turn.target.pixels(), 1.0)


# ---- rewards


@pytest.mark.parametrize(
    ("read", "wanted", "value", "exact"),
    [("CAT", "cat", 1.0, 1.0), ("c at", "CAT", 1.0, 1.0), ("xxCATxx", "cat", 1.0, 0.0), ("CUT", "CAT", 2 / 3, 0.0), ("", "CAT", 0.0, 0.0)],
)
def test_agreement(read: str, wanted: str, value: float, exact: float) -> None:
    score = agreement(read, wanted)
    assert score.value == pytest.approx(value)
    assert score.measures == {"exact": exact, "unread": float(not read)}


@given(st.text("abc", max_size=6), st.text("abc", max_size=6))
@settings(max_examples=40, deadline=None)
def test_distance_is_that_of_its_definition(a: str, b: str) -> None:
    def slow(i: int, j: int) -> int:
        if not i or not j:
            return i + j
        return min(slow(i - 1, j) + 1, slow(i, j - 1) + 1, slow(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

    assert distance(a, b) == slow(len(a), len(b)) == distance(b, a)


def test_the_world_s_rewards_know_right_from_wrong() -> None:
    prompts = [WORDS.prompt(i) for i in range(6)]
    right = [drawn(prompt) for prompt in prompts]
    wrong = right[1:] + right[:1]
    for name, measure in (("template_ocr", "exact"), ("world_judge", "right")):
        reward = find_reward(name)
        good, bad = reward(right, prompts), reward(wrong, prompts)
        assert np.mean([s.measures[measure] for s in good if s]) > 0.8
        assert np.mean([s.measures[measure] for s in bad if s]) < 0.2
        assert np.mean([s.value for s in good if s]) > np.mean([s.value for s in bad if s]) + 0.3


def test_rewards_are_silent_about_what_no_prompt_asks() -> None:
    assert find_reward("template_ocr")([BLANK], [Prompt("a red circle")]) == [None]
    assert find_reward("world_judge")([BLANK], [Prompt("a red circle")]) == [None]


def test_ocr_reads_clean_words() -> None:
    pytest.importorskip("rapidocr")
    prompts = [WORDS.prompt(i) for i in range(3)]
    reward = find_reward("ocr")
    scores = reward([*map(drawn, prompts), BLANK, BLANK], [*prompts, prompts[0], Prompt("no word is quoted")])
    assert np.mean([s.value for s in scores[:3] if s]) > 0.9
    assert scores[3] == Score(0.0, {"exact": 0.0, "unread": 1.0})
    assert scores[4] is None


def sometimes(frames: np.ndarray, prompt: str) -> float:
    """Fails on two prompts out of four, each in its own way."""
    if prompt == "1":
        raise OSError("no such judge")
    return float("nan") if prompt == "2" else 0.5


def always_fails(frames: np.ndarray, prompt: str) -> float:
    raise OSError("offline")


def test_failures_are_counted_never_zero() -> None:
    name = "tests.rl.test_scores:sometimes"
    judges = Judges({name: find_reward(name)}, {name: 2.0})
    scored = judges.score([BLANK] * 4, [Prompt(str(i)) for i in range(4)])
    assert scored.failures == {name: 2}
    assert scored.means[name] == 0.5
    assert torch.equal(torch.isnan(scored.total), torch.tensor([False, True, True, False]))
    assert float(scored.total[0]) == 1.0


def test_a_watched_reward_that_fails_costs_no_sample() -> None:
    watched = "tests.rl.test_scores:sometimes"
    judges = Judges({watched: find_reward(watched), "template_ocr": find_reward("template_ocr")}, {"template_ocr": 1.0})
    scored = judges.score([BLANK] * 4, [Prompt(str(i)) for i in range(4)])
    assert scored.failures == {watched: 2}
    assert torch.isfinite(scored.total).all()
    assert watched in scored.means
    unwatched = judges.score([BLANK] * 4, [Prompt(str(i)) for i in range(4)], watch=False)
    assert watched not in unwatched.means
    assert torch.equal(unwatched.total, scored.total)


def test_a_reward_that_mostly_fails_stops_the_run() -> None:
    name = "tests.rl.test_scores:always_fails"
    with pytest.raises(RewardError, match=r"3 of 3 pictures.*offline"):
        pooled([Judges({name: find_reward(name)}, {name: 1.0}).score([BLANK] * 3, [Prompt("x")] * 3)])
    with pytest.raises(RewardError, match="2 scores for 3"):
        Judges({"short": lambda clips, prompts: [Score(1.0)] * 2}, {"short": 1.0}).score([BLANK] * 3, [Prompt("x")] * 3)
    with pytest.raises(RewardError, match="finite"):
        Judges({"wild": lambda clips, prompts: [Score(float("inf"))]}, {"wild": 1.0}).score([BLANK], [Prompt("x")])


def test_what_fails_on_one_process_is_weighed_with_what_all_asked() -> None:
    name = "tests.rl.test_scores:sometimes"
    judges = Judges({name: find_reward(name)}, {name: 1.0})
    fails, mends = (judges.score([BLANK] * len(texts), [Prompt(text) for text in texts]) for texts in ("12", "0303"))
    whole = pooled([fails, mends])
    assert (whole.failures, whole.asked) == ({name: 2}, {name: 6})
    assert torch.isnan(whole.total).tolist() == [True, True, False, False, False, False]
    with pytest.raises(RewardError, match=r"2 of 3 pictures, last with"):
        pooled([fails, judges.score([BLANK], [Prompt("3")])])


@pytest.mark.parametrize("name", ["beauty", "no_such_module:judge", "math:no_such_function", "math:pi"])
def test_unknown_rewards_are_refused(name: str) -> None:
    with pytest.raises(LanceError, match="reward"):
        find_reward(name)


# ---- advantages


@given(st.integers(0, 999), st.sampled_from(["group", "batch"]))
@settings(max_examples=10, deadline=None)
def test_advantages_are_standard_scores(seed: int, deviation: str) -> None:
    rewards = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * torch.tensor([[1.0], [5.0], [0.1]])
    found = advantages(rewards, AdvantageRecipe(deviation, limit=1.5))
    scale = rewards.std(1, keepdim=True, correction=0) if deviation == "group" else rewards.std(correction=0)
    expected = ((rewards - rewards.mean(1, keepdim=True)) / (scale + 1e-4)).clamp(-1.5, 1.5)
    torch.testing.assert_close(found.values.double(), expected, atol=1e-5, rtol=1e-4)
    assert found.learns.all()
    assert found.alike == 0


@pytest.mark.parametrize("deviation", ["group", "batch"])
def test_alike_groups_and_failed_samples_do_not_learn(deviation: str) -> None:
    nan = float("nan")
    found = advantages(torch.tensor([[1.0, 1.0, 1.0], [0.0, nan, 1.0], [nan, nan, 3.0]]), AdvantageRecipe(deviation))
    assert found.learns.tolist() == [[False] * 3, [True, False, True], [False] * 3]
    assert found.alike == 2
    assert torch.equal(found.values == 0, ~found.learns)
    assert float(found.values[1, 0]) == pytest.approx(-float(found.values[1, 2]))


# ---- prompts


def test_prompts_of_the_world_are_the_same_every_time_and_keep_to_their_split() -> None:
    source = PromptSource(world={"word": 1.0, "count": 1.0}, first=500)
    prompts = [source.prompt(i, seed=3) for i in range(20)]
    assert prompts == [source.prompt(i, seed=3) for i in range(20)]
    assert {prompt.category for prompt in prompts} == {"word", "count"}
    held = set(splits().held_words)
    assert all(prompt.words not in held for prompt in prompts)
    assert all(WORDS.prompt(i).words in held for i in range(5))
    assert all(bool(prompt.words) == (prompt.category == "word") for prompt in prompts)


def test_prompts_of_a_file_go_round(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps({"text": str(i), "height": 64}) + "\n" for i in range(5)))
    source = PromptSource(file=path, width=96)
    texts = [source.prompt(i, seed=1).text for i in range(10)]
    assert sorted(texts[:5]) == sorted(texts[5:]) == list("01234")
    assert (source.prompt(0).height, source.prompt(0).width) == (64, 96)


@pytest.mark.parametrize("line", ["not json", '{"text": 5}', '{"caption": "x"}', '["text"]', '{"text": "x", "seed": 1}', ""])
def test_bad_prompt_files_are_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(LanceError, match=r"bad\.jsonl"):
        PromptSource(file=path).prompt(0)


# ---- recipes


@pytest.mark.parametrize("path", sorted(RECIPES.glob("nano/rl*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_are_read(path: Path) -> None:
    recipe = read_rl_recipe(path, ["iterations=7", "optim.learning_rate=1e-5", "grpo.guard=true"])
    assert recipe.iterations == 7
    assert recipe.optim.learning_rate == 1e-5
    assert recipe.grpo.guard
    assert recipe.prompts.prompt(0).text
    assert all(evaluation.prompts.split != "train" for evaluation in recipe.evaluations.values())


BAD: list[tuple[dict[str, Any], str]] = [
    ({"objective": "dpo"}, "dpo"),
    ({"rewards": {}}, "at least one reward"),
    ({"watch": ["tests.rl.tiny:redness"]}, "trained on"),
    ({"model": {"checkpoint": "x", "train": ["understanding"]}}, r"model\.train"),
    ({"rollout": {"prompts": 2, "samples": 1}}, "samples"),
    ({"updates": 3}, "updates 3"),
    ({"rollout": {"prompts": 2, "samples": 4, "sampling": {"solver": "heun"}}}, "heun"),
    ({"grpo": {"noise": "sde"}}, "sde"),
    ({"grpo": {"level": 0}}, "level"),
    ({"grpo": {"clip": -1}}, "clip"),
    ({"nft": {"beta": 0}}, "beta"),
    ({"advantage": {"deviation": "none"}}, "none"),
    ({"prompts": {"world": {"poem": 1}}}, "poem"),
    ({"prompts": {"world": {"word": 0}}}, "above it"),
    ({"prompts": {}}, "exactly one"),
    ({"prompts": {"task": "image_edit", "world": {"colour": 1}}}, "words alone"),
    ({"speed": 9}, "speed"),
    ({"iterations": "many"}, "iterations"),
]


@pytest.mark.parametrize(("values", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_recipes_name_the_key(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(LanceError, match=message):
        recipe_of(tmp_path, **values)


def test_a_window_that_does_not_fit_is_refused_before_anything_runs(tmp_path: Path) -> None:
    from openlance.rl.loop import start_with
    from tests.rl.tiny import tiny_model

    rollout = {"prompts": 2, "samples": 4, "sampling": {"num_inference_steps": 4}}
    for grpo in ({"window": 4}, {"window": 2, "window_last": 3}, {"window": 1, "window_first": 3}):
        with pytest.raises(LanceError, match="does not fit 4 steps"):
            start_with(recipe_of(tmp_path, rollout=rollout, grpo=grpo), *tiny_model())
    recipe = recipe_of(tmp_path, learns=["no_such_weight"])
    with pytest.raises(RecipeError, match="no_such_weight"):
        start_with(recipe, *tiny_model())


def test_recipes_become_plain_values(tmp_path: Path) -> None:
    recipe = recipe_of(tmp_path)
    assert isinstance(recipe, RlRecipe)
    assert json.loads(json.dumps(recipe.to_dict()))["rollout"]["samples"] == 4
