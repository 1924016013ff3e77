"""Rotary embedding over three axes: positions (t, h, w) to rotations of query and key heads."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openlance.model.config import TransformerConfig


class Rotation(NamedTuple):
    """Cosines and signed sines, each (S, 1, head_dim), ready to broadcast over heads."""

    cos: Tensor
    sin: Tensor

    def take(self, index: Tensor) -> "Rotation":
        return Rotation(self.cos[index], self.sin[index])


class Rope(nn.Module):
    """Each frequency turns with the axis of its mrope section; the second half of a head repeats the first (rotate-half)."""

    inv_freq: Tensor
    axis: Tensor

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        half = config.head_dim // 2
        if sum(config.mrope_section) != half:
            raise ValueError(f"mrope_section {config.mrope_section} must sum to head_dim / 2 = {half}")
        self.config = config
        self.register_buffer("inv_freq", torch.empty(half), persistent=False)
        self.register_buffer("axis", torch.empty(half, dtype=torch.long), persistent=False)
        self.reset()

    def reset(self) -> None:
        """(Re)compute the buffers, also after construction on the meta device."""
        config = self.config
        exponent = torch.arange(0, config.head_dim, 2, dtype=torch.float32) / config.head_dim
        inv_freq = 1.0 / config.rope_theta**exponent
        rounded = inv_freq.to(getattr(torch, config.rope_inv_freq_dtype)).float()
        self.inv_freq = rounded
        self.axis = torch.repeat_interleave(torch.arange(3), torch.tensor(config.mrope_section))
        if config.mrope_interleaved:
            place = torch.cat([(torch.arange(n) + 0.5) / n for n in config.mrope_section])
            self.axis = self.axis[place.argsort(stable=True)]

    def forward(self, positions: Tensor, dtype: torch.dtype) -> Rotation:
        """Rotation of tokens at `positions` (3, S), computed in float32 and rounded to `dtype`."""
        angles = positions.to(self.inv_freq.device).float()[self.axis].T * self.inv_freq
        cos, sin = angles.cos(), angles.sin()
        return Rotation(torch.cat([cos, cos], -1)[:, None].to(dtype), torch.cat([-sin, sin], -1)[:, None].to(dtype))


def rotate(x: Tensor, rotation: Rotation, out: Tensor | None = None) -> Tensor:
    """Heads x (S, heads, head_dim), rotated; written to `out`, which may not be x, where it is given."""
    return torch.addcmul(x * rotation.cos, x.roll(x.shape[-1] // 2, -1), rotation.sin, out=out)
