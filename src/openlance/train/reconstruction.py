"""Pre-stage of the autoencoder: reconstruct the world's pictures and clips through noisy latents.

The diffusion model that later aims at these latents never hits them exactly, so the decoder learns from latents with noise: uniform
between none and `noise` times the latents' own size, drawn for every sample. The loss is L1 + 4 MSE + 0.5 times the error of the
gradients: MSE because PSNR is what is asked for, gradients because edges of letters are.

A second run may start from a first one (`start_from`) with more blocks. With `freeze_encoder` it trains the decoder alone: latents that
were cached and models that were trained on them stay valid while the pictures get sharper.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn

from openlance.errors import LanceError
from openlance.model.autoencoder import Autoencoder, AutoencoderConfig, Block
from openlance.model.vae import build_autoencoder
from openlance.train.encoder_stage import Batch, EncoderRecipe, write_encoder
from openlance.world.palette import SCENERIES
from openlance.world.render import render, render_clip
from openlance.world.sample import SceneOptions, sample_scene

EVALUATION_SEED = 9_000_000
SHEET_COLUMNS = 10


@dataclass(frozen=True)
class CropBucket:
    """Equal-sized crops of freshly drawn scenes. Canvas sides are drawn between the two limits in steps of 16 px, each by itself."""

    share: float
    batch: int
    canvas: tuple[int, int] = (128, 128)
    crop: tuple[int, int] = (64, 64)
    frames: int = 1
    crops: int = 1
    """Crops taken from one scene: drawing is what costs a small model most."""


@dataclass(frozen=True)
class AutoencoderRecipe(EncoderRecipe):
    """Every step takes one bucket of images and one of clips, drawn by their shares."""

    model: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    images: tuple[CropBucket, ...] = (CropBucket(1.0, 32),)
    clips: tuple[CropBucket, ...] = (CropBucket(1.0, 3, frames=17),)
    words: float = 0.35
    """Share of the training scenes in which a word is written."""
    noise: float = 0.4
    mse: float = 4.0
    gradient: float = 0.5
    start_from: Path | None = None
    """Folder of exported weights to start from; the model may have more blocks than they have."""
    freeze_encoder: bool = False
    """Keep the encoder and the latent statistics of `start_from` as they are."""
    evaluation_images: int = 16
    """Held-out images of every kind."""
    evaluation_clips: int = 12

    def __post_init__(self) -> None:
        if not 0 <= self.words <= 1:
            raise LanceError(f"words {self.words} must be a share from 0 to 1")


# Kinds of held-out images, each scored by itself.
KINDS: dict[str, SceneOptions] = {
    "shapes": SceneOptions(textures=0.0),
    "textures": SceneOptions(textures=1.0),
    "things": SceneOptions(ring=2),
    "sceneries": SceneOptions(ring=2),
    "words": SceneOptions(ring=2, words=1.0, objects=(1, 2)),
}


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of every sample of two tensors (N, ...) in [-1, 1]."""
    error = ((prediction.clamp(-1, 1) - target) / 2).pow(2).flatten(1).mean(1)
    return -10 * torch.log10(error + 1e-10)


def to_pixels(batch: Tensor) -> Tensor:
    """uint8 (N, F, H, W, 3) -> float (N, 3, F, H, W) in [-1, 1]."""
    return batch.permute(0, 4, 1, 2, 3).float() / 127.5 - 1


class AutoencoderStage:
    """See the module docstring; the protocol is `openlance.train.encoder_stage.Stage`."""

    def __init__(self, recipe: AutoencoderRecipe) -> None:
        self.recipe = recipe
        self.module = Autoencoder(recipe.model)
        self._began_from = start_from(self.module, recipe.start_from) if recipe.start_from else None
        if recipe.freeze_encoder:
            for part in (self.module.encoder_in, self.module.encoder, self.module.encoder_norm, self.module.encoder_out):
                part.requires_grad_(False)
        self.module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._held_out: dict[str, Tensor] | None = None

    def batches(self, rng: random.Random) -> list[Batch]:
        drawn = []
        for buckets in (self.recipe.images, self.recipe.clips):
            if buckets:
                bucket = rng.choices(buckets, [b.share for b in buckets])[0]
                drawn.append({"pixels": torch.from_numpy(draw_batch(rng, bucket, self.recipe.words))})
        return drawn

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        target = to_pixels(batch["pixels"])
        latents = self.module.encode_raw(target)
        strength = self.recipe.noise * torch.rand(len(latents), 1, 1, 1, 1, generator=generator, device=latents.device)
        noisy = latents + strength * torch.randn(latents.shape, generator=generator, device=latents.device)
        error = self.module.decode_raw(noisy) - target
        edges = (error[..., 1:] - error[..., :-1]).abs().mean() + (error[..., 1:, :] - error[..., :-1, :]).abs().mean()
        loss: Tensor = error.abs().mean() + self.recipe.mse * error.pow(2).mean() + self.recipe.gradient * edges
        return loss

    def evaluate(self) -> tuple[dict[str, float], NDArray[np.uint8]]:
        if self._held_out is None:
            self._held_out = held_out(self.recipe.evaluation_images, self.recipe.evaluation_clips)
        device = self.recipe.device
        generator = torch.Generator(device).manual_seed(0)
        figures: dict[str, float] = {}
        rows: list[NDArray[np.uint8]] = []
        for kind, pixels in self._held_out.items():
            clean, noisy, made = [], [], []
            for chunk in torch.split(pixels, 4):
                target = to_pixels(chunk.to(device))
                latents = self.module.encode_raw(target)
                decoded = self.module.decode_raw(latents)
                clean.append(psnr(decoded, target))
                noise = torch.randn(latents.shape, generator=generator, device=device)
                noisy.append(psnr(self.module.decode_raw(latents + 0.3 * noise), target))
                made.append(((decoded.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 4, 1).cpu())
            figures[kind], figures[kind + "_noisy"] = float(torch.cat(clean).mean()), float(torch.cat(noisy).mean())
            if pixels.shape[2:4] == (128, 128):
                rows += _rows(pixels, torch.cat(made))
        figures["images"] = sum(figures[kind] for kind in KINDS) / len(KINDS)
        return figures, np.concatenate(rows)

    def export(self, folder: Path) -> None:
        """Latent statistics are measured on 400 training images and 60 clips, unless the encoder is an earlier one's."""
        if self.recipe.freeze_encoder and self._began_from:
            # Not the module's own, which may have been rounded with its weights: what was encoded before must stay valid to the bit.
            mean, std = list(self._began_from.latents_mean), list(self._began_from.latents_std)
        else:
            latents = torch.cat([self._encode_some(images=400), self._encode_some(clips=60)])
            # Rounded, so that a module cast to bfloat16 normalises exactly as one in float32.
            mean, std = latents.mean(0).bfloat16().tolist(), latents.std(0).bfloat16().tolist()
        values = {**asdict(self.recipe.model), "latents_mean": mean, "latents_std": std}
        write_encoder(folder, self.module, {"class": "light", **values})

    @torch.no_grad()
    def _encode_some(self, images: int = 0, clips: int = 0) -> Tensor:
        """Raw latents (S, C) of training scenes."""
        rng = random.Random(f"statistics-{self.recipe.seed}")
        bucket = CropBucket(1.0, 4, (128, 128), (128, 128), 17 if clips else 1)
        pieces = [torch.from_numpy(draw_batch(rng, bucket, self.recipe.words)) for _ in range((images + clips) // 4)]
        return torch.cat([self.module.encode_raw(to_pixels(p.to(self.recipe.device))).flatten(0, 3) for p in pieces])


@torch.no_grad()
def start_from(model: Autoencoder, folder: Path) -> AutoencoderConfig:
    """Take over exported weights, in place. Where `model` has more blocks than they have, the new ones start by doing nothing.
    Returns the configuration that they were exported with.

    Raises LanceError if the weights have more blocks than `model` or other widths.
    """
    old = build_autoencoder(json.loads((folder / "config.json").read_text()))
    assert isinstance(old, Autoencoder)
    old.load_state_dict({name: tensor.float() for name, tensor in load_file(folder / "weights.safetensors").items()})
    if old.config.widths != model.config.widths or old.latent_channels != model.latent_channels:
        raise LanceError(f"{folder} has widths {old.config.widths} and {old.latent_channels} latent channels: give the recipe the same")
    for name, child in old.named_children():
        if isinstance(child, nn.ModuleList):
            _grow(model.get_submodule(name), child, f"{folder} has more {name} blocks than the recipe: give at least as many")
        else:
            model.get_submodule(name).load_state_dict(child.state_dict())
    model.latents_mean.copy_(old.latents_mean)
    model.latents_std.copy_(old.latents_std)
    return old.config


def _grow(layers: nn.Module, old: nn.ModuleList, complaint: str) -> None:
    waiting = list(old)
    for layer in layers.children():
        if waiting and type(layer) is type(waiting[0]):
            layer.load_state_dict(waiting.pop(0).state_dict())
        elif isinstance(layer, Block):
            nn.init.zeros_(layer.mix.weight)
    if waiting:
        raise LanceError(complaint)


def draw_batch(rng: random.Random, bucket: CropBucket, words: float) -> NDArray[np.uint8]:
    """Crops (N, F, H, W, 3) of training scenes, `words` of which have a word in them."""
    crops: list[NDArray[np.uint8]] = []
    while len(crops) < bucket.batch:
        crops += draw_crops(rng, bucket, words)
    return np.stack(crops[: bucket.batch])


def draw_crops(rng: random.Random, bucket: CropBucket, words: float) -> list[NDArray[np.uint8]]:
    """Crops (F, H, W, 3) of one training scene, each the more varied of two places, since most of a scene is plain background."""
    low, high = bucket.canvas
    height, width = (max(side, 16 * rng.randint(low // 16, high // 16)) for side in bucket.crop)
    options = SceneOptions(
        ring=rng.choice((1, 2, 2)), textures=0.6, words=words, moving=bucket.frames > 1, background=rng.choice([*SCENERIES, *[None] * 6])
    )
    scene = sample_scene(rng, height, width, options)
    pixels = render_clip(scene, height, width, bucket.frames) if bucket.frames > 1 else render(scene, height, width)[None]
    if (height, width) == bucket.crop:
        return [pixels]
    crops = []
    for _ in range(bucket.crops):
        places = [(rng.randint(0, height - bucket.crop[0]), rng.randint(0, width - bucket.crop[1])) for _ in range(2)]
        pair = [pixels[:, y : y + bucket.crop[0], x : x + bucket.crop[1]] for y, x in places]
        crops.append(max(pair, key=lambda crop: float(crop[0, ::4, ::4].std())))
    return crops


@cache
def held_out(images: int, clips: int) -> dict[str, Tensor]:
    """Fixed scenes of the evaluation range, uint8 (N, F, H, W, 3) by kind: images of 128 px, of other sizes, and 17-frame clips."""
    found: dict[str, Tensor] = {}
    for offset, (kind, options) in enumerate(KINDS.items()):
        found[kind] = _draw_kind(offset, kind, options, images, (128, 128))
    found["size_64"] = _draw_kind(10, "things", KINDS["things"], images, (64, 64))
    found["size_256"] = _draw_kind(11, "words", KINDS["words"], max(1, images // 2), (256, 256))
    found["size_96x192"] = _draw_kind(12, "things", KINDS["things"], max(1, images // 2), (96, 192))
    rng = random.Random(EVALUATION_SEED + 20)
    drawn = [sample_scene(rng, 128, 128, SceneOptions(ring=1 + i % 2, moving=True, words=0.2)) for i in range(clips)]
    found["clips"] = torch.from_numpy(np.stack([render_clip(scene, 128, 128, 17) for scene in drawn]))
    return found


def _draw_kind(offset: int, kind: str, options: SceneOptions, count: int, size: tuple[int, int]) -> Tensor:
    rng = random.Random(EVALUATION_SEED + offset)
    pictures = []
    for i in range(count):
        background = list(SCENERIES)[i % len(SCENERIES)] if kind == "sceneries" else None
        scene = sample_scene(rng, *size, SceneOptions(**{**asdict(options), "background": background}))
        pictures.append(render(scene, *size)[None])
    return torch.from_numpy(np.stack(pictures))


def _rows(pixels: Tensor, made: Tensor) -> list[NDArray[np.uint8]]:
    """Two rows of a contact sheet, truth over reconstruction: of images the first ones, of clips every fourth frame of the first two."""
    if pixels.shape[1] == 1:
        pairs: Sequence[Tensor] = [t[:SHEET_COLUMNS, 0] for t in (pixels, made)]
    else:
        pairs = [t[:2, ::4].flatten(0, 1)[:SHEET_COLUMNS] for t in (pixels, made)]
    blank = torch.full((SHEET_COLUMNS, *pixels.shape[2:]), 255, dtype=torch.uint8)
    return [np.concatenate(list(torch.cat([row, blank])[:SHEET_COLUMNS].numpy()), 1) for row in pairs]
