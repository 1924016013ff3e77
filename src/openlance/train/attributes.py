"""Pre-stage of the vision encoder: say at every token what is there.

A throw-away linear head reads the attributes of the scene from each token: kind, colour, texture and size of the object that covers it
and how it moves between the token's two frames, how many of its kind there are, the letter, the background, and the way to the
object's centre. A language model that starts with such tokens needs no millions of questions to learn to see:
without this stage colour questions stayed at 0.20 after 13 minutes, with 100 seconds of it they reached 0.80 (LOG.md).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from openlance.errors import LanceError
from openlance.model.vision import VisionEncoder
from openlance.train.encoder_stage import Batch, EncoderRecipe, write_encoder
from openlance.train.frozen import read_vision
from openlance.world.palette import BACKGROUNDS, COLOURS, NATURAL, SCENERIES, SHAPES, SIZES, TEXTURES, THINGS
from openlance.world.render import COLUMNS_AT, LETTER_GAP, columns_of, render, render_clip, word_mask
from openlance.world.sample import SceneOptions, sample_scene
from openlance.world.scene import Object, Pose, Scene, Word, pose

# What a token is asked. Class 0 is "nothing of the sort here" and counts like any other.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": ("none", *SHAPES, *THINGS),
    "colour": ("none", *COLOURS, NATURAL),
    "texture": ("none", *TEXTURES),
    "size": ("none", *SIZES),
    "change": ("none", "still", "left", "right", "up", "down", "grow", "shrink", "spin", "on", "off", "recolour"),
    "alike": ("none", "1", "2", "3", "4"),
    "letter": ("none", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
    "background": ("none", *BACKGROUNDS, *SCENERIES),
}
EVALUATION_SEED = 9_500_000
NUM_LABELS = len(ATTRIBUTES)
WORDS = 0.4
"""Share of scenes in which a word is written: always of those that are held out, and by default of those that teach."""


@dataclass(frozen=True)
class VisionConfig:
    """Arguments of `VisionEncoder`, named as in a Qwen2.5-VL vision config. One token covers 16x16 px of two frames."""

    depth: int = 5
    hidden_size: int = 160
    intermediate_size: int = 448
    num_heads: int = 5
    out_hidden_size: int = 256
    patch_size: int = 8
    spatial_merge_size: int = 2
    temporal_patch_size: int = 2
    window_size: int = 64
    """Side in px of the windows that most blocks look at."""
    fullatt_block_indexes: tuple[int, ...] = (2, 4)
    """Blocks that see the whole picture."""
    hidden_act: str = "silu"

    def arguments(self) -> dict[str, Any]:
        values: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return values


@dataclass(frozen=True)
class SceneBucket:
    """Whole scenes of one size for a step; canvas sides are drawn between the two limits in steps of 16 px, once a batch."""

    share: float
    batch: int
    canvas: tuple[int, int] = (128, 128)
    frames: int = 1


@dataclass(frozen=True)
class VisionRecipe(EncoderRecipe):
    """Every step takes one bucket of images and one of clips, drawn by their shares."""

    model: VisionConfig = field(default_factory=VisionConfig)
    images: tuple[SceneBucket, ...] = (SceneBucket(1.0, 24),)
    clips: tuple[SceneBucket, ...] = (SceneBucket(1.0, 2, frames=17),)
    weights: dict[str, float] = field(default_factory=dict)
    """Loss weights of attributes that do not count 1."""
    words: float = WORDS
    """Share of the training scenes in which a word is written."""
    start_from: Path | None = None
    """Folder of an exported encoder of the same sizes, or of fewer blocks, to go on from; the head that reads it starts anew."""
    evaluation_scenes: int = 48

    def __post_init__(self) -> None:
        if not 0 <= self.words <= 1:
            raise LanceError(f"words {self.words} must be a share from 0 to 1")


class _Reader(nn.Module):
    """The encoder and the head that is thrown away."""

    def __init__(self, config: VisionConfig, device: str) -> None:
        super().__init__()
        self.encoder = VisionEncoder(config.arguments())
        if device == "cpu":
            # Short sequences: plain products and a softmax train 1.2 times as fast as the fused kernel there.
            self.encoder.tower.set_attn_implementation("eager")
        self.norm = nn.LayerNorm(config.out_hidden_size)
        self.head = nn.Linear(config.out_hidden_size, sum(map(len, ATTRIBUTES.values())) + 2)

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (N, F, H, W, 3) -> float32 (N, t, h, w, all classes and 2 offsets)."""
        media = [self.encoder.patchify(frames) for frames in pixels]
        weight = self.head.weight
        tokens = torch.stack(self.encoder([(patches.to(weight.dtype), grid) for patches, grid in media]))
        grid = self.encoder.token_grid(*pixels.shape[1:4])
        answer: Tensor = self.head(self.norm(tokens)).float().unflatten(1, grid)
        return answer


class VisionStage:
    """See the module docstring; the protocol is `openlance.train.encoder_stage.Stage`."""

    def __init__(self, recipe: VisionRecipe) -> None:
        self.recipe = recipe
        self.module = _Reader(recipe.model, recipe.device)
        if recipe.start_from:
            _take_over(self.module.encoder, recipe.start_from)
        self._held_out: dict[str, Batch] | None = None

    def batches(self, rng: random.Random) -> list[Batch]:
        drawn = []
        for buckets in (self.recipe.images, self.recipe.clips):
            if buckets:
                bucket = rng.choices(buckets, [b.share for b in buckets])[0]
                drawn.append(draw_scenes(rng, bucket, self._token_size, self.recipe.words))
        return drawn

    @property
    def _token_size(self) -> tuple[int, int]:
        """Frames and pixels a side of one token."""
        model = self.recipe.model
        return model.temporal_patch_size, model.patch_size * model.spatial_merge_size

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        answer = self.module(jitter(batch["pixels"], generator))
        labels = batch["labels"].long()
        total = torch.zeros((), device=answer.device)
        for index, (name, logits) in enumerate(_parts(answer)):
            weight = self.recipe.weights.get(name, 1.0)
            total = total + weight * F.cross_entropy(logits.flatten(0, 3), labels[..., index].flatten())
        covered = labels[..., 0] > 0
        if covered.any():
            total = total + F.smooth_l1_loss(answer[..., -2:][covered], batch["offsets"][covered], beta=0.5)
        return total

    def evaluate(self) -> tuple[dict[str, float], NDArray[np.uint8]]:
        if self._held_out is None:
            self._held_out = self._draw_held_out()
        figures: dict[str, float] = {}
        for kind, batch in self._held_out.items():
            figures.update({f"{kind}_{name}": value for name, value in self._score(batch).items()})
        return figures, sheet(self.module, self._held_out["image"])

    def _draw_held_out(self) -> dict[str, Batch]:
        rng, count = random.Random(EVALUATION_SEED), self.recipe.evaluation_scenes
        return {
            "image": draw_scenes(rng, SceneBucket(1.0, count), self._token_size, WORDS),
            "clip": draw_scenes(rng, SceneBucket(1.0, max(1, count // 4), frames=17), self._token_size, WORDS),
        }

    def _score(self, batch: Batch) -> dict[str, float]:
        """Share of right answers over the tokens that have something to see (all tokens for the background), and the mean offset error."""
        answer = torch.cat([self.module(pixels.to(self.recipe.device)).cpu() for pixels in torch.split(batch["pixels"], 8)])
        labels, scores = batch["labels"].long(), dict[str, float]()
        for index, (name, logits) in enumerate(_parts(answer)):
            seen = labels[..., index] > 0
            right = logits.argmax(-1) == labels[..., index]
            scores[name] = float(right[seen].float().mean()) if seen.any() else float("nan")
            if name == "kind":
                scores["objectness"] = float(((logits.argmax(-1) > 0) == seen).float().mean())
        covered = labels[..., 0] > 0
        scores["offset_tokens"] = float((answer[..., -2:] - batch["offsets"])[covered].abs().mean())
        return scores

    def export(self, folder: Path) -> None:
        write_encoder(folder, self.module.encoder, self.recipe.model.arguments())


@torch.no_grad()
def _take_over(encoder: VisionEncoder, folder: Path) -> None:
    """Load exported weights; blocks that come after theirs start by doing nothing.

    Raises CheckpointError if there are none, LanceError if they have other sizes or more blocks.
    """
    found, _ = read_vision(folder)
    weights = {name: tensor.float() for name, tensor in found.state_dict().items()}
    own = encoder.state_dict()
    added = {name for name in own if name not in weights and name.startswith("tower.blocks.")}
    if {name: tensor.shape for name, tensor in weights.items()} != {name: own[name].shape for name in own if name not in added}:
        raise LanceError(f"start_from {folder} has other sizes than the recipe's model, or more blocks: give the recipe its config.json")
    encoder.load_state_dict({**own, **weights})
    for name in added:
        if ".attn.proj." in name or ".mlp.down_proj." in name:
            encoder.get_parameter(name).zero_()


def _parts(answer: Tensor) -> Iterator[tuple[str, Tensor]]:
    sizes = [len(classes) for classes in ATTRIBUTES.values()]
    yield from zip(ATTRIBUTES, torch.split(answer[..., :-2], sizes, -1), strict=True)


def jitter(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Brightness, contrast and a little noise, so that decoded and compressed pictures look familiar too. uint8 in, uint8 out."""
    shape = (len(pixels), 1, 1, 1, 1)
    device = pixels.device
    scale = 1 + 0.06 * (2 * torch.rand(shape, generator=generator, device=device) - 1)
    shift = 8 * (2 * torch.rand(shape, generator=generator, device=device) - 1)
    strength = 6 * torch.rand(shape, generator=generator, device=device)
    noise = strength * torch.randn(pixels.shape, generator=generator, device=device)
    return (pixels.float() * scale + shift + noise).clamp(0, 255).byte()


def draw_scenes(rng: random.Random, bucket: SceneBucket, token: tuple[int, int], words: float) -> Batch:
    """Pixels uint8 (N, F, H, W, 3), labels uint8 (N, t, h, w, attributes) and offsets float32 (N, t, h, w, 2) in tokens."""
    low, high = bucket.canvas
    height, width = (16 * rng.randint(low // 16, high // 16) for _ in range(2))
    pixels, labels, offsets = [], [], []
    for _ in range(bucket.batch):
        options = SceneOptions(ring=rng.choice((1, 2, 2)), textures=0.5, words=words, moving=bucket.frames > 1, repeats=0.35, events=0.3)
        scene = sample_scene(rng, height, width, options)
        clip = render_clip(scene, height, width, bucket.frames) if bucket.frames > 1 else render(scene, height, width)[None]
        truth = describe(scene, bucket.frames, (height, width), token)
        pixels.append(clip)
        labels.append(truth[0])
        offsets.append(truth[1])
    return {
        "pixels": torch.from_numpy(np.stack(pixels)),
        "labels": torch.from_numpy(np.stack(labels)),
        "offsets": torch.from_numpy(np.stack(offsets)),
    }


def describe(
    scene: Scene, frames: int, size: tuple[int, int], token: tuple[int, int], fps: float = 8.0
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Labels (t, h, w, attributes) and offsets (t, h, w, 2) of every token of a scene; (dy, dx) to the object's centre in tokens."""
    depth, unit = token
    grid = -(-frames // depth), size[0] // unit, size[1] // unit
    labels = np.zeros((*grid, NUM_LABELS), np.uint8)
    offsets = np.zeros((*grid, 2), np.float32)
    labels[..., -1] = ATTRIBUTES["background"].index(scene.background)
    y, x = np.meshgrid(np.arange(grid[1]) + 0.5, np.arange(grid[2]) + 0.5, indexing="ij")
    if scene.word:
        for letter, (left, top, right, bottom) in zip(scene.word.text, letter_boxes(scene.word, *size), strict=True):
            inside = (x * unit >= left - 2) & (x * unit < right + 2) & (y * unit >= top) & (y * unit < bottom)
            labels[:, inside, 6] = ATTRIBUTES["letter"].index(letter)
            labels[:, inside, 1] = ATTRIBUTES["colour"].index(scene.word.colour)
    last = max(1, frames - 1)
    for t in range(grid[0]):
        moments = [min(t * depth + i, frames - 1) for i in range(depth)]
        poses = [[pose(o, i / last, i / fps) for i in moments] for o in scene.objects]
        shown = [o.kind for o, p in zip(scene.objects, poses, strict=True) if p[0].visible or p[-1].visible]
        for o, way in zip(scene.objects, poses, strict=True):
            if not (way[0].visible or way[-1].visible):
                continue
            at = way[0] if way[0].visible else way[-1]
            cy, cx, radius = at.y * size[0] / unit, at.x * size[1] / unit, at.diameter * min(size) / unit / 2
            inside = (abs(y - cy) < radius) & (abs(x - cx) < radius)
            labels[t, inside, :6] = _facts(o, way, shown.count(o.kind))
            labels[t, inside, 6] = 0
            offsets[t, inside] = np.stack([cy - y[inside], cx - x[inside]], -1)
    return labels, offsets


def _facts(o: Object, way: list[Pose], alike: int) -> list[int]:
    """Labels of an object: kind, colour, texture, size, change, alike."""
    colour = way[-1].colour if way[-1].visible else way[0].colour
    answers = (o.kind, colour, o.texture, o.size, _change(way[0], way[-1]), str(min(alike, 4)))
    return [classes.index(answer) for classes, answer in zip(ATTRIBUTES.values(), answers, strict=False)]


def _change(first: Pose, last: Pose) -> str:
    """What can be seen between two frames: the strongest single change."""
    if first.visible != last.visible:
        return "on" if last.visible else "off"
    if first.colour != last.colour:
        return "recolour"
    if first.angle != last.angle:
        return "spin"
    if first.diameter != last.diameter:
        return "grow" if last.diameter > first.diameter else "shrink"
    dx, dy = last.x - first.x, last.y - first.y
    if max(abs(dx), abs(dy)) < 1e-6:
        return "still"
    if abs(dx) > abs(dy):
        return "right" if dx > 0 else "left"
    return "down" if dy > 0 else "up"


def letter_boxes(word: Word, height: int, width: int) -> list[tuple[float, float, float, float]]:
    """(left, top, right, bottom) in px of every letter as `world.render.draw_word` places it."""
    if word.pitch:
        # Half of a capital, and a little: round letters reach over its ends.
        high, middle, half = 0.53 * word.height * min(height, width), COLUMNS_AT[word.place] * height, word.pitch * width / 2
        return [(x * width - half, middle - high, x * width + half, middle + high) for x in columns_of(word)]
    cap = max(6, round(word.height * min(height, width) * 2))
    if word_mask(word.text, word.font, cap).width > 0.94 * 2 * width:
        cap = max(5, int(cap * 0.94 * 2 * width / word_mask(word.text, word.font, cap).width))
    whole = word_mask(word.text, word.font, cap)
    left = min(2 * width * 0.98 - whole.width, max(2 * width * 0.02, word.x * 2 * width - whole.width / 2))
    top = (1 / 6 if word.place == "top" else 5 / 6) * 2 * height - whole.height / 2
    gap = max(1, round(LETTER_GAP * cap))
    ends = [word_mask(word.text[: i + 1], word.font, cap).width for i in range(len(word.text))]
    starts = [0] + [end + gap for end in ends[:-1]]
    return [((left + a) / 2, top / 2, (left + b) / 2, (top + whole.height) / 2) for a, b in zip(starts, ends, strict=True)]


def sheet(module: nn.Module, batch: Batch, columns: int = 12) -> NDArray[np.uint8]:
    """Held-out images over maps of where the head is right (green), wrong (red) or rightly sees nothing (grey), for kind and letter."""
    pixels = batch["pixels"][:columns]
    parts, labels = dict(_parts(module(pixels.to(next(module.parameters()).device)).cpu())), batch["labels"][:columns].long()
    rows = [np.concatenate(list(pixels[:, 0].numpy()), 1)]
    for name in ("kind", "letter"):
        said, truth = parts[name].argmax(-1)[:, 0], labels[:, 0, ..., list(ATTRIBUTES).index(name)]
        colours = torch.tensor([[220, 40, 40], [60, 180, 75], [150, 150, 150]], dtype=torch.uint8)
        verdict = (said == truth).long() * (1 + (truth == 0).long())
        scale = pixels.shape[2] // said.shape[1]
        picture = colours[verdict].repeat_interleave(scale, 1).repeat_interleave(scale, 2)
        rows.append(np.concatenate(list(picture.numpy()), 1))
    return np.concatenate(rows)
