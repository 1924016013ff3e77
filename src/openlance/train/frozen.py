"""The frozen encoders of a run: read from the folders of their pre-stages, applied to clips in batches of one size."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openlance.engine.preprocess import prepare_medium
from openlance.errors import CheckpointError
from openlance.media.clip import Clip
from openlance.model.lance import LanceModel
from openlance.model.pixels import to_pixels
from openlance.model.precision import fast_dtype
from openlance.model.vae import build_autoencoder
from openlance.model.vision import VisionEncoder
from openlance.sequence.segment import Kind

BATCH_PIXELS = 1 << 20
"""Pixels of all frames in one pass of an encoder."""


def read_encoder(folder: Path, build: Callable[[dict[str, Any]], nn.Module], device: str = "cpu") -> tuple[nn.Module, dict[str, Any], str]:
    """(module, its configuration, digest of its weights) of a pre-stage's output folder, on the
    device, in the dtype that it multiplies fast. Buffers follow from the configuration."""
    from safetensors.torch import load

    weights = folder / "weights.safetensors"
    if not weights.exists():
        raise CheckpointError(f"no {weights.name} in {folder}: train the encoder first, or name the folder of one")
    config = json.loads((folder / "config.json").read_text())
    content = weights.read_bytes()
    module = build(config)
    parameters = dict(module.named_parameters())
    tensors = {name: tensor for name, tensor in load(content).items() if name not in dict(module.named_buffers())}
    if set(tensors) != set(parameters):
        raise CheckpointError(f"{weights} does not fit its config.json: {sorted(set(tensors) ^ set(parameters))[:4]} ...")
    for name, parameter in parameters.items():
        parameter.data = tensors[name].to(fast_dtype(device))
    return module.to(device).eval().requires_grad_(False), config, hashlib.sha256(content).hexdigest()[:16]


Fit = Callable[[Clip, Kind], Tensor]
"""Frames uint8 (F, H, W, 3) of a clip at the size that a stream takes."""


def as_is(clip: Clip, kind: Kind) -> Tensor:
    """For clips that have a size of the model already."""
    return torch.tensor(clip.frames)


def fit_to(model: LanceModel) -> Fit:
    """The model's own preprocessing, the same as at inference."""

    def fit(clip: Clip, kind: Kind) -> Tensor:
        frames = getattr(prepare_medium(model, clip, frozenset({kind})), kind.value)
        assert isinstance(frames, Tensor)
        return frames

    return fit


class FrozenEncoders:
    """Vision encoder and autoencoder of a run; either may be missing until a task asks for it. `fit` brings media to their sizes."""

    def __init__(self, vision: nn.Module | None, autoencoder: nn.Module | None, fit: Fit = as_is) -> None:
        self._vision: Any = vision
        self._autoencoder: Any = autoencoder
        self._fit = fit

    def vision(self, clips: Sequence[Clip]) -> list[Tensor]:
        """(t, h, w, D) each."""
        if self._vision is None:
            raise CheckpointError("a task of the recipe looks at media, but there is no vision encoder: set encoders.vision")
        encoder = self._vision

        def encode(group: list[Tensor]) -> list[Tensor]:
            device = next(encoder.parameters()).device
            tokens = torch.stack(encoder([encoder.patchify(frames.to(device)) for frames in group]))
            return list(tokens.unflatten(1, encoder.token_grid(*group[0].shape[:3])).cpu())  # type: ignore[no-untyped-call]

        return _in_groups([self._fit(clip, Kind.VISION) for clip in clips], encode)

    def latent(self, clips: Sequence[Clip]) -> list[Tensor]:
        """(t, h, w, C) each."""
        if self._autoencoder is None:
            raise CheckpointError("a task of the recipe makes media, but there is no autoencoder: set encoders.autoencoder")
        encoder = self._autoencoder

        def encode(group: list[Tensor]) -> list[Tensor]:
            device = next(encoder.parameters()).device
            return list(encoder.encode(torch.cat([to_pixels(frames.to(device)) for frames in group])).cpu())

        return _in_groups([self._fit(clip, Kind.LATENT) for clip in clips], encode)


def _in_groups(media: Sequence[Tensor], encode: Callable[[list[Tensor]], list[Tensor]]) -> list[Tensor]:
    """Encode frames of one size together, in their order."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, frames in enumerate(media):
        groups[tuple(frames.shape)].append(index)
    found: dict[int, Tensor] = {}
    for shape, members in groups.items():
        size = max(1, BATCH_PIXELS // (shape[0] * shape[1] * shape[2]))
        for start in range(0, len(members), size):
            part = members[start : start + size]
            with torch.no_grad():
                found.update(zip(part, encode([media[i] for i in part]), strict=True))
    return [found[i] for i in range(len(media))]


def read_vision(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The vision encoder of a folder and its configuration."""
    module, config, _ = read_encoder(folder, VisionEncoder)
    return module, config


def read_autoencoder(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """The autoencoder of a folder and its configuration."""
    module, config, _ = read_encoder(folder, build_autoencoder)
    return module, config
