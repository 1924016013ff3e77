"""Held-out prompts drawn by the engine as any request is, judged by every reward of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openlance.engine.engine import Engine
from openlance.media.clip import Clip
from openlance.media.sheet import contact_sheet
from openlance.rl.prompts import Prompt
from openlance.rl.recipe import EvaluationRecipe
from openlance.rl.rollout import request_of
from openlance.rl.scoring import Judges, Scored, pooled
from openlance.train.parallel import Ranks

SHOWN = 16


def evaluate(engine: Engine, judges: Judges, recipe: EvaluationRecipe, sheet: Path | None = None, ranks: Ranks | None = None) -> Scored:
    """Scores of `count` prompts, one picture each, the same noise at every call; the first ones go onto a contact sheet.

    Batches are dealt out to `ranks`, whose scores are pooled; the sheet shows those of this one.
    """
    ranks = ranks or Ranks()
    prompts: list[Prompt] = []
    clips: list[Clip] = []
    for start in range(0, recipe.count, recipe.batch)[ranks.rank :: ranks.world_size]:
        part = [recipe.prompts.prompt(index) for index in range(start, min(start + recipe.batch, recipe.count))]
        results = engine.run([request_of(prompt, recipe.sampling, seed=start + i) for i, prompt in enumerate(part)])
        clips += [result.clip for result in results if result.clip is not None]
        prompts += part
    if sheet is not None:
        draw_sheet(clips[:SHOWN], prompts, sheet)
    return pooled(ranks.gather(judges.score(clips, prompts)))


def draw_sheet(clips: Sequence[Clip], prompts: Sequence[Prompt], path: Path) -> None:
    """Clips with their prompts below."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Clip.from_image(contact_sheet(clips, [prompt.text for prompt in prompts[: len(clips)]])).save(path)
