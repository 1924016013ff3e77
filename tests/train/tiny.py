"""A tiny model and random samples of every task, for tests of the training path."""

from random import Random

import torch

from openlance.data.layout import Anchors
from openlance.data.records import Words
from openlance.data.sample import MediumFeatures, Sample, bind_sample
from openlance.model.config import LanceConfig, TransformerConfig
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.sequence.segment import Role
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import SPECIAL_TOKENS, Tokenizer, describe
from openlance.train.initial import initialise

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
