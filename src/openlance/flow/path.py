"""The straight path between data (t = 0) and noise (t = 1): times, interpolation, target."""

import torch
from torch import Tensor


def shift_time(times: Tensor, shift: float) -> Tensor:
    """Times in [0, 1] moved towards noise: s u / (1 + (s - 1) u). Shift 1 leaves them."""
    return shift * times / (1 + (shift - 1) * times)


def timesteps(num_inference_steps: int, shift: float) -> Tensor:
    """The N + 1 times of a schedule, float32, from 1 down to 0."""
    return shift_time(torch.linspace(1, 0, num_inference_steps + 1), shift)


def interpolate(data: Tensor, noise: Tensor, times: Tensor) -> Tensor:
    """x_t = (1 - t) data + t noise; `times` broadcasts against both."""
    return (1 - times) * data + times * noise


def velocity_target(data: Tensor, noise: Tensor) -> Tensor:
    """What flow matching regresses on: noise - data."""
    return noise - data


def draw_noise(count: int, channels: int, seed: int, skip: int = 0) -> Tensor:
    """Noise (count, channels), float32, on the CPU: same seed, same noise, whatever runs beside.

    `skip` rows are drawn first and dropped (the released code draws noise for every latent token of a sequence, in order).
    """
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(skip + count, channels, generator=generator)[skip:]
