"""The optimiser against slow, obvious twins."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from openlance.errors import CheckpointError, LanceError
from openlance.model.lance import LanceModel
from openlance.train.muon import orthogonalise, orthogonalise_together
from openlance.train.optim import Optimizer, OptimRecipe
from openlance.train.prepare import freeze
from tests.train.tiny import tiny_model

MUON = OptimRecipe("muon", 1e-3, matrix_learning_rate=0.1, ema=0.5, clip=0.0, eps=1e-8)


def with_gradients(model: LanceModel, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
    return {name: p.grad.float().clone() for name, p in model.named_parameters() if p.grad is not None}


def orthogonal(gradient: Tensor) -> Tensor:
    u, _, v = torch.linalg.svd(gradient.double(), full_matrices=False)
    return (u @ v).float()


@pytest.mark.parametrize(("name", "rows"), [("qkv", (32, 16, 16)), ("gate_up", (64, 64)), ("down", (32,))])
def test_muon_moves_each_fused_part_by_its_own_nearest_orthogonal_matrix(name: str, rows: tuple[int, ...]) -> None:
    model = tiny_model()
    weight = model.get_parameter(f"transformer.layers.0.generation.{name}.weight")
    before = weight.detach().clone()
    gradient = with_gradients(model)[f"transformer.layers.0.generation.{name}.weight"]
    Optimizer(model, MUON, 10).step(0, 1.0)
    for moved, part in zip((weight.detach() - before).split(rows), gradient.split(rows), strict=True):
        wanted = -0.1 * max(1, part.shape[0] / part.shape[1]) ** 0.5 * orthogonal(part)
        # Five Newton-Schulz steps leave the singular values within 0.7 to 1.2 of 1.
        assert torch.nn.functional.cosine_similarity(moved.flatten(), wanted.flatten(), dim=0) > 0.97
        assert 0.7 < float(moved.norm() / wanted.norm()) < 1.2


def test_what_is_not_a_matrix_of_a_layer_is_left_to_adamw() -> None:
    model = tiny_model()
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    gradients = with_gradients(model)
    Optimizer(model, replace(MUON, embedding_learning_rate=1e-2), 10).step(0, 1.0)
    for name, rate in (("head.weight", 1e-3), ("latent.input.bias", 1e-3), ("embedding.weight", 1e-2)):
        moved = model.get_parameter(name).detach() - start[name]
        assert (moved + rate * gradients[name].sign()).abs().max() < 1e-3 * rate, name


def test_bfloat16_weights_follow_float32_masters() -> None:
    """Many steps too small for bfloat16 add up."""
    exact, rounded = tiny_model(), tiny_model()
    recipe = OptimRecipe(learning_rate=1e-5, ema=0.0)
    first, second = Optimizer(exact, recipe, 100), Optimizer(rounded, recipe, 100)
    for p in rounded.parameters():
        p.data = p.data.bfloat16()
    for step in range(20):
        for p, q in zip(exact.parameters(), rounded.parameters(), strict=True):
            p.grad, q.grad = torch.ones_like(p), torch.ones_like(q)
        first.step(step, 1.0)
        second.step(step, 1.0)
    for p, q in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert q.dtype == torch.bfloat16
        assert torch.equal(p.detach().bfloat16(), q.detach())


def test_clipping_scales_the_whole_gradient() -> None:
    sgd_like = OptimRecipe(learning_rate=1.0, eps=1e6, ema=0.0, clip=2.0)
    model = tiny_model()
    for p in model.parameters():
        p.data.zero_()
    gradients = with_gradients(model)
    norm = float(torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt())
    optimizer = Optimizer(model, sgd_like, 10)
    assert abs(optimizer.gradient_norm() - norm) < 1e-3 * norm
    optimizer.step(0, norm)
    for name in ("head.weight", "latent.input.weight"):
        assert torch.allclose(model.get_parameter(name).detach(), -gradients[name] * 2.0 / norm / 1e6, rtol=1e-3, atol=0)


def test_the_average_is_lent_and_given_back() -> None:
    model = tiny_model()
    optimizer = Optimizer(model, replace(MUON, ema=0.5), 10)
    start = model.head.weight.detach().clone()
    with_gradients(model)
    optimizer.step(0, 1.0)
    now = model.head.weight.detach().clone()
    with optimizer.averaged():
        keep = min(0.5, 1 / 10)
        assert torch.allclose(model.head.weight, keep * start + (1 - keep) * now)
    assert torch.equal(model.head.weight, now)


def test_a_frozen_expert_stays() -> None:
    model = tiny_model()
    freeze(model, ("generation",))
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    with_gradients(model)
    Optimizer(model, MUON, 10).step(0, 1.0)
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, start[name])}
    assert moved == {name for name in start if "generation" in name or name.startswith("latent.")}


def test_a_state_of_another_optimiser_is_refused() -> None:
    state = Optimizer(tiny_model(), OptimRecipe(), 10).state()
    with pytest.raises(CheckpointError, match="another model or optimiser"):
        Optimizer(tiny_model(), MUON, 10).load_state(state)


@pytest.mark.parametrize(
    ("schedule", "wanted"), [("constant", [0.5, 1, 1, 1]), ("linear", [0.5, 1, 0.55, 0.325]), ("cosine", [0.5, 1, 0.55, 0.2318])]
)
def test_schedules(schedule: str, wanted: list[float]) -> None:
    recipe = OptimRecipe(schedule=schedule, warmup_steps=2, decay=0.5, final=0.1)
    assert [recipe.factor(step, 16) for step in (0, 8, 12, 14)] == pytest.approx(wanted, abs=1e-3)


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(LanceError, match="adamw or muon"):
        OptimRecipe(kind="sgd")


def test_orthogonalising_matrices_together_is_doing_it_one_by_one() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(24, 16), (16, 24), (24, 16), (16, 16), (8, 4, 3, 3)]
    gradients = [torch.randn(shape, generator=generator) for shape in shapes]
    for together, alone in zip(orthogonalise_together(gradients), map(orthogonalise, gradients), strict=True):
        assert together.shape == alone.shape
        # Both are bfloat16 arithmetic in another order of sums.
        assert (together - alone).abs().max() < 0.03
    assert orthogonalise_together([]) == []
