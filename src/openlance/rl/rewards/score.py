"""What a reward says of one picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from openlance.media.clip import Clip
from openlance.rl.prompts import Prompt


@dataclass(frozen=True)
class Score:
    """`value` is what is trained on, higher is better; `measures` are logged beside it. `failed` says why there is no value."""

    value: float = 0.0
    measures: Mapping[str, float] = field(default_factory=dict)
    failed: str | None = None


class Reward(Protocol):
    """Scores pictures, each with its prompt. None where a prompt asks for nothing this reward judges."""

    def __call__(self, clips: Sequence[Clip], prompts: Sequence[Prompt]) -> Sequence[Score | None]: ...
