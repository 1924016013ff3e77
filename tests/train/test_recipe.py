"""Bad recipes stop with the key, the value and the remedy; good ones mean what the tables say."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from openlance.errors import LanceError
from openlance.sequence.tasks import TASKS
from openlance.train.recipe import read_recipe
from openlance.train.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {
    "name": "x",
    "output": "runs/x",
    "model": {"config": "model.yaml", "tokenizer": "tok"},
    "sources": {"a": {"cache": "c"}},
    "steps": 10,
}


def write(folder: Path, **changes: Any) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**GOOD, **changes}))
    return path


def test_overrides_reach_every_level(tmp_path: Path) -> None:
    overrides = ["optim.learning_rate=1e-3", "sources.a.weight=2", "sources.b.cache=d", "steps=20", "compile=true"]
    recipe = read_recipe(write(tmp_path), overrides)
    assert recipe.optim.learning_rate == 1e-3
    assert recipe.sources["a"].weight == 2
    assert recipe.sources["b"].cache == Path("d")
    assert recipe.steps == 20
    assert recipe.compile


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {"learning_rat": 1}}, "learning_rat"),
        ({"stepz": 3}, "stepz"),
        ({"steps": "many"}, "steps"),
        ({"steps": 0}, "steps 0"),
        ({"precision": "float8"}, "float8"),
        ({"attention": "flash"}, "attention.*\n.*'fused', 'plain', 'flex'.*flash"),
        ({"sources": {}}, "sources is empty"),
        ({"sources": {"a": {"weight": 1}}}, r"sources\.a needs exactly one"),
        ({"sources": {"a": {"cache": "c", "weight": 0}}}, "the weights of all sources are 0 at step 0"),
        ({"sources": {"a": {"cache": "c", "weight_at": {5: 0.0}}}}, "the weights of all sources are 0 at step 5"),
        ({"sources": {"a": {"cache": "c", "weight_at": {0: 1.0}}}}, "sources.a: a weight changes at step 0"),
        ({"sources": {"a": {"cache": "c", "weight_at": {"soon": 1.0}}}}, "weight_at"),
        ({"sources": {"a": {"cache": "c", "weight": -1}}}, "sources.a: weight -1"),
        ({"sources": {"a": {"world": {"task": "fly"}}}}, "fly"),
        ({"sources": {"a": {"world": {"task": "t2i", "lattice": -8}}}}, "lattice -8"),
        ({"sources": {"a": {"world": {"task": "t2i"}, "plain": True}}}, "set cache"),
        ({"sources": {"a": {"cache": "c", "category": "descibed"}}}, "descibed"),
        ({"sources": {"a": {"cache": "c", "category": "described", "rephrase": False}}}, "rephrase true"),
        ({"batch": {"form": "heap"}}, "heap"),
        ({"stage": "pt9"}, "pt9"),
        ({"optim": {"schedule": "step"}}, "step"),
    ],
)
def test_bad_values_are_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LanceError, match=message):
        read_recipe(write(tmp_path, **changes))


def test_values_of_a_recipe_made_in_python_are_checked_too(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path))
    for name, value in (("attention", "flash"), ("precision", "float8")):
        with pytest.raises(LanceError, match=f"{name} '{value}'"):
            replace(recipe, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("override", ["steps", "name.first=3"])
def test_bad_overrides_are_named(tmp_path: Path, override: str) -> None:
    with pytest.raises(LanceError, match=override.split("=")[0]):
        read_recipe(write(tmp_path), [override])


def test_a_stage_fills_in_what_the_recipe_does_not_say(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, stage="ct1", path={"timestep_shift": 2.0}))
    assert recipe.losses.ce == 0.5
    assert (recipe.dropout.prompt, recipe.dropout.all) == (0.05, 0.05)
    assert recipe.path.timestep_shift == 2.0
    assert read_recipe(write(tmp_path, stage="pt")).dropout.prompt == 0.1


@pytest.mark.parametrize("name", list(STAGES))
def test_the_mixture_of_a_stage(name: str) -> None:
    mixture = STAGES[name].mixture()
    assert sum(mixture.values()) == pytest.approx(1.0)
    generated = {task for task in mixture if not task.startswith("understand")}
    assert generated <= set(TASKS)
    videos = sum(share for task, share in mixture.items() if task in TASKS and TASKS[task].output == "video")
    assert videos == pytest.approx(0.64)
    assert mixture["understand video"] == pytest.approx(4 * mixture["understand image"])


SUPERVISED = [path for path in sorted((ROOT / "recipes").glob("**/*.yaml")) if "sources" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", SUPERVISED, ids=lambda path: path.name)
def test_recipes_of_the_repository_can_be_read(path: Path) -> None:
    recipe = read_recipe(path)
    assert recipe.output.parts[0] == "runs"
