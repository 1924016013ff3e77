"""The mixture of two experts: two token streams, each through its own dense layers, joined only inside attention."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openlance.model import kernels
from openlance.model.attention import RowGroup, attend
from openlance.model.config import TransformerConfig
from openlance.model.linear import Linear
from openlance.model.rope import Rotation, rotate

Streams = tuple[Tensor | None, Tensor | None]
"""(understanding (U, D), generation (G, D)); None where a batch has no token of a kind."""


IN_CACHE = 2**16
"""On a CPU, element-wise chains run over so many elements at a time, so that their float32 temporaries stay in the cache and take no new
pages (benchmarks/denoise_step.py shows the effect on a step)."""


def _at_once(x: Tensor) -> bool:
    """Whether a chain over x needs no parts."""
    return x.numel() <= IN_CACHE or x.device.type != "cpu"


def _in_parts(*tensors: Tensor) -> Iterable[tuple[Tensor, ...]]:
    """Some rows at a time of tensors of as many rows, none larger than the first."""
    first = tensors[0]
    if _at_once(first):
        return (tensors,)
    rows = max(1, IN_CACHE * len(first) // first.numel())
    return zip(*(torch.split(tensor, rows) for tensor in tensors), strict=True)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis."""
    if torch.is_grad_enabled():
        if kernels.usable(x):
            return kernels.rms_norm(x, weight, eps)
    elif not _at_once(x):
        out = torch.empty_like(x)
        for part, whole in _in_parts(x, out):
            whole.copy_(torch.rms_norm(part, weight.shape, weight, eps))
        return out
    return torch.rms_norm(x, weight.shape, weight, eps)


def swiglu(fused: Tensor) -> Tensor:
    """SiLU(gate) * up (S, M) of `fused` (S, 2M), gate first. Contiguous: a product with strided rows would pack them once more.

    Without gradients, what exceeds the cache is written over the front of `fused`, whose values are lost: the pages of a new tensor of
    this size cost as much as the arithmetic. What is written, rows 0..n of M, ends before what is still to be read, rows from n of 2M.
    """
    gate, up = fused.chunk(2, -1)
    if torch.is_grad_enabled():
        if kernels.usable(fused):
            return kernels.swiglu(fused)
    elif not _at_once(gate):
        out = fused.view(-1)[: gate.numel()].view(gate.shape)
        for gate_part, up_part, whole in _in_parts(gate, up, out):
            whole.copy_(F.silu(gate_part).mul_(up_part))
        return out
    return F.silu(gate) * up


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis. Layers use its weight alone: many small norms would cost more calls than arithmetic."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Expert(nn.Module):
    """One expert's share of a layer. Fused products: `qkv` (queries, keys, values) and `gate_up`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, dim = config.hidden_size, config.head_dim
        self.heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        self.head_dim = dim
        self.eps = config.rms_norm_eps
        self.input_norm = RMSNorm(width, self.eps)
        self.qkv = Linear(width, sum(self.heads) * dim)
        self.q_norm = RMSNorm(dim, self.eps)
        self.k_norm = RMSNorm(dim, self.eps)
        self.output = Linear(self.heads[0] * dim, width, bias=False)
        self.mlp_norm = RMSNorm(width, self.eps)
        self.gate_up = Linear(width, 2 * config.intermediate_size, bias=False)
        self.down = Linear(config.intermediate_size, width, bias=False)

    def project(self, x: Tensor, rotation: Rotation) -> Tensor:
        """Queries, keys and values (1, heads, S, d) of the stream x (S, D) behind each other, the first two normed and rotated."""
        heads = self.qkv(rms_norm(x, self.input_norm.weight, self.eps)).view(x.shape[0], -1, self.head_dim)
        return self._turned(heads, rotation).transpose(0, 1)[None]

    def _turned(self, heads: Tensor, rotation: Rotation) -> Tensor:
        """Heads (S, heads, d), those of queries and keys normed and rotated. In place without gradients: new tensors cost their pages."""
        q, k, eps = self.q_norm.weight, self.k_norm.weight, self.eps
        if torch.is_grad_enabled():
            if kernels.usable(heads):
                return kernels.norm_rotate(heads, self.heads, q, k, eps, *rotation)
            query, key, value = heads.split_with_sizes(self.heads, 1)
            return torch.cat([rotate(rms_norm(query, q, eps), rotation), rotate(rms_norm(key, k, eps), rotation), value], 1)
        for part, cos, sin in _in_parts(heads, *rotation):
            query, key, _ = part.split_with_sizes(self.heads, 1)
            normed = torch.cat([rms_norm(query, q, eps), rms_norm(key, k, eps)], 1)
            rotate(normed, Rotation(cos, sin), out=part.narrow(1, 0, normed.shape[1]))
        return heads

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The stream after attention output `mixed` (S, heads * d) and the MLP."""
        x = self.output(mixed).add_(x)
        change: Tensor = self.down(swiglu(self.gate_up(rms_norm(x, self.mlp_norm.weight, self.eps))))
        return change.add_(x)


class Layer(nn.Module):
    """One layer: project both streams, attend jointly, finish both."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.understanding = Expert(config)
        self.generation = Expert(config)

    def forward(self, index: int, streams: Streams, rotations: tuple[Rotation, Rotation], groups: list[RowGroup]) -> Streams:
        u, g = streams
        first, second = self.understanding, self.generation
        heads = (None if u is None else first.project(u, rotations[0]), None if g is None else second.project(g, rotations[1]))
        mixed_u, mixed_g = attend(index, heads, first.heads, groups)
        return (
            None if u is None or mixed_u is None else first.finish(u, mixed_u),
            None if g is None or mixed_g is None else second.finish(g, mixed_g),
        )


@dataclass(frozen=True)
class Hidden:
    """Final-normed hidden states of both streams."""

    understanding: Tensor | None
    generation: Tensor | None


class MixtureOfTransformers(nn.Module):
    """The stack of layers and the final norms."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm_understanding = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm_generation = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, streams: Streams, rotations: tuple[Rotation, Rotation], groups: list[RowGroup]) -> Hidden:
        for index, layer in enumerate(self.layers):
            streams = layer(index, streams, rotations, groups)
        u, g = streams
        return Hidden(
            None if u is None else self.norm_understanding(u),
            None if g is None else self.norm_generation(g),
        )
