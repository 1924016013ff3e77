"""A recipe of stage four, read from YAML like those of the supervised stages."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from openlance.engine.request import ImageSampling
from openlance.rl.advantage import AdvantageRecipe
from openlance.rl.grpo import GrpoRecipe
from openlance.rl.nft import NftRecipe
from openlance.rl.prompts import PromptSource
from openlance.train.optim import OptimRecipe
from openlance.train.recipe import ModelRecipe, RecipeError, parse_typed, read_values

OBJECTIVES = ("grpo", "nft")
LEARNS = ("generation",)


@dataclass(frozen=True)
class RolloutRecipe:
    """What is drawn in one iteration."""

    prompts: int = 8
    samples: int = 12
    """Of each prompt: its group."""
    samples_per_pass: int = 0
    """Most samples in one forward, in sampling and training alike; 0: a whole group."""
    sampling: ImageSampling = field(default_factory=ImageSampling)
    """Steps, shift, guidance; what is not given is the model's default. Keep guidance as it will be used."""

    def __post_init__(self) -> None:
        if self.prompts < 1 or self.samples < 2 or self.samples_per_pass < 0:
            raise RecipeError(
                f"rollout.prompts {self.prompts} must be at least 1, samples {self.samples} at least 2 (a group is compared with itself), "
                f"samples_per_pass {self.samples_per_pass} at least 0"
            )


@dataclass(frozen=True)
class EvaluationRecipe:
    """Held-out prompts that are drawn as a user would draw them, by the averaged weights, and judged by every reward."""

    prompts: PromptSource
    count: int = 64
    batch: int = 16
    sampling: ImageSampling = field(default_factory=ImageSampling)

    def __post_init__(self) -> None:
        if self.count < 1 or self.batch < 1:
            raise RecipeError(f"an evaluation needs count {self.count} and batch {self.batch} of at least 1")


@dataclass(frozen=True)
class RlRecipe:
    """One run of stage four."""

    name: str
    output: Path
    model: ModelRecipe
    prompts: PromptSource
    rewards: dict[str, float]
    """Name, or package.module:function, and weight."""
    iterations: int
    watch: tuple[str, ...] = ()
    """Rewards that are only measured: when what is trained on rises and these fall, the model games its reward."""
    watch_every: int = 1
    """Iterations between two measurements of those."""
    objective: str = "grpo"
    rollout: RolloutRecipe = field(default_factory=RolloutRecipe)
    advantage: AdvantageRecipe = field(default_factory=AdvantageRecipe)
    grpo: GrpoRecipe = field(default_factory=GrpoRecipe)
    nft: NftRecipe = field(default_factory=NftRecipe)
    optim: OptimRecipe = field(default_factory=lambda: OptimRecipe(learning_rate=2e-6, warmup_steps=50))
    updates: int = 2
    """Optimiser steps on an iteration's groups, which are dealt among them. With one the ratio never leaves 1 and clipping does nothing."""
    passes: int = 1
    """How often all groups of an iteration are gone through."""
    learns: tuple[str, ...] = ()
    """Only weights of the generation expert, or with model.lora only adapters on it, whose names contain one of these, e.g. qkv; empty:
    all of them."""
    evaluations: dict[str, EvaluationRecipe] = field(default_factory=dict)
    evaluate_every: int = 25
    """Iterations; also before the first and after the last."""
    precision: str = "float32"
    """Of the weights. bfloat16 takes two thirds of the time, but rounded weights move ratios by 0.08 in the second update of an iteration
    where float32 moves them by 0.00006 (LOG.md), so clipping would act on rounding."""
    activation_checkpointing: bool = False
    """Keep only what enters a layer and compute the rest again on the way back."""
    device: str = "cpu"
    seed: int = 0
    save_minutes: float = 5.0
    keep: int = 2
    wandb: str | None = None
    """Project of Weights & Biases that gets the numbers of both journals too (extra `track`); WANDB_MODE=offline keeps them here."""
    skip_bad_updates: int = 5
    """Updates in all that may be left out because their loss or gradient is not finite."""

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise RecipeError(f"objective '{self.objective}' is not one of {', '.join(OBJECTIVES)}")
        if self.model.train != LEARNS:
            raise RecipeError(f"model.train {list(self.model.train)} must be [generation]: what understands stays as it is")
        if not self.rewards or not all(math.isfinite(weight) for weight in self.rewards.values()):
            raise RecipeError(f"rewards {self.rewards} must name at least one reward, each with a finite weight")
        both = sorted(set(self.rewards) & set(self.watch))
        if both:
            raise RecipeError(f"watch names {', '.join(both)}, which is trained on: a metric that is optimised cannot watch")
        if self.precision not in ("bfloat16", "float32"):
            raise RecipeError(f"precision '{self.precision}' is not bfloat16 or float32")
        for name in ("iterations", "passes", "watch_every", "evaluate_every"):
            if getattr(self, name) < 1:
                raise RecipeError(f"{name} {getattr(self, name)} must be at least 1")
        if not 1 <= self.updates <= self.rollout.prompts:
            raise RecipeError(f"updates {self.updates} must be from 1 to rollout.prompts {self.rollout.prompts}: each gets a share")
        if self.objective == "grpo" and self.rollout.sampling.solver not in (None, "euler"):
            raise RecipeError(f"rollout.sampling.solver '{self.rollout.sampling.solver}': grpo steps by euler; leave it out, or use nft")

    @property
    def total_updates(self) -> int:
        return self.iterations * self.passes * self.updates

    def lines(self, steps: int | None = None) -> tuple[str, ...]:
        """What the run does, for people; `steps`: of a sample, where they are known."""
        samples = f"{self.rollout.prompts} prompts x {self.rollout.samples} samples" + (f" of {steps} steps" if steps else "")
        rewards = ", ".join(f"{weight:g} x {name}" for name, weight in self.rewards.items())
        return (
            f"{self.name}: {self.objective}, {self.iterations} iterations",
            f"{samples} an iteration",
            f"trains on {rewards}; watches {', '.join(self.watch) or 'nothing'}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for records."""
        values: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        return values


def read_rl_recipe(path: Path, overrides: Sequence[str] = ()) -> RlRecipe:
    """The recipe of a YAML file with `key.sub=value` overrides. Raises RecipeError on unknown keys, wrong types, missing files."""
    recipe: RlRecipe = parse_typed(RlRecipe, read_values(path, overrides), str(path))
    return recipe
