"""What a played example scores: the world's judge reads every turn, and a few numbers beside the score say more about it."""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from openlance.eval.measures import clip_measures, psnr
from openlance.eval.rounds import Played
from openlance.media.clip import Clip
from openlance.sequence.tasks import find_task
from openlance.world.examples import Turn
from openlance.world.judge import Verdict, judge_turn
from openlance.world.judge.verdict import Sight
from openlance.world.judge.view import look


@dataclass(frozen=True)
class Mark:
    """The score of one turn in [0, 1], the facts behind it by name, and measures beside it."""

    label: str
    score: float
    facts: dict[str, bool] = field(default_factory=dict)
    measures: dict[str, float] = field(default_factory=dict)

    @property
    def wrong(self) -> list[str]:
        """Names of the facts that are not true."""
        return [name for name, true in self.facts.items() if not true]


@dataclass(frozen=True)
class Marking:
    """Everything a score may look at: a played example up to turn `k`, with the judge's verdict of each turn."""

    played: Played
    k: int
    verdicts: tuple[Verdict, ...]

    @property
    def turn(self) -> Turn:
        return self.played.example.turns[self.k]

    @property
    def verdict(self) -> Verdict:
        return self.verdicts[self.k]

    @property
    def clip(self) -> Clip | None:
        """The answer when it has pixels."""
        answer = self.played.answers[self.k]
        return answer if isinstance(answer, Clip) else None


def marks(played: Played, detailed: bool = True) -> list[Mark]:
    """A mark for every turn. One-turn examples are labelled by the category of their cell, turns of stories by their place.

    Without `detailed` the measures that take another look at every frame are left out.
    """
    turns = played.example.turns
    verdicts: list[Verdict] = []
    found = []
    for k, (turn, answer, given) in enumerate(zip(turns, played.answers, played.given, strict=True)):
        output = answer.frames if isinstance(answer, Clip) else answer
        source = given[0].frames if given else None
        verdicts.append(judge_turn(turn, output, source, played.example.category))
        marking = Marking(played, k, tuple(verdicts))
        label = played.item.cell.category if len(turns) == 1 else f"after turn {k + 1}" if turn.target else "then asked"
        score = SCORES[played.item.cell.suite.score](marking)
        found.append(Mark(label, score, verdicts[k].facts, measures(marking, detailed)))
    return found


def measures(marking: Marking, detailed: bool) -> dict[str, float]:
    """Numbers beside the score, those that the turn has."""
    turn, verdict, clip = marking.turn, marking.verdict, marking.clip
    found: dict[str, float] = {}
    if turn.before or turn.after:
        found |= {"done": _done(marking), "preserved": verdict.preserved}
    if {"recall", "precision"} <= set(verdict.facts):
        found |= {"recall": verdict.done, "precision": verdict.preserved}
    if clip is None:
        return found
    if len(marking.played.example.turns) > 1:
        found["drift"] = 1 - kept(marking)
    if wanted := _wanted_word(turn):
        found["letters"] = letters(read(clip), wanted)
    if find_task(turn.task).clean_frames:
        found["first frame PSNR"] = psnr(marking.played.given[marking.k][0].frames[0], clip.frames[0])
    return found | (clip_measures(clip.frames) if detailed and clip.num_frames > 1 else {})


def read(clip: Clip) -> str:
    """The word on the first frame, empty when there is none."""
    word = look(clip.frames[0]).word
    return word.text if word else ""


def letters(said: str, right: str) -> float:
    """Share of letters right: 1 minus the edit distance over the longer length."""
    row = list(range(len(right) + 1))
    for i, a in enumerate(said, 1):
        row, above = [i], row
        for j, b in enumerate(right, 1):
            row.append(min(row[j - 1] + 1, above[j] + 1, above[j - 1] + (a != b)))
    return 1 - row[-1] / max(len(said), len(right), 1)


def kept(marking: Marking) -> float:
    """How much of what no turn so far asked to change is still there: the product of what each turn preserved."""
    return float(np.prod([verdict.preserved for verdict in marking.verdicts]))


def standing_facts(marking: Marking) -> dict[str, bool]:
    """Every fact asked for so far that the right picture of this turn still shows, and whether this picture shows it."""
    turns = marking.played.example.turns[: marking.k + 1]
    target = marking.turn.target
    if target is None or marking.clip is None:
        return marking.verdict.facts
    right, made = _sight(target.pixels()), _sight(marking.clip.frames)
    earlier = {fact.name: made.holds(fact) for turn in turns[:-1] for fact in turn.facts if right.holds(fact)}
    return earlier | marking.verdict.facts


def _sight(frames: NDArray[np.uint8]) -> Sight:
    return Sight.of_image(frames[0]) if len(frames) == 1 else Sight.of_clip(frames)


def _wanted_word(turn: Turn) -> str:
    return next((fact.value for fact in turn.facts if fact.about == "word"), "")


def _verdict(marking: Marking) -> float:
    """The judge's own score."""
    return marking.verdict.score


def _done(marking: Marking) -> float:
    """1 when every fact is true, else 0. Half an edit is none: in a picture that went black the old object is gone, too."""
    return float(all(marking.verdict.facts.values()))


def _edit(marking: Marking) -> float:
    """sqrt(done x preserved), as GEdit-Bench joins the two."""
    return float((_done(marking) * marking.verdict.preserved) ** 0.5)


def _done_and_kept(marking: Marking) -> float:
    """done x preserved: of clips, where what is preserved is the motion of everything else."""
    return _done(marking) * marking.verdict.preserved


def _word(marking: Marking) -> float:
    """The word alone, read back exactly."""
    return float(marking.clip is not None and read(marking.clip) == _wanted_word(marking.turn))


def _state(marking: Marking) -> float:
    """All facts that stand after this turn, times what was kept on the way; of an answer, whether it is right."""
    if marking.clip is None:
        return marking.verdict.score
    return float(all(standing_facts(marking).values())) * kept(marking)


SCORES: dict[str, Callable[[Marking], float]] = {
    "verdict": _verdict,
    "edit": _edit,
    "kept": _done_and_kept,
    "word": _word,
    "state": _state,
}
"""Which number of a marking a suite takes as its score."""
