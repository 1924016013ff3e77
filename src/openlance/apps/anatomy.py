"""What a checkpoint is made of and what memory its tasks need, from configuration and file headers alone: no weight is read."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from openlance.media.resize import PRESETS
from openlance.model.config import LanceConfig
from openlance.sequence.segment import Kind
from openlance.sequence.tasks import TASKS, Task
from openlance.weights.hub import CheckpointFiles
from openlance.weights.tensorfile import open_tensors

PROMPT_TOKENS = 256
"""SYSTEM, prompt and markers of a typical request."""
PROCESS_BYTES = 270 << 20
"""A process with torch and its kernels on a CPU, before any weight (benchmarks/memory.py)."""
VISION_BYTES = 125 << 20
"""What the library of the vision tower adds to it with the first picture it looks at."""
PARTS = (
    (r"transformer\.layers\.\d+\.understanding\..*|transformer\.norm_understanding\..*", "understanding expert"),
    (r"transformer\.layers\.\d+\.generation\..*|transformer\.norm_generation\..*", "generation expert"),
    (r"embedding\..*", "token embedding"),
    (r"head\..*", "text head"),
    (r"latent\..*", "latent input, time and flow head"),
    (r"vision\..*", "vision encoder"),
    (r"autoencoder\..*", "video autoencoder"),
)
"""Names of our own layout, and the part of the model they belong to."""


@dataclass(frozen=True)
class Part:
    """One part of a model: how many parameters, and how many bytes they take on disk."""

    name: str
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """Memory of one task at the model's default sizes, in bytes beyond the weights and, with `process`, beyond the libraries."""

    task: str
    size: str
    tokens: int
    """Of the full sequence, prompt and media included."""
    cache: int
    activations: int
    pixels: int
    process: int
    """Libraries and kernels, which are there whatever the size of a model; on a GPU they are in the memory of its host."""

    @property
    def total(self) -> int:
        return self.cache + self.activations + self.pixels

    def in_all(self, weights: int) -> int:
        """What a fresh process on a CPU holds at most with `weights` bytes of weights."""
        return self.process + weights + self.total


def parts_of(files: CheckpointFiles, config: LanceConfig) -> list[Part]:
    """Parameters, bytes and dtypes by part."""
    parameters: Counter[str] = Counter()
    size: Counter[str] = Counter()
    dtypes: dict[str, set[str]] = {}
    for name, shape, dtype in _tensors(files, config):
        part = next((label for pattern, label in PARTS if re.fullmatch(pattern, name)), "other")
        count = math.prod(shape)
        parameters[part] += count
        size[part] += count * dtype.itemsize
        dtypes.setdefault(part, set()).add(str(dtype).removeprefix("torch."))
    order = [label for _, label in PARTS] + ["other"]
    return [Part(label, parameters[label], size[label], tuple(sorted(dtypes[label]))) for label in order if label in parameters]


def _tensors(files: CheckpointFiles, config: LanceConfig) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    """Names of our own layout with shape and dtype, whatever the layout of the files."""
    if files.layout == "own":
        yield from _entries(files.weights, {})
        return
    from openlance.weights.names import IGNORED, transformer_slots

    targets = {slot.name: slot.target for slot in transformer_slots(config.transformer)}
    yield from ((name, shape, dtype) for name, shape, dtype in _entries(files.weights, targets) if name not in IGNORED)
    for path, prefix in ((files.vision_weights, "vision."), (files.autoencoder_weights, "autoencoder.")):
        if path is not None:
            yield from ((prefix + name, shape, dtype) for name, shape, dtype in _entries(path, {}))


def _entries(path: Path, names: Mapping[str, str]) -> Iterator[tuple[str, tuple[int, ...], torch.dtype]]:
    for name, entry in open_tensors(path).entries.items():
        yield names.get(name, name), entry.shape, entry.dtype


def needs_of(config: LanceConfig, dtype: torch.dtype = torch.bfloat16) -> list[Need]:
    """What each task needs at the model's default sizes, one request with guidance, media of the size that is produced."""
    tasks = [task for task in TASKS.values() if _possible(task, config)]
    return [_need(task, config, dtype.itemsize) for task in tasks]


def _possible(task: Task, config: LanceConfig) -> bool:
    latent = task.output != "text" or Kind.LATENT in task.blocks
    return bool(config.autoencoder or not latent) and bool(config.vision or Kind.VISION not in task.blocks)


def _need(task: Task, config: LanceConfig, item: int) -> Need:
    video = task.output == "video" or task.medium == "video"
    height, width = config.media.video_size if video else config.media.image_size
    frames = config.media.num_frames if video else 1
    cells = math.prod(config.latent_grid(frames, height, width))
    target = cells if task.output != "text" else 0
    seen = vision_cells(config, frames, height * width) * (Kind.VISION in task.blocks) + cells * (Kind.LATENT in task.blocks)
    fixed = PROMPT_TOKENS + seen
    branches = 2 if target and config.sampling.guidance_scale > 1 else 1
    growing = target or config.sampling.max_new_tokens
    sizes = config.transformer
    token = 2 * sizes.num_hidden_layers * sizes.num_key_value_heads * sizes.head_dim * item
    widest = max(fixed, target * branches)
    pixels = frames * height * width if target or seen else 0
    text = "text" if not pixels else f"{width}x{height}" + (f", {frames} frames" if video else "")
    return Need(
        task.name,
        text,
        fixed + target,
        branches * (fixed + growing) * token,
        widest * activation_bytes(config, item) + (fixed**2 if seen else 0),
        pixel_bytes(config, frames, height * width, item, Kind.LATENT in task.blocks) if pixels else 0,
        PROCESS_BYTES + VISION_BYTES * (Kind.VISION in task.blocks),
    )


def vision_cells(config: LanceConfig, frames: int, area: int) -> int:
    """Vision tokens of a medium: a cell is a merged patch of two frames; with buckets the area is that of the preset."""
    sizes: Mapping[str, Any] = config.vision
    cell = int(sizes.get("patch_size", 14)) * int(sizes.get("spatial_merge_size", 2))
    if config.media.resize == "bucket":
        area = PRESETS[config.media.video_preset if frames > 1 else config.media.image_preset].vit_resolution ** 2
    return -(-frames // int(sizes.get("temporal_patch_size", 2))) * (area // cell**2)


def activation_bytes(config: LanceConfig, item: int) -> int:
    """What one token holds at the widest place of a layer: the stream and its norm, heads with their rotated copies or the MLP."""
    sizes = config.transformer
    heads = (sizes.num_attention_heads + 2 * sizes.num_key_value_heads) * sizes.head_dim
    return item * (3 * sizes.hidden_size + max(2 * heads, 3 * sizes.intermediate_size))


def pixel_bytes(config: LanceConfig, frames: int, area: int, item: int, encoded: bool) -> int:
    """Frames as bytes, and the larger of what decoding them and, if they are `encoded`, encoding them holds.

    Decoding goes latent frame by latent frame. For encoding a clip is in float32 twice, and the light autoencoder takes it whole.
    """
    at_once = min(frames, config.temporal_stride)
    decoding = coder_bytes(config, at_once * area, item)
    whole = frames if "widths" in config.autoencoder else at_once
    encoding = 2 * 3 * 4 * frames * area + coder_bytes(config, whole * area, item) if encoded else 0
    return 3 * frames * area + max(decoding, encoding)


def coder_bytes(config: LanceConfig, pixels: int, item: int) -> int:
    """One pass of the autoencoder over so many pixels: three activations of its finest level, and the pixels in float32."""
    sizes: Mapping[str, Any] = config.autoencoder
    if "widths" in sizes:
        width, patch = int(sizes["widths"][0]), int(sizes.get("patch_size", 4))
    else:
        width, patch = int(sizes.get("dec_dim", 256)), 2
    return 3 * item * width * pixels // patch**2 + 3 * 4 * pixels
