"""How well a picture follows its prompt, by the judge of the synthetic world."""

from collections.abc import Sequence

from openlance.media.clip import Clip
from openlance.rl.prompts import Prompt
from openlance.rl.rewards.score import Score
from openlance.world.judge import judge_turn


def world_judge(clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[Score | None]:
    """The share of the prompt's facts that are seen; `right`: the judge's score, which is all or nothing but for dense prompts.

    None for prompts that are not of the world.
    """
    return [_score(clip, prompt) if prompt.turn else None for clip, prompt in zip(clips, prompts, strict=True)]


def _score(clip: Clip, prompt: Prompt) -> Score:
    assert prompt.turn is not None
    verdict = judge_turn(prompt.turn, clip.frames, category=prompt.category)
    return Score(verdict.done, {"right": verdict.score})
