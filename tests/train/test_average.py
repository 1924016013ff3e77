"""The weights between two models: computed right, written whole, refused where there is nothing between."""

import copy
import json
from pathlib import Path

import pytest
import torch

from openlance.apps.cli import main
from openlance.apps.recipes import read_run
from openlance.errors import CheckpointError
from openlance.sequence.bind import Binder
from openlance.sequence.template import OWN_WORDING
from openlance.train.average import average_tensors
from openlance.train.recipe import RecipeError
from openlance.weights.load import load_pretrained
from openlance.weights.save import save_pretrained
from tests.train.tiny import tiny_model, tiny_tokenizer


def test_an_average_lies_between_two_models_of_one_configuration() -> None:
    model = tiny_model()
    other = copy.deepcopy(model)
    with torch.no_grad():
        for number, parameter in enumerate(other.parameters()):
            parameter.add_(number + 1.0)
    ends = [average_tensors(model, other, share) for share in (0.0, 1.0)]
    for tensors, end in zip(ends, (model, other), strict=True):
        assert all(torch.equal(tensors[name], tensor) for name, tensor in end.state_dict().items())
    middle = average_tensors(model, other, 0.25)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(middle[name], 0.75 * tensor + 0.25 * other.state_dict()[name])
    other.head.weight = torch.nn.Parameter(torch.zeros(3, 2))
    with pytest.raises(CheckpointError, match=r"differ in 1 weights, such as head\.weight"):
        average_tensors(model, other, 0.5)


def test_a_recipe_averages_what_two_runs_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [tiny_model(seed=seed) for seed in (0, 2)]
    for name, model in zip(("before", "after"), models, strict=True):
        save_pretrained(model, Binder(tiny_tokenizer(), OWN_WORDING), tmp_path / name / "model")
    recipe = tmp_path / "average.yaml"
    recipe.write_text(f"average: [{tmp_path}/before/model, {tmp_path}/after/model]\noutput: {tmp_path}/between\n")
    assert main(["train", str(recipe), "share=0.4", "--plan"]) == 0
    said = capsys.readouterr().out
    assert "(average)" in said
    assert f"0.6 of {tmp_path}/before/model and 0.4 of {tmp_path}/after/model" in said
    assert not (tmp_path / "between").exists()
    for share in (0.5, 0.4):
        assert main(["train", str(recipe), f"share={share}"]) == 0
        found = load_pretrained(tmp_path / "between" / "model", dtype="float32")[0].state_dict()
        expected = average_tensors(*models, share)
        assert all(torch.equal(found[name], tensor.bfloat16().float()) for name, tensor in expected.items())
        told = {"average": [f"{tmp_path}/before/model", f"{tmp_path}/after/model"], "share": share}
        assert json.loads((tmp_path / "between" / "recipe.json").read_text()) == told
    for wrong, reason in (("share=1.5", "share 1.5 must be from 0"), ("average=[nano]", "average"), ("shares=0.5", "shares")):
        with pytest.raises(RecipeError, match=reason):
            read_run(recipe, [wrong])
    with pytest.raises(CheckpointError, match="nowhere"):
        read_run(recipe, [f"average=[{tmp_path}/before/model, {tmp_path}/nowhere]", f"output={tmp_path}/none"]).start()
    assert not (tmp_path / "none").exists()
