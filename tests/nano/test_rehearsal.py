"""The embedded model's recipes from nothing, in their order, with next to no steps: each finds what the ones before it left."""

from pathlib import Path
from typing import Any

import pytest

from openlance import Lance
from openlance.apps.recipes import read_run, recipes_in_order
from openlance.train.recipe import read_values

ROOT = Path(__file__).resolve().parent.parent.parent
EXAMPLES = {"i2v": 4, "t2v": 4, "subject_video": 4, "video_edit": 4}
"""Examples in a shard of clips; a shard of pictures has 48, so that no category that a source asks for is missing."""


def shortened(recipe: dict[str, Any]) -> list[str]:
    """Overrides that make a run take seconds; all else of it stays as it is."""
    if "caches" in recipe:
        sizes = {name: EXAMPLES.get(cache["world"]["task"], 48) for name, cache in recipe["caches"].items()}
        return [f"caches.{name}.{key}={value}" for name, size in sizes.items() for key, value in (("shards", 1), ("shard_size", size))]
    if "rewards" in recipe:
        evaluations = [f"evaluations.{name}.count=2" for name in recipe["evaluations"]]
        return ["iterations=1", "rollout.prompts=2", "rollout.samples=2", "rollout.sampling.num_inference_steps=2", *evaluations]
    return [] if "average" in recipe else ["steps=2"]


@pytest.mark.slow
def test_each_recipe_finds_what_those_before_it_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("recipes", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    kinds = []
    for path in recipes_in_order(Path("recipes/nano")):
        run = read_run(path, shortened(read_values(path)))
        run.start()
        kinds.append(run.kind)
        left = {"encoder": "weights.safetensors", "cache": "t2i-128/shard-00000.safetensors"}.get(run.kind, "model/model.safetensors")
        assert (run.output / left).exists(), f"{path} left no {run.output / left}"
    assert kinds[0] == "encoder"
    assert kinds[-1] == "stage four"
    image = Lance.from_pretrained(run.output / "model").generate_image("a red circle", height=64, width=64, num_inference_steps=2)
    assert image.size == (64, 64)
