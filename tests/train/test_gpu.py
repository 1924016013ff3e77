"""Training on a card: the same loss and gradients as on the CPU, and runs that end, resume and leave weights anyone can read."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from openlance import Lance
from openlance.data.batch import assemble
from openlance.train.checkpoint import Checkpoints
from openlance.train.encoders import read_recipe, train_encoder
from openlance.train.frozen import read_autoencoder
from openlance.train.loop import train
from openlance.train.losses import Attention, LossSums, Objective, PathSampling, compute_loss, draw_path
from openlance.train.muon import orthogonalise, orthogonalise_all
from tests.train.test_batches import MIXED, outcome
from tests.train.tiny import ANCHORS, tiny_model, tiny_run, tiny_sample

pytestmark = pytest.mark.gpu
TASKS = ("t2i", "understand", "image_edit", "video_edit", "t2i")


@pytest.mark.parametrize("attention", ["fused", "plain", "flex"])
def test_loss_and_gradients_are_those_of_the_cpu(attention: Attention) -> None:
    batch = assemble([tiny_sample(task, seed) for seed, task in enumerate(TASKS)], ANCHORS, views=2)
    path = draw_path(batch, PathSampling(), torch.Generator().manual_seed(0))
    losses, gradients, means = [], [], []
    for device in ("cpu", "cuda"):
        model = tiny_model("data").to(device)
        there, sums = batch.to(device), LossSums()
        own = type(path)(path.times.to(device), path.noise.to(device))
        loss = compute_loss(model, there, own, Objective(attention=attention), Counter(batch.counts), sums)
        loss.backward()  # type: ignore[no-untyped-call]
        sums.settle()
        losses.append(float(loss.detach()))
        gradients.append({name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None})
        means.append(sums.means())
    assert abs(losses[0] - losses[1]) < 1e-4
    assert means[0].keys() == means[1].keys()
    assert all(abs(means[0][key] - means[1][key]) < 1e-4 for key in means[0])
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-5, msg=name)


def test_a_batch_attended_at_once_has_the_states_and_gradients_of_its_rows() -> None:
    """One compiled kernel after the other for batches of several sizes."""
    model = tiny_model("data").cuda()
    for name, batch in MIXED.items():
        there = batch.to("cuda")
        path = draw_path(there, PathSampling(), torch.Generator("cuda").manual_seed(0))
        for got, want in zip(outcome(model, there, path, "flex"), outcome(model, there, path, "fused"), strict=True):
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-3, msg=name)


def test_matrices_together_on_a_card_are_those_one_by_one_on_the_cpu() -> None:
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in enumerate([(64, 32), (32, 64), (64, 32)])]
    for there, here in zip(orthogonalise_all([g.cuda() for g in gradients]), map(orthogonalise, gradients), strict=True):
        assert (there.cpu() - here).abs().max() < 0.03


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_ends_and_its_second_half_can_be_run_again(tmp_path: Path, workers: int) -> None:
    batch = {"tokens": 512, "tokens_per_step": 1024, "views": 2, "streams": 2, "workers": workers}
    recipe = tiny_run(tmp_path, device="cuda", precision="bfloat16", batch=batch, steps=8)
    report = train(recipe)
    assert report["step"] == 8
    assert 0 < report["loss"] < 10
    checkpoints = Checkpoints(recipe.output / "checkpoints", recipe.keep)
    (recipe.output / "checkpoints" / "step-00000008.pt").unlink()
    assert checkpoints.steps() == [7]
    again = train(recipe)
    assert again["step"] == 8
    assert abs(again["loss"] - report["loss"]) < 0.05
    assert Lance.from_pretrained(str(recipe.output / "model"), device="cpu") is not None


@pytest.mark.parametrize("stage", ["autoencoder", "vision"])
def test_an_encoder_trained_on_a_card_is_read_on_the_cpu(tmp_path: Path, stage: str) -> None:
    path = Path(__file__).resolve().parents[2] / "recipes" / "nano" / f"{stage}.yaml"
    recipe = read_recipe(path, ["--device=cuda", "--steps=3", f"--output={tmp_path}", "--workers=0", "--evaluate_every=2"])
    figures = train_encoder(recipe)
    assert all(value == value for value in figures.values())
    if stage == "autoencoder":
        module, _ = read_autoencoder(tmp_path)
        assert next(module.parameters()).device.type == "cpu"
