"""Fill caches of features: render examples of the world, encode them, write shards. May run beside the training that reads them.

    python -m openlance.train.build_cache recipes/nano/cache.yaml [NAME ...] [--shards 8] [--processes 4]

With several processes each builds every n-th shard; they render on a core each and share the device that encodes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from openlance.data.cache import ShardWriter
from openlance.data.world import WorldData, record_of
from openlance.errors import LanceError
from openlance.model.vae import build_autoencoder
from openlance.model.vision import VisionEncoder
from openlance.sequence.segment import Kind
from openlance.train.frozen import FrozenEncoders, read_encoder
from openlance.train.recipe import RecipeError, parse_typed, read_values


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


@dataclass(frozen=True)
class CachePlan:
    """The caches of a recipe file by name, and who builds them: `processes` render and share the `device` that encodes."""

    caches: dict[str, CacheRecipe]
    processes: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.processes < 1:
            raise RecipeError(f"{self.processes} processes cannot build a cache: give at least 1")


def read_plan(path: Path, overrides: Sequence[str] = ()) -> CachePlan:
    """The plan of a YAML file with `caches` (by name), `defaults` for all of them, and perhaps `processes` and `device`."""
    values = read_values(path, overrides)
    known = ("defaults", "caches", "processes", "device")
    if unknown := sorted(set(values) - set(known)):
        raise RecipeError(f"{path}: unknown keys {unknown}; known: {', '.join(known)}")
    defaults = values.pop("defaults", {})
    root = Path(defaults.get("output", "runs/cache"))
    values["caches"] = {
        name: parse_typed(CacheRecipe, {**defaults, "output": str(root / name), **own}, f"{path}: caches.{name}")
        for name, own in values["caches"].items()
    }
    return CachePlan(**values)


class CacheBuilder:
    """Builds the shards of one cache; `device` encodes."""

    def __init__(self, recipe: CacheRecipe, device: str = "cpu") -> None:
        self.recipe = recipe
        drawn = {"scenes": _scenes_digest(recipe.world, recipe.first)}
        settings: dict[str, Any] = {"world": asdict(recipe.world), "shard_size": recipe.shard_size, "first": recipe.first, "drawn": drawn}
        vision = autoencoder = None
        configurations: dict[str, Any] = {}
        example = record_of(recipe.world.example(recipe.first).turns[0])
        if Kind.VISION in example.definition.blocks and recipe.vision:
            vision, configurations["vision"], settings["vision"] = read_encoder(recipe.vision, VisionEncoder, device)
        if (Kind.LATENT in example.definition.blocks or example.target) and recipe.autoencoder:
            autoencoder, configurations["autoencoder"], settings["autoencoder"] = read_encoder(
                recipe.autoencoder, build_autoencoder, device
            )
        self.encoders = FrozenEncoders(vision, autoencoder)
        settings["configurations"] = configurations  # beside the digests of weights: one encoder's weights may encode in several ways
        defaults = {"world": asdict(WorldData(recipe.world.task)), "drawn": drawn, "configurations": configurations}
        self.writer = ShardWriter(recipe.output, settings, defaults)

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


def _scenes_digest(world: WorldData, first: int, count: int = 64) -> str:
    """Of the first scenes: a world that draws others now than when a cache was begun must not go on with it."""
    turns = [turn for index in range(first, first + count) for turn in world.example(index).turns]
    scenes = [[medium.scene.to_dict() for medium in (*turn.inputs, *([turn.target] if turn.target else []))] for turn in turns]
    return hashlib.sha256(json.dumps(scenes, sort_keys=True).encode()).hexdigest()[:16]


def build_caches(plan: CachePlan) -> None:
    """Fill caches, the first shard of each, then the second of each, so that training can begin early.

    Raises LanceError if a process fails; what the others wrote is kept, and building again does the rest.
    """
    if plan.processes == 1:
        _build_part(plan, 0)
        return
    context = multiprocessing.get_context("spawn")
    running = [context.Process(target=_build_part, args=(plan, part)) for part in range(plan.processes)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    failed = sum(process.exitcode != 0 for process in running)
    if failed:
        raise LanceError(f"{failed} of {plan.processes} processes failed while building caches, see above: build again to do what is left")


def _build_part(plan: CachePlan, part: int) -> None:
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    builders = {name: CacheBuilder(recipe, plan.device) for name, recipe in plan.caches.items()}
    most = max(cache.shards for cache in plan.caches.values())
    order = [(number, name) for number in range(most) for name, cache in plan.caches.items() if number < cache.shards]
    for number, name in order[part :: plan.processes]:
        if speed := builders[name].build(number):
            shards = plan.caches[name].shards
            print(f"{time.strftime('%H:%M:%S')} {name} shard {number + 1} of {shards}: {speed:.0f} examples/s", flush=True)


def main(arguments: Sequence[str]) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Fill caches of features.")
    parser.add_argument("recipe", type=Path)
    parser.add_argument("names", nargs="*", help="caches to fill, in turns; all if none is named")
    parser.add_argument("--shards", type=int, help="shards of each, if other than the recipe says")
    parser.add_argument("--processes", type=int, help="how many build at once, if other than the recipe says")
    parser.add_argument("--device", help="where the encoders run, if other than the recipe says")
    options = parser.parse_args(arguments)
    plan = read_plan(options.recipe, [f"{key}={value}" for key in ("processes", "device") if (value := getattr(options, key))])
    unknown = sorted(set(options.names) - set(plan.caches))
    if unknown:
        raise RecipeError(f"{options.recipe} has no caches {unknown}; it has {sorted(plan.caches)}")
    chosen = {name: plan.caches[name] for name in options.names or plan.caches}
    if options.shards:
        chosen = {name: replace(cache, shards=options.shards) for name, cache in chosen.items()}
    build_caches(replace(plan, caches=chosen))


if __name__ == "__main__":
    main(sys.argv[1:])
