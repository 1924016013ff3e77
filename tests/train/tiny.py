"""A tiny model and random samples of every task, for tests of the training path."""

import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import yaml

from openlance.data.cache import ShardWriter
from openlance.data.layout import Anchors
from openlance.data.records import Words
from openlance.data.sample import MediumFeatures, Sample, bind_sample
from openlance.data.world import WorldData, record_of
from openlance.media.clip import Clip
from openlance.model.config import LanceConfig, TransformerConfig
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.sequence.segment import Role
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import SPECIAL_TOKENS, Tokenizer, describe
from openlance.train.initial import initialise
from openlance.train.recipe import TrainRecipe, read_recipe

ANCHORS = Anchors(understanding=True)
WIDTH, CHANNELS = 32, 4


def tiny_tokenizer() -> Tokenizer:
    """Bytes and the special tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    vocab = {character: i for i, character in enumerate(sorted(ByteLevel.alphabet()))}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return Tokenizer(describe(vocab, [], [{"id": len(vocab) + i, "content": token, **plain} for i, token in enumerate(SPECIAL_TOKENS)]))


def tiny_config(prediction: str = "velocity") -> LanceConfig:
    sizes = TransformerConfig(272, WIDTH, 2, 2, 1, 16, 64, mrope_section=(2, 3, 3), rope_theta=100.0, rope_inv_freq_dtype="float32")
    return LanceConfig(sizes, latent_channels=CHANNELS, prediction=prediction)


def tiny_model(prediction: str = "velocity", seed: int = 0) -> LanceModel:
    """Weights that see everything: the heads that start at zero are filled too."""
    model = LanceModel(tiny_config(prediction))
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for weight in (model.head.weight, model.latent.output.weight):
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.1)
    return model


def tiny_sample(task: str, seed: int = 0, dropped: frozenset[Role] = frozenset()) -> Sample:
    """A sample of a task with random features; the same seed gives the same."""
    rng = Random(seed)
    generator = torch.Generator().manual_seed(seed)

    def features(width: int, *grid: int) -> torch.Tensor:
        return torch.randn(*grid, width, generator=generator)

    frames = 3 if "video" in task or task.endswith("2v") else 1
    seen = MediumFeatures(features(WIDTH, frames, 2, 2), features(CHANNELS, frames, 2, 3))
    media = [] if task in ("t2i", "t2v", "text") else [seen]
    answer = "yes, " * rng.randint(1, 3) if task in ("understand", "text") else None
    target = None if answer else features(CHANNELS, frames, 2, 3)
    binder = Binder(tiny_tokenizer(), OWN_WORDING)
    return bind_sample(binder, Words(task, "a red circle"[: rng.randint(3, 12)], answer), media, target, dropped)


class TinyEncoders:
    """Features that are a function of the pixels, without a model."""

    def vision(self, clips: Sequence[Clip]) -> list[torch.Tensor]:
        return [self._features(clip, WIDTH, (clip.num_frames + 1) // 2) for clip in clips]

    def latent(self, clips: Sequence[Clip]) -> list[torch.Tensor]:
        return [self._features(clip, CHANNELS, (clip.num_frames - 1) // 4 + 1) for clip in clips]

    def _features(self, clip: Clip, width: int, frames: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(int(clip.frames.astype("int64").sum()))
        return torch.randn(frames, clip.height // 64, clip.width // 64, width, generator=generator)


def tiny_run(folder: Path, **changes: Any) -> TrainRecipe:
    """A recipe that trains a tiny model on a tiny cache of pictures and questions, everything inside `folder`."""
    cache = folder / "cache"
    if not cache.exists():
        for task in ("t2i", "understand", "image_edit"):
            data = WorldData(task, {"understand": {"colour": 1.0}}.get(task))
            examples = [data.example(i) for i in range(12)]
            extras = [{"category": e.category, "scene": (e.target or e.inputs[0]).scene.to_dict()} for e in examples]
            writer = ShardWriter(cache / task, {"task": task})
            writer.write(0, [record_of(e.turns[0]) for e in examples], extras, TinyEncoders())
        config = tiny_config("data").to_dict()
        (folder / "model.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(config))))
        (folder / "tokenizer").mkdir()
        tiny_tokenizer().save(folder / "tokenizer")
    values: dict[str, Any] = {
        "name": "tiny",
        "output": str(folder / "run"),
        "model": {"config": str(folder / "model.yaml"), "tokenizer": str(folder / "tokenizer")},
        "sources": {task: {"cache": str(cache / task)} for task in ("t2i", "understand", "image_edit")},
        "steps": 8,
        "batch": {"tokens": 512, "tokens_per_step": 1024, "views": 2},
        "optim": {"kind": "muon", "learning_rate": 2e-3, "schedule": "linear", "warmup_steps": 2, "ema": 0.9, "eps": 1e-10},
        "precision": "float32",
        "log_every": 1,
        "save_minutes": 0,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**values, **changes}))
    return read_recipe(folder / "recipe.yaml")
