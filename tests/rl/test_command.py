"""`openlance rl` from a checkpoint on disk to a better one, through the command line."""

import json
from pathlib import Path

import pytest
import torch

from openlance.apps.cli import main
from openlance.pipeline import Lance


def test_a_run_from_disk_to_disk(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = recipe.parent
    assert main(["rl", str(recipe), "--plan"]) == 0
    assert "1 prompts x 3 samples of 4 steps" in capsys.readouterr().out
    assert not (folder / "run").exists()
    assert main(["rl", str(recipe), "rollout.samples=4"]) == 0
    (entry,) = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    assert {"tests.rl.tiny:redness", "world_judge", "ratio", "gradient_norm"} <= set(entry)
    models = [Lance.from_pretrained(folder / part, dtype="float32").model for part in ("model", "run/model")]
    before, after = (dict(model.named_parameters()) for model in models)
    changed = {name for name in before if not torch.equal(before[name].bfloat16(), after[name].bfloat16())}
    assert changed
    assert all("generation" in name or name.startswith("latent.") for name in changed)


def test_wrong_recipes_are_one_sentence(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rl", str(recipe), "rollout.sample=4"]) == 2
    assert "sample" in capsys.readouterr().err
    assert main(["rl", str(recipe.parent / "none.yaml")]) == 2
    assert main(["rl", str(recipe), "model.checkpoint=nowhere/at-all"]) == 2
