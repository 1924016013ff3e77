"""Frames as people see them and as an autoencoder takes them."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openlance.errors import LanceError


def usable_frames(frames: int, temporal_stride: int = 4) -> int:
    """The largest number of the form stride*k + 1 that is not above `frames`; an encoder drops the frames beyond it."""
    if frames < 1:
        raise LanceError(f"{frames} frames cannot be encoded: give at least one")
    return (frames - 1) // temporal_stride * temporal_stride + 1


def to_pixels(frames: Tensor) -> Tensor:
    """uint8 (F, H, W, 3) -> float32 (1, 3, F, H, W) in [-1, 1]."""
    return (frames.permute(3, 0, 1, 2).float() / 127.5 - 1)[None]


def to_uint8(pixels: Tensor) -> NDArray[np.uint8]:
    """float (3, F, H, W) in [-1, 1] -> uint8 (F, H, W, 3), rounded: 255 * (x/2 + 1/2)."""
    levels = (pixels.float() / 2 + 0.5).mul(255).round().clamp(0, 255)
    return levels.to(torch.uint8).permute(1, 2, 3, 0).cpu().numpy()
