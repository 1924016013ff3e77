"""What enters and leaves the model with a latent token: projection, time and place embeddings, flow head."""

import math
from functools import cache

import torch
from torch import Tensor, nn

from openlance.model.linear import Linear

TIME_FREQUENCIES = 256
MAX_PERIOD = 10000.0


@cache
def _frequencies(device: torch.device) -> Tensor:
    half = TIME_FREQUENCIES // 2
    return torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=device) / half)


def time_frequencies(times: Tensor) -> Tensor:
    """256 sinusoids (T, 256) of times (T,) in [0, 1], cosines first, unscaled."""
    angle = times.float()[:, None] * _frequencies(times.device)
    return torch.cat([angle.cos(), angle.sin()], -1)


def place_embedding(coordinates: Tensor, width: int) -> Tensor:
    """3-D sin-cos embedding (S, width), float32, of latent coordinates (3, S) that start at 0 in every block.

    Axes t, h, w take d, d and the rest of the width, d = width // 3 rounded down to even; each is [sin | cos] of the
    coordinate times 10000^(-i / (dim / 2)). Computed in float64, so it has no bounds, unlike the released table.
    """
    side = width // 3 // 2 * 2
    parts = []
    for axis, dim in enumerate((side, side, width - 2 * side)):
        frequency = MAX_PERIOD ** (-torch.arange(dim // 2, dtype=torch.float64, device=coordinates.device) / (dim / 2))
        angle = coordinates[axis].double()[:, None] * frequency
        parts += [angle.sin(), angle.cos()]
    return torch.cat(parts, -1).float()


class LatentCodec(nn.Module):
    """Latents (G, C) to tokens (G, D) and tokens back to what the flow head predicts (G, C)."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.input = Linear(channels, width)
        self.output = Linear(width, channels)
        self.time = nn.Sequential(Linear(TIME_FREQUENCIES, width), nn.SiLU(), Linear(width, width))

    def embed(self, latents: Tensor, times: Tensor, time_index: Tensor, place: Tensor) -> Tensor:
        """Tokens of `latents` (G, C). `times` (T,): the distinct times; `time_index` (G,): which is a token's; `place` (G, D)."""
        dtype = self.input.weight.dtype
        time = self.time(time_frequencies(times).to(dtype))
        tokens: Tensor = self.input(latents.to(dtype)) + time[time_index] + place.to(dtype)
        return tokens
