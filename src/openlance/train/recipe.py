"""A recipe: one typed description of a run, read from YAML. Every field can be overridden as `key.sub=value`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
import yaml

from openlance.data.loader import BatchRecipe
from openlance.data.mixture import Weight, check_weights
from openlance.data.sample import ConditionDropout
from openlance.data.world import WorldData
from openlance.errors import LanceError
from openlance.model.precision import fast_dtype
from openlance.train.lora import LoraRecipe
from openlance.train.losses import Attention, LossWeights, PathSampling
from openlance.train.optim import OptimRecipe
from openlance.train.parallel import ParallelRecipe
from openlance.world.tasks import CATEGORIES


class RecipeError(LanceError):
    """A recipe that cannot be run; the message names the key, the value and the remedy."""


@dataclass(frozen=True)
class ModelRecipe:
    """What is trained: a new model of a configuration, or the weights of a checkpoint."""

    config: Path | None = None
    """YAML with the fields of LanceConfig; vocabulary 0 means that of the tokenizer."""
    checkpoint: str | None = None
    """Folder or hub name to start from, in any layout that `Lance.from_pretrained` reads."""
    tokenizer: Path | None = None
    """Folder; needed with `config`."""
    vision: Path | None = None
    autoencoder: Path | None = None
    """Folders of the frozen encoders, instead of those that the checkpoint brings."""
    train: tuple[str, ...] = ("understanding", "generation")
    """Experts that learn; what both share (embedding, head, latent projections) learns with the expert that uses it."""
    lora: LoraRecipe | None = None
    """Only adapters on the layers of these experts learn; the weights themselves and what is shared do not."""


@dataclass(frozen=True)
class SourceRecipe:
    """Where samples come from: exactly one of `cache`, `world` and `records`."""

    weight: float = 1.0
    """Share of the samples, over the sum of all sources' weights."""
    weight_at: dict[int, float] = field(default_factory=dict)
    """Other weights at later steps, {step: weight}: on straight lines between these, from `weight` at step 0; constant after the last."""
    cache: Path | None = None
    """Folder of cached features, see data/cache.py."""
    world: WorldData | None = None
    """Drawn and encoded on the fly."""
    records: Path | None = None
    """JSONL or parquet file, see data/records.py and data/parquet.py; encoded on the fly."""
    rephrase: bool = True
    """Cached examples of the world: word them anew each time."""
    questions: int = 1
    """Cached examples of the world: questions asked about one medium at once."""
    category: str | None = None
    """Cached examples of the world: worded as those of this category, whatever theirs is; so are all questions about one medium."""
    plain: bool = False
    """Cached examples of the world: everything is said in one way, without synonyms."""

    @property
    def weights(self) -> Weight:
        """The weight at every step."""
        return Weight(self.weight, self.weight_at)

    def __post_init__(self) -> None:
        known = {name for categories in CATEGORIES.values() for name in categories}
        if self.category is not None and self.category not in known:
            raise RecipeError(f"category '{self.category}' is not one of the world's: {', '.join(sorted(known))}")
        if (self.category is not None or self.plain) and (self.cache is None or not self.rephrase):
            raise RecipeError(
                "category and plain are for cached examples of the world that are worded anew: set cache, leave rephrase true"
            )


@dataclass(frozen=True)
class TrainRecipe:
    """One supervised run, from pre-training to fine-tuning."""

    name: str
    output: Path
    model: ModelRecipe
    sources: dict[str, SourceRecipe]
    steps: int
    stage: str | None = None
    """A stage of train/stages.py whose dropout, shift and loss weights hold where the recipe says nothing else."""
    batch: BatchRecipe = field(default_factory=BatchRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)
    losses: LossWeights = field(default_factory=LossWeights)
    path: PathSampling = field(default_factory=PathSampling)
    dropout: ConditionDropout = field(default_factory=ConditionDropout)
    precision: str = "auto"
    """Of the weights while training: `bfloat16` (with float32 masters), `float32`, or `auto`: what the device multiplies fast."""
    device: str = "cpu"
    parallel: ParallelRecipe = field(default_factory=ParallelRecipe)
    compile: bool = False
    attention: Attention = "fused"
    seed: int = 0
    log_every: int = 20
    save_minutes: float = 5.0
    keep: int = 2
    export_every: int = 0
    """Steps between two exports of the averaged model to `output/model`; 0: at the end only."""
    wandb: str | None = None
    """Project of Weights & Biases that gets the numbers of `metrics.jsonl` too (extra `track`); WANDB_MODE=offline keeps them here."""
    hooks: tuple[str, ...] = ()
    """`module:function` called with the exported folder and the step after each export."""
    skip_bad_steps: int = 5
    """Steps in all that may be left out because their loss or gradient is not finite."""

    def __post_init__(self) -> None:
        if self.precision not in ("auto", "bfloat16", "float32"):
            raise RecipeError(f"precision '{self.precision}' is not auto, bfloat16 or float32")
        if self.attention not in get_args(Attention):
            raise RecipeError(f"attention '{self.attention}' is not one of {', '.join(get_args(Attention))}")
        if self.steps < 1:
            raise RecipeError(f"steps {self.steps} must be at least 1")
        if not self.sources:
            raise RecipeError("sources is empty: name at least one cache, world task or records file")
        weights: list[Weight] = []
        for name, source in self.sources.items():
            given = [key for key in ("cache", "world", "records") if getattr(source, key) is not None]
            if len(given) != 1:
                raise RecipeError(f"sources.{name} needs exactly one of cache, world and records, and has {given or 'none'}")
            try:
                weights.append(source.weights)
            except LanceError as error:
                raise RecipeError(f"sources.{name}: {error}") from error
        try:
            check_weights(weights)
        except LanceError as error:
            raise RecipeError(str(error)) from error

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights while training."""
        named: dict[str, torch.dtype] = {"bfloat16": torch.bfloat16, "float32": torch.float32}
        return named.get(self.precision) or fast_dtype(self.device)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for records."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> TrainRecipe:
    """The recipe of a YAML file with `key.sub=value` overrides. Raises RecipeError on unknown keys, wrong types, missing files."""
    from openlance.train.stages import with_stage

    recipe: TrainRecipe = parse_typed(TrainRecipe, with_stage(read_values(path, overrides)), str(path))
    return recipe


def read_values(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The plain values of a YAML file of any kind of recipe, with overrides. Raises RecipeError."""
    if not path.exists():
        raise RecipeError(f"no recipe {path}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must hold a mapping of the keys of a recipe")
    for override in overrides:
        _override(values, override)
    return values


def parse_typed(kind: type[Any], values: dict[str, Any], where: str) -> Any:
    """A dataclass from plain values, with types checked and unknown keys refused."""
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(kind, "recipe")
    try:
        return parser.instantiate(parser.parse_object({"recipe": values})).recipe
    except (ArgumentError, TypeError, KeyError, ValueError) as error:
        raise RecipeError(f"{where}: {error}".replace("recipe.", "")) from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"override '{override}' must be key=value, e.g. optim.learning_rate=1e-3")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise RecipeError(f"override '{override}': {parent} has no keys below it")
    values[last] = _number(yaml.safe_load(text))


def _number(value: Any) -> Any:
    """YAML reads 1e-3 as text."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
