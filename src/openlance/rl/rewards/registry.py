"""Rewards by name; a name with a colon is a function of somebody's own: `package.module:function`."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from openlance.errors import LanceError
from openlance.media.clip import Clip
from openlance.rl.prompts import Prompt
from openlance.rl.rewards.ocr import make_ocr
from openlance.rl.rewards.score import Reward, Score
from openlance.rl.rewards.template_ocr import template_ocr
from openlance.rl.rewards.world_judge import world_judge

REWARDS: dict[str, Callable[[], Reward]] = {
    "ocr": make_ocr,
    "template_ocr": lambda: template_ocr,
    "world_judge": lambda: world_judge,
}
"""How each reward is made ready."""


def find_reward(name: str) -> Reward:
    """The reward of a name. Raises LanceError listing the names, or naming what cannot be imported."""
    if name in REWARDS:
        return REWARDS[name]()
    module, colon, function = name.partition(":")
    if not colon:
        raise LanceError(f"no reward '{name}': choose among {', '.join(REWARDS)}, or give package.module:function")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise LanceError(f"reward '{name}' cannot be imported: {error}") from error
    if not callable(found):
        raise LanceError(f"reward '{name}' is not a function")
    return Custom(name, found)


@dataclass(frozen=True)
class Custom:
    """A function of (frames uint8 (F, H, W, 3), prompt text) that gives a number, or a Score, or None where it has nothing to say."""

    name: str
    function: Callable[[Any, str], Any]

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[Score | None]:
        return [self._one(clip, prompt) for clip, prompt in zip(clips, prompts, strict=True)]

    def _one(self, clip: Clip, prompt: Prompt) -> Score | None:
        try:
            value = self.function(clip.frames, prompt.text)
        except Exception as error:
            return Score(failed=f"{type(error).__name__}: {error}")
        if value is None or isinstance(value, Score):
            return value
        number = float(value)
        return Score(number) if math.isfinite(number) else Score(failed=f"value {number}")
