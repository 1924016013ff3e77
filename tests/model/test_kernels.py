"""The kernels of training against plain autograd: outputs and gradients, in float32 and within the rounding of bfloat16."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from openlance.model import kernels
from openlance.model.attention import plain_attention
from openlance.model.mot import RMSNorm, swiglu
from openlance.model.rope import Rotation, rotate

EPS = 1e-6
DTYPES = [torch.float32, torch.bfloat16]
needs_compiler = pytest.mark.skipif(kernels.compiler() is None, reason="no C++ compiler")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def compare(fast: Callable[..., Tensor], slow: Callable[..., Tensor], inputs: list[Tensor], dtype: torch.dtype) -> None:
    """Output and gradients of `fast` on inputs rounded to a dtype against `slow` on the same values in float64."""
    ours = [x.to(dtype).requires_grad_() for x in inputs]
    theirs = [x.detach().double().requires_grad_() for x in ours]
    out, expected = fast(*ours), slow(*theirs)
    change = draw(*out.shape, seed=9).to(dtype)
    gradients = torch.autograd.grad(out, ours, change)
    wanted = torch.autograd.grad(expected, theirs, change.double())
    for got, want in zip((out, *gradients), (expected, *wanted), strict=True):
        assert got.dtype == dtype
        # Relative to the largest value: sums over rows cancel.
        tolerance = (2e-6 if dtype == torch.float32 else 1e-2) * float(want.detach().abs().max())
        torch.testing.assert_close(got.double(), want, atol=tolerance, rtol=0)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 8), (37, 48), (5, 256)])
def test_norm(shape: tuple[int, int], dtype: torch.dtype) -> None:
    compare(
        lambda x, w: kernels.rms_norm(x, w, EPS),
        lambda x, w: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * w,
        [draw(*shape) * 3, draw(shape[1], seed=1) + 1],
        dtype,
    )


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_and_rotation_of_queries_and_keys(dtype: torch.dtype) -> None:
    angles, counts = draw(11, 1, 8, seed=2), (3, 1, 1)
    turn = [torch.cat([angles.cos()] * 2, -1).to(dtype), torch.cat([-angles.sin(), angles.sin()], -1).to(dtype)]

    def slow(x: Tensor, *weights: Tensor) -> Tensor:
        query, key, value = x.split(counts, 1)
        normed = [part * torch.rsqrt(part.square().mean(-1, keepdim=True) + EPS) * w for part, w in zip((query, key), weights, strict=True)]
        return torch.cat([rotate(torch.cat(normed, 1), Rotation(turn[0].double(), turn[1].double())), value], 1)

    inputs = [draw(11, 5, 16), draw(16, seed=1) + 1, draw(16, seed=3) + 1]
    compare(lambda x, q, k: kernels.norm_rotate(x, counts, q, k, EPS, *turn), slow, inputs, dtype)


@needs_compiler
@pytest.mark.parametrize("dtype", DTYPES)
def test_swiglu(dtype: torch.dtype) -> None:
    def slow(fused: Tensor) -> Tensor:
        gate, up = fused.chunk(2, -1)
        return F.silu(gate) * up

    compare(kernels.swiglu, slow, [draw(19, 2 * 24) * 4], dtype)


def slow_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    shared = query.shape[1] // key.shape[1]
    scores = query @ key.repeat_interleave(shared, 1).mT / query.shape[-1] ** 0.5
    weights = (scores if mask is None else scores + mask).softmax(-1)
    return weights @ value.repeat_interleave(shared, 1)


def masks() -> list[Tensor | None]:
    """None, one of every token, and one of every row that all its tokens share."""
    one = torch.where(draw(3, 1, 5, 7, seed=3) > 0.5, float("-inf"), 0.0)
    one[..., 2] = 0
    return [None, one, one[:1], one[:, :, :1]]


@pytest.mark.parametrize("native", [pytest.param(True, marks=needs_compiler), False])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("which", range(4))
def test_attention(which: int, dtype: torch.dtype, native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not native:
        monkeypatch.setattr(kernels, "library", lambda: None)
    mask = masks()[which]
    inputs = [draw(3, 4, 5, 16), draw(3, 2, 7, 16, seed=1), draw(3, 2, 7, 16, seed=2)]
    compare(lambda *x: kernels.attention(*x, mask), lambda *x: slow_attention(*x, mask), inputs, dtype)


def test_attention_has_the_gradient_of_its_output() -> None:
    inputs = [draw(2, 4, 3, 8).double(), draw(2, 2, 5, 8, seed=1).double(), draw(2, 2, 5, 8, seed=2).double()]
    mask = torch.where(draw(2, 1, 3, 5, seed=4) > 1, float("-inf"), 0.0).double()
    assert torch.autograd.gradcheck(lambda *x: kernels.attention(*x, mask), [x.requires_grad_() for x in inputs])


@needs_compiler
def test_extreme_values_stay_finite() -> None:
    for scale in (0.0, 1e-3, 80.0, 1e4):
        fused = (draw(4, 32) * scale).bfloat16().requires_grad_()
        out = kernels.swiglu(fused)
        (gradient,) = torch.autograd.grad(out.float().sum(), fused)
        assert out.isfinite().all()
        assert gradient.isfinite().all()
        x = (draw(4, 32) * scale).bfloat16().requires_grad_()
        (gradient,) = torch.autograd.grad(kernels.rms_norm(x, torch.ones(32).bfloat16(), EPS).float().sum(), x)
        assert gradient.isfinite().all()


@needs_compiler
def test_what_is_not_finite_stays_so() -> None:
    """A broken step must be seen as broken."""
    fused = torch.full((2, 8), float("nan"))
    assert kernels.swiglu(fused).isnan().all()
    assert kernels.rms_norm(fused, torch.ones(8), EPS).isnan().all()
    x = torch.full((1, 1, 2, 4), float("nan"))
    assert kernels.attention(x, x, x, None).isnan().all()


def test_without_a_compiler_plain_operations_do_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kernels, "SOURCE", Path("missing.cpp"))
    kernels.library.cache_clear()
    try:
        x = draw(6, 16).requires_grad_()
        assert not kernels.usable(x)
        assert "plain operations" in capsys.readouterr().err
        norm = RMSNorm(16, EPS)
        torch.testing.assert_close(norm(x), F.rms_norm(x, (16,), norm.weight, EPS))
        gate, up = x.chunk(2, -1)
        torch.testing.assert_close(swiglu(x), F.silu(gate) * up)
    finally:
        kernels.library.cache_clear()


@needs_compiler
def test_denormals_are_left_as_they_are() -> None:
    assert kernels.library() is not None
    assert torch.tensor(1e-40).mul(0.5).item() > 0


def test_compiled_code_and_inference_take_plain_operations() -> None:
    query, key = draw(1, 4, 5, 16), draw(1, 2, 5, 16)
    assert not kernels.usable(query.half())
    with torch.no_grad():
        assert not kernels.usable(query)
        torch.testing.assert_close(plain_attention(query, key, key, None), slow_attention(query, key, key, None))
