"""The mixture of two experts: two token streams, each through its own dense layers, joined only inside attention."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openlance.model import kernels
from openlance.model.attention import Heads, RowGroup, attend
from openlance.model.config import TransformerConfig
from openlance.model.linear import Linear
from openlance.model.rope import Rotation, rotate

Streams = tuple[Tensor | None, Tensor | None]
"""(understanding (U, D), generation (G, D)); None where a batch has no token of a kind."""


ROWS_IN_CACHE = 128
"""On a CPU, element-wise chains run over this many rows at a time, so that their float32 temporaries stay in the cache: 4608 x 2048
bfloat16 in 8 ms instead of 80 on one core (benchmarks/denoise_step.py shows the effect on a step)."""


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last axis."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if kernels.usable(x):
            return kernels.rms_norm(x, self.weight, self.eps)
        if torch.is_grad_enabled() or x.shape[0] <= ROWS_IN_CACHE or x.device.type != "cpu":
            return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
        out = torch.empty_like(x)
        for part, whole in zip(torch.split(x, ROWS_IN_CACHE), torch.split(out, ROWS_IN_CACHE), strict=True):
            whole.copy_(F.rms_norm(part, (x.shape[-1],), self.weight, self.eps))
        return out


def swiglu(fused: Tensor) -> Tensor:
    """SiLU(gate) * up (S, M) of `fused` (S, 2M), gate first. Contiguous: a product with strided rows would pack them once more.

    Without gradients on a CPU it is written over the front of `fused`, whose values are lost: the pages of a new tensor of this size
    cost as much as the arithmetic. What is written, rows 0..n of M, ends before what is still to be read, rows from n of 2M.
    """
    if kernels.usable(fused):
        return kernels.swiglu(fused)
    width = fused.shape[-1] // 2
    if torch.is_grad_enabled() or fused.shape[0] <= ROWS_IN_CACHE or fused.device.type != "cpu":
        gate, up = fused.chunk(2, -1)
        return F.silu(gate) * up
    out = fused.view(-1)[: fused.shape[0] * width].view(-1, width)
    for part, whole in zip(torch.split(fused, ROWS_IN_CACHE), torch.split(out, ROWS_IN_CACHE), strict=True):
        whole.copy_(F.silu(part[:, :width]).mul_(part[:, width:]))
    return out


def _turned(norm: RMSNorm, heads: Tensor, rotation: Rotation) -> Tensor:
    """Heads (S, heads, d), normed and rotated."""
    if kernels.usable(heads):
        return kernels.norm_rotate(heads, norm.weight, norm.eps, rotation.cos, rotation.sin)
    return rotate(norm(heads), rotation)


class Expert(nn.Module):
    """One expert's share of a layer. Fused products: `qkv` (queries, keys, values) and `gate_up`."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, dim = config.hidden_size, config.head_dim
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self.head_dim = dim
        self.input_norm = RMSNorm(width, config.rms_norm_eps)
        self.qkv = Linear(width, (self.heads[0] + 2 * self.heads[1]) * dim)
        self.q_norm = RMSNorm(dim, config.rms_norm_eps)
        self.k_norm = RMSNorm(dim, config.rms_norm_eps)
        self.output = Linear(self.heads[0] * dim, width, bias=False)
        self.mlp_norm = RMSNorm(width, config.rms_norm_eps)
        self.gate_up = Linear(width, 2 * config.intermediate_size, bias=False)
        self.down = Linear(config.intermediate_size, width, bias=False)

    def project(self, x: Tensor, rotation: Rotation) -> Heads:
        """Normed, rotated heads of the stream x (S, D)."""
        heads = self.qkv(self.input_norm(x)).view(x.shape[0], -1, self.head_dim)
        query, key, value = heads.split([self.heads[0], self.heads[1], self.heads[1]], 1)
        return Heads(_turned(self.q_norm, query, rotation), _turned(self.k_norm, key, rotation), value)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The stream after attention output `mixed` (S, heads * d) and the MLP."""
        x = self.output(mixed).add_(x)
        change: Tensor = self.down(swiglu(self.gate_up(self.mlp_norm(x))))
        return change.add_(x)


class Layer(nn.Module):
    """One layer: project both streams, attend jointly, finish both."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.understanding = Expert(config)
        self.generation = Expert(config)

    def forward(self, index: int, streams: Streams, rotations: tuple[Rotation, Rotation], groups: list[RowGroup]) -> Streams:
        u, g = streams
        heads = (
            None if u is None else self.understanding.project(u, rotations[0]),
            None if g is None else self.generation.project(g, rotations[1]),
        )
        mixed_u, mixed_g = attend(index, heads, groups)
        return (
            None if u is None or mixed_u is None else self.understanding.finish(u, mixed_u),
            None if g is None or mixed_g is None else self.generation.finish(g, mixed_g),
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
