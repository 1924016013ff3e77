"""The stages of the paper as data (SPEC section 9): what pre-training, continual training and fine-tuning differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openlance.errors import LanceError


@dataclass(frozen=True)
class Stage:
    """One column of the tables. Rates and lengths are those of the released run; a small model's recipe states its own."""

    learning_rate: float
    schedule: str
    warmup_steps: int
    steps: int
    tokens_per_rank: int
    timestep_shift: float
    ce: float
    """Weight of the next-token loss; flow matching has 1."""
    drop_prompt: float
    drop_all: float
    images: dict[str, float]
    """Shares of the image tasks."""
    videos: dict[str, float]
    """Shares of the video tasks."""

    def recipe(self) -> dict[str, Any]:
        """What a recipe takes from its stage."""
        return {
            "optim": {"learning_rate": self.learning_rate, "schedule": self.schedule, "warmup_steps": self.warmup_steps},
            "losses": {"ce": self.ce},
            "path": {"timestep_shift": self.timestep_shift},
            "dropout": {"prompt": self.drop_prompt, "all": self.drop_all},
        }

    def mixture(self) -> dict[str, float]:
        """Share of every task over all data; understanding is one task for images and one for videos here."""
        shares = {"understand image": GROUPS["understand image"], "understand video": GROUPS["understand video"]}
        for group, tasks in (("generate image", self.images), ("generate video", self.videos)):
            whole = sum(tasks.values())
            shares |= {task: GROUPS[group] * share / whole for task, share in tasks.items()}
        whole = sum(shares.values())
        return {task: share / whole for task, share in shares.items() if share}


GROUPS = {"generate video": 64.0, "understand video": 16.0, "generate image": 16.0, "understand image": 4.0}
"""The mixture of all supervised stages."""


def _images(plain: float, edit: float, subject: float) -> dict[str, float]:
    return {"t2i": plain, "image_edit": edit, "subject_image": subject}


def _videos(plain: float, first_frame: float, edit: float, subject: float) -> dict[str, float]:
    return {"t2v": plain, "i2v": first_frame, "video_edit": edit, "subject_video": subject}


STAGES = {
    "pt": Stage(1e-4, "constant", 2500, 350_000, 47_000, 1.0, 0.25, 0.10, 0.0, _images(100, 0, 0), _videos(100, 0, 0, 0)),
    "ct1": Stage(1e-4, "constant", 0, 80_000, 77_000, 4.0, 0.5, 0.05, 0.05, _images(70, 15, 15), _videos(60, 10, 15, 15)),
    "ct2": Stage(1e-4, "constant", 0, 80_000, 77_000, 4.0, 0.5, 0.05, 0.05, _images(60, 20, 20), _videos(40, 20, 20, 20)),
    "ct3": Stage(1e-4, "constant", 0, 80_000, 77_000, 4.0, 0.5, 0.05, 0.05, _images(50, 25, 25), _videos(25, 25, 25, 25)),
    "sft": Stage(2.5e-5, "cosine", 500, 15_000, 77_000, 4.0, 0.25, 0.05, 0.05, _images(60, 20, 20), _videos(60, 10, 15, 15)),
}
"""Continual training's 80k steps are of its three parts together."""


def with_stage(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe's plain values over those of its stage. Raises LanceError listing the stages."""
    name = values.get("stage")
    if name is None:
        return values
    if name not in STAGES:
        raise LanceError(f"stage '{name}' is not one of {', '.join(STAGES)}")
    return _over(STAGES[name].recipe(), values)


def _over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        merged[key] = _over(below[key], value) if isinstance(value, dict) and isinstance(below.get(key), dict) else value
    return merged
