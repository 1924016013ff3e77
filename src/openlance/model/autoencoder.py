"""A light causal video autoencoder: 16x smaller in space, 4x in time, for models trained on a small machine.

It answers to the calls of the large autoencoder (`model/vae.py`): `encode`, `decode`, `decode_stream`. Frames pass through
2-D convolutions; time enters in two ways only, both of which look at the past alone:

* in every residual block a quarter of the channels come from the frame before (a temporal shift, free of multiplications);
* on two levels a pair of frames is merged into one (encoder) or one is split into a pair (decoder).

The first frame counts as a pair of equal frames, so an image is exactly the beginning of a still video and needs no weights
of its own. Activations are (N, F, h, w, C) throughout: the channel is last in memory, which is what fast CPU convolutions want.

Source: temporal shift after TSM (arXiv 1811.08383), down- and upsampling by averaging and duplication at the start after
DC-AE (arXiv 2410.10733). Measurements: LOG.md, "autoencoder".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from openlance.errors import LanceError

# What every temporal layer remembers of the frames it has seen: one tensor a layer. Empty at the start of a video.
Past = dict[nn.Module, Tensor]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes. `widths`, `encoder_blocks` and `decoder_blocks` go from fine to coarse: 1/4, 1/8 and 1/16 of the picture's side."""

    latent_channels: int = 32
    patch_size: int = 4
    widths: tuple[int, int, int] = (64, 128, 256)
    encoder_blocks: tuple[int, int, int] = (1, 2, 2)
    decoder_blocks: tuple[int, int, int] = (2, 2, 2)

    @property
    def spatial_factor(self) -> int:
        return self.patch_size * 4

    @property
    def temporal_factor(self) -> int:
        return 4


def _shuffle(x: Tensor, p: int) -> Tensor:
    """(N, F, h, w, p*p*C) -> (N, F, h*p, w*p, C): channels become a square of p x p pixels."""
    n, f, h, w, c = x.shape
    return x.reshape(n, f, h, w, p, p, c // (p * p)).permute(0, 1, 2, 4, 3, 5, 6).reshape(n, f, h * p, w * p, c // (p * p))


def _unshuffle(x: Tensor, p: int) -> Tensor:
    """(N, F, h*p, w*p, C) -> (N, F, h, w, p*p*C), the inverse of `_shuffle`."""
    n, f, h, w, c = x.shape
    return x.reshape(n, f, h // p, p, w // p, p, c).permute(0, 1, 2, 4, 3, 5, 6).reshape(n, f, h // p, w // p, p * p * c)


class Conv(nn.Conv2d):
    """A 3x3 convolution of every frame of (N, F, h, w, C)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        n, f = x.shape[:2]
        y = super().forward(x.flatten(0, 1).permute(0, 3, 1, 2))
        return y.permute(0, 2, 3, 1).unflatten(0, (n, f))


class Block(nn.Module):
    """Norm, shift, convolution, convolution, added to the input. The shift takes a quarter of the channels from the frame before."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.first = Conv(width, width)
        self.second = Conv(width, width)
        self.shifted = width // 4
        with torch.no_grad():
            self.second.weight.mul_(0.3)
            nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        h = F.silu(self.norm(x))
        now = h[..., : self.shifted]
        before = past.get(self, now[:, :1])
        past[self] = now[:, -1:]
        if x.shape[1] > 1 or before is not now:
            h = torch.cat([torch.cat([before, now[:, :-1]], 1), h[..., self.shifted :]], -1)
        return x + self.second(F.silu(self.first(h)))


class Down(nn.Module):
    """Halves the sides and, if `temporal`, merges pairs of frames. The first frame of a video is a pair by itself."""

    def __init__(self, inputs: int, outputs: int, temporal: bool) -> None:
        super().__init__()
        self.temporal = temporal
        self.merge = nn.Linear(inputs * (8 if temporal else 4), outputs)
        start_as_average(self.merge.weight)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = _unshuffle(x, 2)
        if self.temporal:
            if self not in past:
                x = torch.cat([x[:, :1], x], 1)
            past[self] = x[:, :0]
            x = torch.cat([x[:, 0::2], x[:, 1::2]], -1)
        return self.merge(x)


class Up(nn.Module):
    """The inverse of `Down`: doubles the sides and, if `temporal`, splits each frame into a pair (the first one into one)."""

    def __init__(self, inputs: int, outputs: int, temporal: bool) -> None:
        super().__init__()
        self.temporal = temporal
        self.split = nn.Linear(inputs, outputs * (8 if temporal else 4))
        start_as_average(self.split.weight)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.split(x)
        if self.temporal:
            n, f, h, w, c = x.shape
            x = x.reshape(n, f, h, w, 2, c // 2).permute(0, 1, 4, 2, 3, 5).reshape(n, 2 * f, h, w, c // 2)
            if self not in past:
                x = x[:, 1:]
            past[self] = x[:, :0]
        return _shuffle(x, 2)


def start_as_average(weight: Tensor) -> None:
    """Start a (outputs, inputs) matrix as group averages or duplicates plus a little noise, in place.

    With a random start the 16x autoencoder collapsed to the background colour (17 dB); with this one it learns from the first step.
    """
    outputs, inputs = weight.shape
    with torch.no_grad():
        weight.mul_(0.3)
        for i in range(outputs):
            if inputs >= outputs:
                group = inputs // outputs
                weight[i, i * group : (i + 1) * group] += group**-0.5
            else:
                weight[i, i * inputs // outputs] += 1.0


class Autoencoder(nn.Module):
    """Pixels in [-1, 1] to standardised latents and back; see the module docstring.

    `latents_mean` and `latents_std` (C,) standardise the latents per channel; they are measured after training.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AutoencoderConfig()
        fine, middle, coarse = config.widths
        pixels = 3 * config.patch_size**2
        self.encoder_in = Conv(pixels, fine)
        self.encoder = nn.ModuleList([
            *(Block(fine) for _ in range(config.encoder_blocks[0])), Down(fine, middle, True),
            *(Block(middle) for _ in range(config.encoder_blocks[1])), Down(middle, coarse, True),
            *(Block(coarse) for _ in range(config.encoder_blocks[2])),
        ])
        self.encoder_norm = nn.LayerNorm(coarse, bias=False)
        self.encoder_out = nn.Linear(coarse, config.latent_channels)
        self.decoder_in = Conv(config.latent_channels, coarse)
        self.decoder = nn.ModuleList([
            *(Block(coarse) for _ in range(config.decoder_blocks[2])), Up(coarse, middle, True),
            *(Block(middle) for _ in range(config.decoder_blocks[1])), Up(middle, fine, True),
            *(Block(fine) for _ in range(config.decoder_blocks[0])),
        ])
        self.decoder_norm = nn.LayerNorm(fine, bias=False)
        self.decoder_out = Conv(fine, pixels)
        start_as_average(self.encoder_out.weight)
        start_as_average(self.decoder_in.weight[:, :, 1, 1])
        self.register_buffer("latents_mean", torch.zeros(config.latent_channels))
        self.register_buffer("latents_std", torch.ones(config.latent_channels))

    def encode_raw(self, pixels: Tensor) -> Tensor:
        """(N, 3, F, H, W) in [-1, 1] -> latents (N, t, h, w, C) of RMS 1 at every position, before standardising.

        The bound keeps the code from growing away from the noise it is trained with.
        """
        past: Past = {}
        x = _unshuffle(pixels.permute(0, 2, 3, 4, 1).to(self.encoder_out.weight.dtype), self.config.patch_size)
        x = self.encoder_in(x)
        for layer in self.encoder:
            x = layer(x, past)
        z = self.encoder_out(F.silu(self.encoder_norm(x))).float()
        return z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-4)

    def decode_raw(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Raw latents (N, t, h, w, C) -> pixels (N, 3, F, H, W), unclamped. `past` continues a video from where it left off."""
        past = {} if past is None else past
        x = self.decoder_in(latents.to(self.encoder_out.weight.dtype))
        for layer in self.decoder:
            x = layer(x, past)
        x = self.decoder_out(F.silu(self.decoder_norm(x)))
        return _shuffle(x, self.config.patch_size).permute(0, 4, 1, 2, 3).float()

    def encode(self, pixels: Tensor) -> Tensor:
        """(N, 3, F, H, W) in [-1, 1], F = 4k+1, H and W multiples of 16 -> standardised latents (N, t, h, w, C), t = (F-1)//4 + 1.

        Raises:
            LanceError: if a size does not fit; pad, crop or drop frames first.
        """
        frames, (height, width) = pixels.shape[2], pixels.shape[3:]
        if pixels.ndim != 5 or pixels.shape[1] != 3:
            raise LanceError(f"pixels must be (N, 3, F, H, W), not {tuple(pixels.shape)}")
        if frames % self.config.temporal_factor != 1:
            raise LanceError(f"{frames} frames cannot be encoded: give 4k+1 frames (1, 5, 9, 13, ...)")
        if height % self.config.spatial_factor or width % self.config.spatial_factor:
            raise LanceError(f"{height}x{width} pixels cannot be encoded: both sides must be multiples of {self.config.spatial_factor}")
        return (self.encode_raw(pixels) - self.latents_mean) / self.latents_std

    def decode(self, latents: Tensor) -> Tensor:
        """Standardised latents (N, t, h, w, C) -> pixels (N, 3, F, H, W) in [-1, 1], F = 4(t-1) + 1."""
        return torch.cat(list(self.decode_stream(latents, group=latents.shape[1])), 2)

    def decode_stream(self, latents: Tensor, group: int = 1) -> Iterator[Tensor]:
        """The frames of `decode`, in pieces as soon as they are ready: 1 frame, then 4 a latent frame, `group` latent frames a piece."""
        past: Past = {}
        for start in range(0, latents.shape[1], group):
            raw = latents[:, start : start + group] * self.latents_std + self.latents_mean
            yield self.decode_raw(raw, past).clamp(-1, 1)
