"""Video autoencoder: pixels <-> latents, one latent frame at a time.

An autoencoder of this package is causal: the first frame becomes the first latent frame, every `temporal_stride` frames
after it become the next one, and nothing looks ahead. So both directions are loops that remember a little of the past;
what is kept between two steps does not grow with the length of the video.

`VideoAutoencoder` is the Wan2.2 autoencoder (diffusers `AutoencoderKLWan`) at any size, with the loop outside the
library so that a caller sees each piece as it is made. `build_autoencoder` picks the class a configuration names.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from openlance.errors import CheckpointError, LanceError
from openlance.model import autoencoder
from openlance.model.pixels import to_pixels, usable_frames


class Autoencoder(Protocol):
    """What the rest of the package asks of an autoencoder. Latents are float32, normalised per channel."""

    def encode(self, frames: Tensor) -> Tensor:
        """(N, 3, F, H, W) in [-1, 1], F = 4k+1 -> latents (N, t, h, w, C)."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (N, t, h, w, C) -> pixels (N, 3, F, H, W) in [-1, 1]."""

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """The frames of `decode` in pieces, as soon as each is ready."""


class VideoAutoencoder(nn.Module):
    """Wan2.2 autoencoder: 16x smaller in space and 4x in time in the released size (704.7 M parameters).

    `config` has the keys of the original code (dim, dec_dim, z_dim, dim_mult, num_res_blocks, temperal_downsample, ...)
    and `latents_mean`, `latents_std`: one number a channel, the only place where the statistics of latents are kept.
    """

    latents_mean: Tensor
    latents_std: Tensor

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan, WanCausalConv3d, patchify, unpatchify

        patch = 2
        self.latent_channels = int(config["z_dim"])
        self.spatial_stride = patch * 2 ** (len(config["dim_mult"]) - 1)
        self.temporal_stride = 2 ** sum(config["temperal_downsample"])
        self.wan = AutoencoderKLWan(
            base_dim=config["dim"],
            decoder_base_dim=config["dec_dim"],
            z_dim=self.latent_channels,
            dim_mult=list(config["dim_mult"]),
            num_res_blocks=config["num_res_blocks"],
            attn_scales=list(config.get("attn_scales", ())),
            temperal_downsample=list(config["temperal_downsample"]),
            is_residual=True,
            in_channels=3 * patch**2,
            out_channels=3 * patch**2,
            patch_size=patch,
            scale_factor_spatial=self.spatial_stride,
            scale_factor_temporal=self.temporal_stride,
            latents_mean=None,
            latents_std=None,
        )
        for name in ("latents_mean", "latents_std"):
            values = torch.tensor(config[name], dtype=torch.float32)
            if values.shape != (self.latent_channels,):
                raise CheckpointError(f"{name} has {values.numel()} values for {self.latent_channels} latent channels: give one a channel")
            self.register_buffer(name, values, persistent=False)
        self._fold: Callable[[Tensor], Tensor] = partial(patchify, patch_size=patch)
        self._unfold: Callable[[Tensor], Tensor] = partial(unpatchify, patch_size=patch)
        self._encoder_layers = sum(isinstance(layer, WanCausalConv3d) for layer in self.wan.encoder.modules())
        self._decoder_layers = sum(isinstance(layer, WanCausalConv3d) for layer in self.wan.decoder.modules())

    def encode(self, frames: Tensor) -> Tensor:
        """Latents (N, t, h, w, C), float32, of the posterior mean; see `encode_stream`."""
        return torch.cat(list(self.encode_stream(frames)), dim=1)

    def encode_stream(self, frames: Tensor) -> Iterator[Tensor]:
        """Latent frames (N, 1, h, w, C) one by one; only the frames of one step are ever converted to float.

        Parameters
        ----------
        frames: uint8 (F, H, W, 3), or float (N, 3, F, H, W) in [-1, 1]. Frames beyond the last 4k+1 are dropped,
            as the released model does: 7 frames give the latents of the first 5.

        Raises LanceError if a side is no multiple of `spatial_stride`.
        """
        raw = frames.dtype == torch.uint8
        if frames.ndim != (4 if raw else 5) or frames.shape[-1 if raw else 1] != 3:
            raise LanceError(f"frames must be uint8 (F, H, W, 3) or float (N, 3, F, H, W), not {frames.dtype} {tuple(frames.shape)}")
        time = 0 if raw else 2
        height, width = frames.shape[1:3] if raw else frames.shape[3:5]
        if not height or not width or height % self.spatial_stride or width % self.spatial_stride:
            raise LanceError(f"{height}x{width} pixels cannot be encoded: crop or resize both sides to multiples of {self.spatial_stride}")
        weight = self.wan.quant_conv.weight
        memory: list[Tensor | str | None] = [None] * self._encoder_layers
        start, stop, last = 0, 1, usable_frames(frames.shape[time], self.temporal_stride)
        while stop <= last:
            piece = frames.narrow(time, start, stop - start).to(weight.device)
            pixels = (to_pixels(piece) if raw else piece).to(weight.dtype)
            moments = self.wan.quant_conv(self.wan.encoder(self._fold(pixels.contiguous()), feat_cache=memory, feat_idx=[0]))
            mean = moments[:, : self.latent_channels].float().permute(0, 2, 3, 4, 1)
            yield (mean - self.latents_mean) / self.latents_std
            start, stop = stop, stop + self.temporal_stride

    def decode(self, latents: Tensor) -> Tensor:
        """Pixels (N, 3, F, H, W), float32 in [-1, 1], F = 4(t-1) + 1; see `decode_stream`."""
        n, t, h, w, _ = self._checked(latents).shape
        frames = (t - 1) * self.temporal_stride + 1
        pixels = latents.new_empty((n, 3, frames, h * self.spatial_stride, w * self.spatial_stride), dtype=torch.float32)
        start = 0
        for piece in self.decode_stream(latents):
            pixels[:, :, start : start + piece.shape[2]] = piece
            start += piece.shape[2]
        return pixels

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        """Pixels (N, 3, f, H, W), float32 in [-1, 1], of one latent frame after the other: f is 1, then 4, 4, ...

        Together they are `decode` exactly. The caller may stop at any piece; two streams do not disturb one another.
        """
        self._checked(latents)
        weight = self.wan.post_quant_conv.weight
        memory: list[Tensor | str | None] = [None] * self._decoder_layers
        for index in range(latents.shape[1]):
            frame = latents[:, index : index + 1].to(weight.device, torch.float32) * self.latents_std + self.latents_mean
            hidden = self.wan.post_quant_conv(frame.permute(0, 4, 1, 2, 3).to(weight.dtype))
            pixels = self.wan.decoder(hidden, feat_cache=memory, feat_idx=[0], first_chunk=index == 0)
            yield self._unfold(pixels).float().clamp(-1, 1)

    def _checked(self, latents: Tensor) -> Tensor:
        if latents.ndim != 5 or latents.shape[-1] != self.latent_channels or 0 in latents.shape:
            raise LanceError(f"latents must be (N, t, h, w, {self.latent_channels}) and not empty, not {tuple(latents.shape)}")
        return latents


def build_autoencoder(config: Mapping[str, Any]) -> nn.Module:
    """The autoencoder that `config["class"]` names: `wan` (the default: published configurations name none) or `light`.

    The module answers to the `Autoencoder` protocol. Raises CheckpointError on an unknown class or argument.
    """
    arguments = {key: value for key, value in config.items() if key != "class"}
    kind = config.get("class", "wan")
    try:
        return AUTOENCODERS[kind](arguments)
    except KeyError as error:
        if kind not in AUTOENCODERS:
            raise CheckpointError(f"autoencoder class {kind!r} is not known: use one of {sorted(AUTOENCODERS)}") from error
        raise CheckpointError(f"the configuration of the {kind!r} autoencoder lacks {error}") from error
    except TypeError as error:
        raise CheckpointError(f"the configuration of the {kind!r} autoencoder does not fit: {error}") from error


def _light(arguments: Mapping[str, Any]) -> nn.Module:
    sizes: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}
    return autoencoder.Autoencoder(autoencoder.AutoencoderConfig(**sizes))


AUTOENCODERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {"wan": VideoAutoencoder, "light": _light}
