"""Words read back by the synthetic world's own reader: a hundred times faster than a network, but it knows only the world's fonts."""

from collections.abc import Sequence

from openlance.media.clip import Clip
from openlance.rl.prompts import Prompt
from openlance.rl.rewards.reading import agreement
from openlance.rl.rewards.score import Score
from openlance.world.judge.view import look


def template_ocr(clips: Sequence[Clip], prompts: Sequence[Prompt]) -> list[Score | None]:
    """Agreement of the quoted text of a prompt with the word in the first frame; None where a prompt quotes nothing."""
    return [agreement(_read(clip), prompt.words) if prompt.words else None for clip, prompt in zip(clips, prompts, strict=True)]


def _read(clip: Clip) -> str:
    word = look(clip.frames[0]).word
    return word.text if word else ""
