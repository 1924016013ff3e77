"""Judges one turn or a whole example: are the facts there, and is everything else as it was?"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from openlance.errors import LanceError
from openlance.world.examples import Example, Turn
from openlance.world.facts import OPPOSITE, Fact, What
from openlance.world.judge.answers import ENOUGH_OVERLAP, box_overlap, caption_scores, same_answer
from openlance.world.judge.preserve import preservation
from openlance.world.judge.recognise import Seen, fits, same_colour
from openlance.world.judge.track import Track, event_of, motion_of, track
from openlance.world.judge.view import View, look

Frames = NDArray[np.uint8]
BESIDE = 0.06
"""Shares of the canvas two centres must be apart for a relation between them to hold."""
RESIZED = 1.15


@dataclass(frozen=True)
class Verdict:
    """`done`: share of the facts that are true (of captions the recall); `preserved`: share of the rest that stayed (1 if none had to,
    of captions the precision); `facts`: each by name; `score`: 0 to 1.

    The score is 1 or 0 (all facts or not) for generation and answers, the share of true facts for dense prompts, sqrt(done * preserved) for
    edits, the harmonic mean of recall and precision for captions.
    """

    done: float
    preserved: float
    facts: dict[str, bool]
    score: float


def judge(example: Example, output: Frames | str) -> Verdict:
    """Judges the output of a one-turn example: uint8 (H, W, 3) or (F, H, W, 3), or text."""
    return judge_turn(example.turns[0], output, category=example.category)


def judge_story(example: Example, outputs: list[Frames | str]) -> list[Verdict]:
    """A verdict for every turn; what an edit had to keep is read from the output of the turn before, as its maker saw it."""
    verdicts: list[Verdict] = []
    source: Frames | None = None
    for turn, output in zip(example.turns, outputs, strict=True):
        verdicts.append(judge_turn(turn, output, source, example.category))
        source = output if not isinstance(output, str) else source
    return verdicts


def judge_turn(turn: Turn, output: Frames | str, source: Frames | None = None, category: str = "") -> Verdict:
    """Judges one turn. `source` replaces the pixels of the turn's own input where an edit starts from an earlier output.

    Raises LanceError when text is given for pixels or the other way round.
    """
    if isinstance(output, str) != (turn.answer is not None):
        wanted = "text" if turn.answer is not None else "pixels"
        raise LanceError(f"task {turn.task!r} makes {wanted}: give the judge {wanted}")
    if isinstance(output, str):
        return _judge_text(turn.answer or "", output, category)
    frames = output if output.ndim == 4 else output[None]
    clip = turn.target is not None and turn.target.num_frames > 1
    sight = Sight.of_clip(frames) if clip else Sight.of_image(frames[0])
    edited = turn.task.endswith("edit")
    before = None
    if edited:
        given = source if source is not None else turn.inputs[0].pixels()
        given = given if given.ndim == 4 else given[None]
        before = Sight.of_clip(given) if clip else Sight.of_image(given[0])
    facts = {fact.name: sight.holds(fact, before) for fact in turn.facts}
    done = sum(_voided(turn.facts, facts)) / max(1, len(facts))
    if edited and before is not None:
        changing = [before.boxes(turn.before, i) + sight.boxes(turn.after, i) for i in range(len(before.views))]
        preserved = preservation(given, frames, before.views, changing, turn.before != What("background"))
        return Verdict(done, preserved, facts, float((done * preserved) ** 0.5))
    score = done if category == "dense" else float(all(facts.values()))
    return Verdict(done, 1.0, facts, score)


def _voided(facts: tuple[Fact, ...], true: dict[str, bool]) -> list[bool]:
    """Truth of every fact; one about an object that is missing counts as false."""
    missing = [f.what for f in facts if f.about == "object" and not true[f.name] and f.value != "0"]
    return [true[f.name] and not (f.about != "object" and f.what is not None and f.what in missing) for f in facts]


def _judge_text(right: str, said: str, category: str) -> Verdict:
    if "caption" in category:
        recall, precision = caption_scores(said, right)
        score = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
        return Verdict(recall, precision, {"recall": recall == 1.0, "precision": precision == 1.0}, score)
    good = box_overlap(said, right) >= ENOUGH_OVERLAP if category == "grounding" else same_answer(said, right)
    return Verdict(float(good), 1.0, {"answer": good}, float(good))


@dataclass(frozen=True)
class Sight:
    """All that a judge sees of an image or a clip: one view a frame, objects as tracks (of one sight in an image)."""

    views: list[View]
    tracks: list[Track]

    @classmethod
    def of_image(cls, frame: Frames) -> "Sight":
        """Looks at (H, W, 3)."""
        view = look(frame)
        return cls([view], [Track([seen]) for seen in view.objects])

    @classmethod
    def of_clip(cls, frames: Frames) -> "Sight":
        """Looks at (F, H, W, 3)."""
        tracks, views = track(frames)
        return cls(views, tracks)

    def matching(self, what: What) -> list[Track]:
        """Tracks whose first sight a description fits."""
        view = self.views[0]
        return [t for t in self.tracks if fits(what, t.first, view.height, view.width)]

    def boxes(self, what: What | None, index: int) -> list[tuple[int, int, int, int]]:
        """Boxes, in one frame, of what is meant to change: the tracks a description fits, the word."""
        if what is None or index >= len(self.views):
            return []
        view = self.views[index]
        if what.kind == "word":
            return [p.box for p in view.word.pieces] if view.word else []
        if what.kind == "background":
            return []
        return [seen.piece.box for t in self.matching(what) if (seen := t.seen[index]) is not None]

    def holds(self, fact: Fact, before: "Sight | None" = None) -> bool:
        """True when a fact is seen; `before` is what an edit started from."""
        what = fact.what or What()
        if fact.about == "object":
            number = len(self.matching(what))
            return number >= int(fact.value[:-1]) if fact.value.endswith("+") else number == int(fact.value)
        if fact.about == "background":
            return self.views[len(self.views) // 2].background == fact.value
        if fact.about == "relation" and fact.other:
            return self._related(self.matching(what), self.matching(fact.other), fact.value)
        if fact.about == "motion":
            return any(motion_of(t) == fact.value for t in self.matching(what))
        if fact.about == "event":
            return any(_does(t, fact) for t in self.matching(what))
        if fact.about == "size" and before and fact.other:
            return _resized(before.matching(what), self.matching(fact.other), fact.value)
        return fact.about == "word" and self._written(fact)

    def _related(self, first: list[Track], second: list[Track], relation: str) -> bool:
        return any(related(a.first, b.first, relation) for a in first for b in second if a is not b)

    def _written(self, fact: Fact) -> bool:
        word, what = self.views[0].word, fact.what or What()
        if word is None or not fact.value:
            return (word is None) == (not fact.value)
        return word.text == fact.value and what.colour in (None, word.colour) and what.place in (None, word.place)


def related(a: Seen, b: Seen, relation: str) -> bool:
    """True when a is left of, right of, above or below b."""
    if relation in ("right of", "below"):
        return related(b, a, OPPOSITE[relation])
    return (b.x - a.x if relation == "left of" else b.y - a.y) >= BESIDE


def _does(t: Track, fact: Fact) -> bool:
    if fact.value == "recolour" and fact.other and fact.other.colour:
        return event_of(t) == "recolour" and same_colour(t.first.kind, fact.other.colour, t.last_colour)
    return event_of(t) == fact.value


def _resized(before: list[Track], after: list[Track], direction: str) -> bool:
    """True when some object of the source has become clearly bigger or smaller."""
    ratios = [b.first.diameter / a.first.diameter for a in before for b in after]
    return any(r >= RESIZED if direction == "bigger" else r <= 1 / RESIZED for r in ratios)
