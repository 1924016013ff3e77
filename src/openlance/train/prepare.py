"""From a recipe to the things it names: model, frozen encoders, data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import yaml

from openlance.data.cache import CachedSource
from openlance.data.files import open_records
from openlance.data.layout import Anchors
from openlance.data.loader import Loader, Steps
from openlance.data.mixture import Mixture
from openlance.data.source import RecordSource, Source, WorldSource
from openlance.data.streams import Streams
from openlance.data.world import Rephrase
from openlance.model.config import LanceConfig
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import Tokenizer
from openlance.train.frozen import FrozenEncoders, fit_to, read_autoencoder, read_vision
from openlance.train.initial import initialise
from openlance.train.lora import attach
from openlance.train.parallel import Ranks
from openlance.train.recipe import ModelRecipe, RecipeError, SourceRecipe, TrainRecipe
from openlance.weights.empty import Held, all_rows, allocate, build_empty
from openlance.weights.load import open_pretrained

SHARED = {"understanding": ("embedding.", "head."), "generation": ("latent.",)}
"""What an expert uses outside the layers."""
STREAM_SEEDS = 1_000_003
"""Between the seeds of two streams of samples."""


@dataclass(frozen=True)
class Draft:
    """A model to train in float32, whose weights take no memory yet; encoders from folders of their own are there already.

    It may be changed before it is filled: adapters put on, weights split.
    """

    model: LanceModel
    binder: Binder
    fill: Callable[[Held], None]
    """Gives weights that have got memory their first values."""
    fingerprint: Callable[[], str]
    """Of what the values come from, the seed aside: processes that find another one would not hold the same model."""

    @property
    def encoders(self) -> FrozenEncoders:
        return FrozenEncoders(self.model.vision, self.model.autoencoder, fit_to(self.model))


def draft_model(recipe: ModelRecipe, seed: int) -> Draft:
    """The model of a recipe before its weights are read or drawn, with the frozen encoders attached."""
    if (recipe.config is None) == (recipe.checkpoint is None):
        raise RecipeError("model needs exactly one of config (a new model) and checkpoint (one to go on from)")
    if recipe.checkpoint is not None:
        checkpoint, before = open_pretrained(recipe.checkpoint)
        binder = Binder(before.tokenizer, before.templates)  # its language may not be closed any more: training can teach other words
        draft = Draft(checkpoint.model, binder, checkpoint.read, checkpoint.fingerprint)
    else:
        binder = Binder(_tokenizer(recipe), OWN_WORDING)
        config = _new_config(recipe, len(binder.tokenizer))
        model = build_empty(lambda: LanceModel(config))
        draft = Draft(model, binder, partial(initialise, model, seed), lambda: str(config))
    _attach_encoders(draft.model, recipe)
    return draft


def build_model(recipe: ModelRecipe, seed: int) -> tuple[LanceModel, Binder, FrozenEncoders]:
    """The model to train, whole, in float32 and in host memory, with the frozen encoders attached."""
    draft = draft_model(recipe, seed)
    allocate(draft.model, "cpu")
    draft.fill(all_rows)
    return draft.model, draft.binder, draft.encoders


def _attach_encoders(model: LanceModel, recipe: ModelRecipe) -> None:
    """Give the model the encoders that the recipe names. Raises RecipeError where one does not fit it."""
    if recipe.vision is not None:
        model.vision, config = read_vision(recipe.vision)
        width = model.config.transformer.hidden_size
        if model.vision.out_features != width:
            raise RecipeError(f"model.vision {recipe.vision} gives tokens of width {model.vision.out_features}, the model takes {width}")
        model.config = dataclasses.replace(model.config, vision=config)
    if recipe.autoencoder is not None:
        model.autoencoder, config = read_autoencoder(recipe.autoencoder)
        found, channels = len(config["latents_mean"]), model.config.latent_channels
        if found != channels:
            raise RecipeError(f"model.autoencoder {recipe.autoencoder} has {found} latent channels, the model has {channels}")
        model.config = dataclasses.replace(model.config, autoencoder=config)


def _tokenizer(recipe: ModelRecipe) -> Tokenizer:
    if recipe.tokenizer is None:
        raise RecipeError("model.tokenizer is missing: a new model needs the folder of one")
    return Tokenizer.load(recipe.tokenizer)


def _new_config(recipe: ModelRecipe, vocabulary: int) -> LanceConfig:
    config = read_config(recipe.config or Path())
    if not config.transformer.vocab_size:
        config = dataclasses.replace(config, transformer=dataclasses.replace(config.transformer, vocab_size=vocabulary))
    if config.transformer.vocab_size < vocabulary:
        raise RecipeError(f"{recipe.config}: vocab_size {config.transformer.vocab_size} is below the tokenizer's {vocabulary}")
    return config


def read_config(path: Path) -> LanceConfig:
    """A model's configuration from YAML."""
    if not path.exists():
        raise RecipeError(f"model.config: no file {path}")
    return LanceConfig.from_dict(yaml.safe_load(path.read_text(encoding="utf-8")))


def freeze(model: LanceModel, train: tuple[str, ...]) -> None:
    """Let only these experts learn, with what they use outside the layers; the encoders never do."""
    unknown = sorted(set(train) - set(SHARED))
    if unknown or not train:
        raise RecipeError(f"model.train {list(train)} must name understanding, generation or both")
    for name, parameter in model.named_parameters():
        encoder = name.startswith(("vision.", "autoencoder."))
        parameter.requires_grad_(not encoder and any(expert in name or name.startswith(SHARED[expert]) for expert in train))


def choose_learners(model: LanceModel, recipe: ModelRecipe, seed: int) -> None:
    """Let only the experts of a recipe learn or, where it asks for adapters, only adapters on them, drawn from `seed`."""
    freeze(model, recipe.train)
    if recipe.lora is not None:
        attach(model, recipe.lora, recipe.train, seed)


def build_loader(recipe: TrainRecipe, config: LanceConfig, binder: Binder, encoders: FrozenEncoders, ranks: Ranks) -> Steps:
    """The data of a recipe, this rank's batches of it."""
    sources = [_source(name, source, recipe, binder, encoders) for name, source in recipe.sources.items()]
    weights = [source.weights for source in recipe.sources.values()]
    anchors = Anchors(config.anchors.vision, config.anchors.reference, config.anchors.understanding)
    batch = recipe.batch
    if batch.workers and torch.device(ranks.device).type != "cpu" and any(source.cache is None for source in recipe.sources.values()):
        raise RecipeError("batch.workers cannot encode on an accelerator, which one process owns: cache the sources or set batch.workers=0")

    def loader(stream: int) -> Loader:
        mixture = Mixture(sources, weights, recipe.seed + STREAM_SEEDS * stream)
        return Loader(mixture, batch, anchors, ranks.rank, ranks.world_size, stream, batch.streams)

    return loader(0) if batch.streams == 1 and not batch.workers else Streams([loader(k) for k in range(batch.streams)], batch.workers)


def _source(name: str, source: SourceRecipe, recipe: TrainRecipe, binder: Binder, encoders: FrozenEncoders) -> Source:
    if source.cache is not None:
        rephrase = Rephrase(source.questions, source.category, source.plain) if source.rephrase else None
        return CachedSource(name, source.cache, binder, recipe.dropout, rephrase)
    if source.world is not None:
        return WorldSource(name, source.world, encoders, binder, recipe.dropout)
    assert source.records is not None
    return RecordSource(name, open_records(source.records), encoders, binder, recipe.dropout)
