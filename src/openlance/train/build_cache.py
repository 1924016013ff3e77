"""Fill a cache of features: render examples of the world, encode them, write shards. May run beside the training that reads them.

    python -m openlance.train.build_cache recipes/nano/cache.yaml NAME [NAME ...] [--shards 8]
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from openlance.data.cache import ShardWriter
from openlance.data.world import WorldData, record_of
from openlance.model.vae import build_autoencoder
from openlance.model.vision import VisionEncoder
from openlance.sequence.segment import Kind
from openlance.train.frozen import FrozenEncoders, read_encoder
from openlance.train.recipe import RecipeError, parse_typed


@dataclass(frozen=True)
class CacheRecipe:
    """One cache folder."""

    output: Path
    world: WorldData
    shards: int
    shard_size: int = 2048
    first: int = 0
    """Index of the first example: caches of one task at several sizes take different scenes with it."""
    vision: Path | None = None
    autoencoder: Path | None = None


def read_caches(path: Path) -> dict[str, CacheRecipe]:
    """Caches by name from YAML: `defaults` hold for all `caches`."""
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    unknown = sorted(set(values) - {"defaults", "caches"})
    if unknown:
        raise RecipeError(f"{path}: unknown keys {unknown}; known: defaults, caches")
    defaults = values.get("defaults", {})
    root = Path(defaults.get("output", "runs/cache"))
    return {
        name: parse_typed(CacheRecipe, {**defaults, "output": str(root / name), **own}, f"{path}: caches.{name}")
        for name, own in values["caches"].items()
    }


class CacheBuilder:
    """Builds the shards of one cache."""

    def __init__(self, recipe: CacheRecipe) -> None:
        self.recipe = recipe
        settings: dict[str, Any] = {"world": asdict(recipe.world), "shard_size": recipe.shard_size, "first": recipe.first}
        vision = autoencoder = None
        example = record_of(recipe.world.example(recipe.first).turns[0])
        if Kind.VISION in example.definition.blocks and recipe.vision:
            vision, _, settings["vision"] = read_encoder(recipe.vision, VisionEncoder)
        if (Kind.LATENT in example.definition.blocks or example.target) and recipe.autoencoder:
            autoencoder, _, settings["autoencoder"] = read_encoder(recipe.autoencoder, build_autoencoder)
        self.encoders = FrozenEncoders(vision, autoencoder)
        self.writer = ShardWriter(recipe.output, settings)

    def build(self, number: int) -> float:
        """Write a shard if it is not there yet; returns examples a second."""
        if self.writer.complete(number):
            return 0.0
        began = time.monotonic()
        start = self.recipe.first + number * self.recipe.shard_size
        records, extras = [], []
        for index in range(start, start + self.recipe.shard_size):
            example = self.recipe.world.example(index)
            for turn in example.turns:
                medium = turn.target or turn.inputs[0]
                records.append(record_of(turn, str(index)))
                extras.append({"category": example.category, "index": index, "scene": medium.scene.to_dict()})
        self.writer.write(number, records, extras, self.encoders)
        return len(records) / (time.monotonic() - began)


def main(arguments: list[str]) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser = argparse.ArgumentParser(description="Fill caches of features.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("names", nargs="*", help="caches to fill, in turns; all if none is named")
    parser.add_argument("--shards", type=int, help="shards of each, if other than the recipe says")
    options = parser.parse_args(arguments)
    caches = read_caches(options.recipe)
    unknown = sorted(set(options.names) - set(caches))
    if unknown:
        raise RecipeError(f"{options.recipe} has no caches {unknown}; it has {sorted(caches)}")
    builders = {name: CacheBuilder(caches[name]) for name in options.names or caches}
    wanted = {name: options.shards or caches[name].shards for name in builders}
    for number in range(max(wanted.values())):
        for name, builder in builders.items():
            if number < wanted[name] and (speed := builder.build(number)):
                print(f"{time.strftime('%H:%M:%S')} {name} shard {number + 1} of {wanted[name]}: {speed:.0f} examples/s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
