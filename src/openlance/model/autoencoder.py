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

from openlance.errors import CheckpointError, LanceError
from openlance.model.pixels import to_pixels, usable_frames

# Far beyond use: each costs a decoding, and the fourth gives 0.03 dB (LOG.md, "Autoencoder").
MOST_CORRECTIONS = 8

# What every temporal layer remembers of the frames it has seen: one tensor a layer. Empty at the start of a video.
Past = dict[nn.Module, Tensor]


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes. `widths`, `encoder_blocks` and `decoder_blocks` go from fine to coarse: 1/4, 1/8 and 1/16 of the picture's side.

    `corrections` is how often the encoder decodes the first frame's latents and encodes it once more with what was lost added.
    `latents_mean` and `latents_std` have one number a channel and are measured after training; empty means 0 and 1.
    """

    latent_channels: int = 32
    widths: tuple[int, int, int] = (64, 128, 256)
    encoder_blocks: tuple[int, int, int] = (2, 3, 3)
    decoder_blocks: tuple[int, int, int] = (3, 3, 3)
    patch_size: int = 4
    corrections: int = 0
    latents_mean: tuple[float, ...] = ()
    latents_std: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.corrections not in range(MOST_CORRECTIONS + 1):
            raise CheckpointError(f"autoencoder corrections {self.corrections} must be 0 to {MOST_CORRECTIONS}")


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
        y = super().forward(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return y.reshape(n, f, *y.shape[1:])


class Block(nn.Module):
    """Norm, shift, 3x3 convolution, 1x1 convolution, added to the input. The shift takes a quarter of the channels from the frame before.

    One 3x3 a block: on CPUs plain matrix products run three times as fast as convolutions, and three such blocks beat two of two 3x3 each.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, bias=False)
        self.spread = Conv(width, width)
        self.mix = nn.Linear(width, width)
        self.shifted = width // 4
        with torch.no_grad():
            self.mix.weight.mul_(0.3)
            nn.init.zeros_(self.mix.bias)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        h = F.silu(self.norm(x))
        now = h[..., : self.shifted]
        before = past.get(self, now[:, :1])
        if x.shape[1] > 1 or self in past:
            h = torch.cat([torch.cat([before, now[:, :-1]], 1), h[..., self.shifted :]], -1)
        past[self] = now[:, -1:]
        change: Tensor = self.mix(F.silu(self.spread(h)))
        return x + change


class Down(nn.Module):
    """Halves the sides and merges pairs of frames. The first frame of a video is a pair by itself."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.merge = nn.Linear(8 * inputs, outputs)
        start_as_average(self.merge.weight)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = _unshuffle(x, 2)
        if self not in past:
            x = torch.cat([x[:, :1], x], 1)
        past[self] = x[:, :0]
        merged: Tensor = self.merge(torch.cat([x[:, 0::2], x[:, 1::2]], -1))
        return merged


class Up(nn.Module):
    """The inverse of `Down`: doubles the sides and splits each frame into a pair (the first one into one)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.split = nn.Linear(inputs, 8 * outputs)
        start_as_average(self.split.weight)

    def forward(self, x: Tensor, past: Past) -> Tensor:
        x = self.split(x)
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
    if weight.is_meta:  # no values to start from: they will be read, and the loop below is a tenth of a second of a load
        return
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
    """Pixels in [-1, 1] to latents and back, with the calls of `model.vae.VideoAutoencoder`; see the module docstring."""

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: AutoencoderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or AutoencoderConfig()
        self.latent_channels = channels = config.latent_channels
        self.spatial_stride, self.temporal_stride = config.patch_size * 4, 4
        fine, middle, coarse = config.widths
        pixels = 3 * config.patch_size**2
        self.encoder_in = Conv(pixels, fine)
        self.encoder = nn.ModuleList(
            [*_blocks(fine, config.encoder_blocks[0]), Down(fine, middle)]
            + [*_blocks(middle, config.encoder_blocks[1]), Down(middle, coarse)]
            + _blocks(coarse, config.encoder_blocks[2])
        )
        self.encoder_norm = nn.LayerNorm(coarse, bias=False)
        self.encoder_out = nn.Linear(coarse, channels)
        self.decoder_in = Conv(channels, coarse)
        self.decoder = nn.ModuleList(
            [*_blocks(coarse, config.decoder_blocks[2]), Up(coarse, middle)]
            + [*_blocks(middle, config.decoder_blocks[1]), Up(middle, fine)]
            + _blocks(fine, config.decoder_blocks[0])
        )
        self.decoder_norm = nn.LayerNorm(fine, bias=False)
        self.decoder_out = Conv(fine, pixels)
        start_as_average(self.encoder_out.weight)
        start_as_average(self.decoder_in.weight[:, :, 1, 1])
        for name, start in (("latents_mean", 0.0), ("latents_std", 1.0)):
            values = torch.tensor(getattr(config, name) or [start] * channels, dtype=torch.float32)
            if values.shape != (channels,):
                raise CheckpointError(f"autoencoder {name} has {len(values)} numbers, but there are {channels} latent channels")
            self.register_buffer(name, values, persistent=False)

    def encode_raw(self, pixels: Tensor) -> Tensor:
        """(N, 3, F, H, W) in [-1, 1] -> float32 latents (N, t, h, w, C) of RMS 1 at every position, before normalisation.

        The first frame is corrected: what decoding its latents lost is added to it and it is encoded again. Where decoding is nearly the
        inverse of encoding that cancels the error to first order (1.1 dB in three rounds, with weights that never knew it; LOG.md,
        "Autoencoder"). It is the frame that clips of a given picture keep; correcting all frames would cost several decodings of the clip.
        No gradient flows through the decoder.
        """
        first = wanted = pixels[:, :, :1]
        for _ in range(self.config.corrections):
            with torch.no_grad():
                wanted = wanted + first - self.decode_raw(self._encode_once(wanted)).clamp(-1, 1)
        return self._encode_once(torch.cat([wanted, pixels[:, :, 1:]], 2) if self.config.corrections else pixels)

    def _encode_once(self, pixels: Tensor) -> Tensor:
        """The bound of the latents keeps the code from growing away from the noise it is trained with."""
        past: Past = {}
        x = _unshuffle(pixels.permute(0, 2, 3, 4, 1).to(self.encoder_out.weight.dtype), self.config.patch_size)
        x = self.encoder_in(x)
        for layer in self.encoder:
            x = layer(x, past)
        z: Tensor = self.encoder_out(F.silu(self.encoder_norm(x))).float()
        return z * torch.rsqrt(z.pow(2).mean(-1, keepdim=True) + 1e-4)

    def decode_raw(self, latents: Tensor, past: Past | None = None) -> Tensor:
        """Raw latents (N, t, h, w, C) -> float32 pixels (N, 3, F, H, W), not clamped. `past` continues a video from where it left off."""
        past = {} if past is None else past
        x = self.decoder_in(latents.to(self.decoder_in.weight.dtype))
        for layer in self.decoder:
            x = layer(x, past)
        x = self.decoder_out(F.silu(self.decoder_norm(x)))
        return _shuffle(x, self.config.patch_size).permute(0, 4, 1, 2, 3).float()

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (N, t, h, w, C), float32, normalised per channel, t = (F-1)//4 + 1.

        `frames` is uint8 (F, H, W, 3), or float (N, 3, F, H, W) in [-1, 1]. Frames beyond the last 4k+1 are dropped.
        Raises LanceError if a side is no multiple of 16.
        """
        raw = frames.dtype == torch.uint8
        if frames.ndim != (4 if raw else 5) or frames.shape[-1 if raw else 1] != 3:
            raise LanceError(f"frames must be uint8 (F, H, W, 3) or float (N, 3, F, H, W), not {frames.dtype} {tuple(frames.shape)}")
        pixels = to_pixels(frames) if raw else frames
        height, width = pixels.shape[3:]
        if not height or not width or height % self.spatial_stride or width % self.spatial_stride:
            raise LanceError(f"{height}x{width} pixels cannot be encoded: crop or resize both sides to multiples of {self.spatial_stride}")
        last = usable_frames(pixels.shape[2], self.temporal_stride)
        return (self.encode_raw(pixels[:, :, :last].to(self.latents_mean.device)) - self.latents_mean) / self.latents_std

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (N, 3, F, H, W), float32 in [-1, 1], F = 4(t-1) + 1."""
        return self._decode(latents, {})

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """The frames of `decode` as soon as each piece is ready: 1 frame, then 4 a latent frame."""
        past: Past = {}
        for index in range(self._checked(latents).shape[1]):
            yield self._decode(latents[:, index : index + 1], past)

    def _decode(self, latents: Tensor, past: Past) -> Tensor:
        raw = self._checked(latents).to(self.latents_mean.device, torch.float32) * self.latents_std + self.latents_mean
        return self.decode_raw(raw, past).clamp(-1, 1)

    def _checked(self, latents: Tensor) -> Tensor:
        if latents.ndim != 5 or latents.shape[-1] != self.latent_channels or 0 in latents.shape:
            raise LanceError(f"latents must be (N, t, h, w, {self.latent_channels}) and not empty, not {tuple(latents.shape)}")
        return latents


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [Block(width) for _ in range(count)]
