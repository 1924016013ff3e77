"""Training on a CPU without what plain operations cost between the matrix products: kernels.cpp behind autograd functions.

Measured on one core, the plain chains take 40 % of a step of the embedded model (LOG.md). The C++ file is compiled when the first
gradient is wanted, under a second, if there is a compiler; without one, on other devices, with several threads and under torch.compile
callers use plain operations, which say what is computed and are the slow twins of tests/model/test_kernels.py.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import Function, once_differentiable

SOURCE = Path(__file__).with_suffix(".cpp")
# What lets sums and maxima be vectors. Not -ffast-math: linking with it sets the whole process to flush denormals.
LOOSE = ("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fassociative-math", "-freciprocal-math", "-ffinite-math-only")
FLAGS = ("-std=c++17", "-O3", "-march=native", *LOOSE, "-shared", "-fPIC")
NAMES = {torch.bfloat16: "bfloat16", torch.float32: "float32"}


def compiler() -> str | None:
    return next(filter(None, map(shutil.which, ("g++", "clang++", "c++"))), None)


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None, with a notice, where they cannot be compiled."""
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "kernels.so"
        try:
            subprocess.run([compiler() or "c++", *FLAGS, str(SOURCE), "-o", str(built)], check=True, capture_output=True, text=True)
            return ctypes.CDLL(str(built))
        except (OSError, subprocess.CalledProcessError) as error:
            reason = getattr(error, "stderr", None) or error
            print(f"training runs on plain operations, which is slower; compiling {SOURCE.name} failed: {reason}", file=sys.stderr)
            return None


_PLAIN: ContextVar[bool] = ContextVar("plain operations", default=False)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Inside, a model that learns computes what it does without gradients, to the bit: the kernels round less often."""
    token = _PLAIN.set(True)
    try:
        yield
    finally:
        _PLAIN.reset(token)


def usable(x: Tensor) -> bool:
    """Whether x learns, uncompiled, where the kernels work: on one thread of a CPU, in bfloat16 or float32."""
    return not _PLAIN.get() and not torch.compiler.is_compiling() and torch.is_grad_enabled() and _supported(x)


def _supported(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in NAMES and torch.get_num_threads() == 1 and library() is not None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis of x (..., D)."""
    result: Tensor = _RMSNorm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    return result


def norm_rotate(x: Tensor, counts: Sequence[int], query: Tensor, key: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads x (S, heads, d): `counts` queries, keys and values. Queries and keys come normed over d with their weights (d,) and rotated
    by cos and sin (S, 1, d), see `rope.rotate`.
    """
    result: Tensor = _NormRotate.apply(x, counts, query, key, eps, cos, sin)  # type: ignore[no-untyped-call]
    return result


def swiglu(fused: Tensor) -> Tensor:
    """SiLU(gate) * up (S, M) of `fused` (S, 2M), gate first."""
    result: Tensor = _SwiGLU.apply(fused)  # type: ignore[no-untyped-call]
    return result


def attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (N, heads, S, d) of query (N, heads, S, d) over key and value (N, kv_heads, L, d), on any device and in any dtype.

    `mask` (N or 1, 1, S or 1, L) is added to the scores. Heads that share a key head are rows of one product. Scores and weights are
    kept in the dtype of the inputs; the softmax sums in float32.
    """
    result: Tensor = _Attention.apply(query, key, value, mask)  # type: ignore[no-untyped-call]
    return result


def _call(name: str, dtype: torch.dtype, *arguments: Tensor | int | float | None) -> None:
    """Run a kernel. Tensors must hold their rows as it expects them."""
    values: list[Any] = []
    for each in arguments:
        if isinstance(each, float):
            values.append(ctypes.c_float(each))
        elif isinstance(each, int):
            values.append(ctypes.c_long(each))
        else:
            values.append(ctypes.c_void_p(None if each is None else each.data_ptr()))
    getattr(library(), f"{name}_{NAMES[dtype]}")(*values)


class _RMSNorm(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.eps = eps
        result = torch.empty_like(x)
        _call("norm", x.dtype, x, weight.float(), result, x.numel() // x.shape[-1], x.shape[-1], eps)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        wide, of_x = weight.float(), torch.empty_like(x)
        of_weight, row = torch.zeros_like(wide), torch.empty_like(wide)
        sizes = (x.numel() // x.shape[-1], x.shape[-1])
        _call("norm_backward", x.dtype, change.contiguous(), x, wide, of_x, of_weight, row, *sizes, ctx.eps)
        return of_x, of_weight.to(weight.dtype), None


class _NormRotate(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, counts: Sequence[int], query: Tensor, key: Tensor, eps: float, cos: Tensor, sin: Tensor) -> Tensor:
        x, cos, sin = x.contiguous(), cos.to(x.dtype).contiguous(), sin.to(x.dtype).contiguous()
        ctx.save_for_backward(x, query, key, cos, sin)
        ctx.counts, ctx.eps = counts, eps
        result = torch.empty_like(x)
        *turned, values = zip(x.split_with_sizes(counts, 1), result.split_with_sizes(counts, 1), strict=True)
        for weight, (heads, out) in zip((query, key), turned, strict=True):
            sizes = (len(x), heads.shape[1], x.stride(0), x.shape[2])
            _call("norm_rotate", x.dtype, heads, weight.float(), cos, sin, out, *sizes, eps)
        values[1].copy_(values[0])
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor, None, Tensor, Tensor, None, None, None]:
        x, *weights, cos, sin = ctx.saved_tensors
        of_x, of_weights = torch.empty_like(x), [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
        *turned, values = zip(*(tensor.split_with_sizes(ctx.counts, 1) for tensor in (change.contiguous(), x, of_x)), strict=True)
        row = torch.empty_like(of_weights[0])
        for weight, of_weight, (part, heads, of_heads) in zip(weights, of_weights, turned, strict=True):
            sizes = (len(x), heads.shape[1], x.stride(0), x.shape[2])
            _call("norm_rotate_backward", x.dtype, part, heads, weight.float(), cos, sin, of_heads, of_weight, row, *sizes, ctx.eps)
        values[2].copy_(values[0])
        of_query, of_key = (of_weight.to(weight.dtype) for of_weight, weight in zip(of_weights, weights, strict=True))
        return of_x, None, of_query, of_key, None, None, None


class _SwiGLU(Function):
    @staticmethod
    def forward(ctx: Any, fused: Tensor) -> Tensor:
        fused = fused.contiguous()
        ctx.save_for_backward(fused)
        rows, width = fused.shape[0], fused.shape[1] // 2
        result = fused.new_empty(rows, width)
        _call("swiglu", fused.dtype, fused, result, rows, width)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> Tensor:
        (fused,) = ctx.saved_tensors
        of_fused = torch.empty_like(fused)
        _call("swiglu_backward", fused.dtype, change.contiguous(), fused, of_fused, *change.shape)
        return of_fused


class _Attention(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        (n, heads, s, d), (_, groups, length, _) = query.shape, key.shape
        q = query.reshape(n * groups, heads // groups * s, d)
        k, v = key.reshape(n * groups, length, d), value.reshape(n * groups, length, d)
        weights = q.new_empty(n * groups, q.shape[1], length)
        torch.baddbmm(weights, q, k.mT, beta=0, alpha=d**-0.5, out=weights)
        _softmax_(weights.view(n, heads, s, length), mask)
        ctx.save_for_backward(q, k, v, weights)
        ctx.groups = groups
        return (weights @ v).view(n, heads, s, d)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, change: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, weights = ctx.saved_tensors
        n, groups, scale = change.shape[0], ctx.groups, change.shape[-1] ** -0.5
        d = change.reshape(q.shape)
        of_v = weights.mT @ d
        of_scores = d @ v.mT
        torch._softmax_backward_data(of_scores, weights, -1, weights.dtype, grad_input=of_scores)
        of_q, of_k = torch.empty_like(q), torch.empty_like(k)
        torch.baddbmm(of_q, of_scores, k, beta=0, alpha=scale, out=of_q)
        torch.baddbmm(of_k, of_scores.mT, q, beta=0, alpha=scale, out=of_k)
        return of_q.view(change.shape), of_k.view(n, groups, *k.shape[1:]), of_v.view(n, groups, *v.shape[1:]), None


def _softmax_(scores: Tensor, mask: Tensor | None) -> None:
    """Softmax of scores + mask, in place."""
    if _supported(scores):
        n, heads, s, length = scores.shape
        mask = None if mask is None else mask.to(scores.dtype).expand(-1, 1, -1, length).contiguous()
        steps = (0, 0) if mask is None else (mask.shape[2] * length * (mask.shape[0] > 1), length * (mask.shape[2] > 1))
        _call("softmax", scores.dtype, scores, mask, torch.empty(length), n, heads, s, length, *steps)
        return
    torch.softmax(scores if mask is None else scores.add_(mask), -1, out=scores)
