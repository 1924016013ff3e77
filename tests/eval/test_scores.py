import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlance.eval.answerers import Truth, clip_of
from openlance.eval.measures import clip_measures, psnr
from openlance.eval.rounds import Played, play
from openlance.eval.scores import letters, marks
from openlance.eval.suite import SEEN, SUITES, Cell
from openlance.media.clip import Clip
from openlance.world.examples import Medium
from openlance.world.scene import Motion, Object, Scene

from .answerers import BACKGROUND, Lazy, Nonsense, plain_items

CASES = [
    ("generate", "position"), ("word", "word"), ("video", "free"), ("animate", "free"), ("edit", "colour"), ("edit", "add"),
    ("videoedit", "remove"), ("ask", "colour"), ("ocr", "ocr"), ("grounding", "grounding"), ("caption", "caption full"),
    ("multiturn", "four turns"),
]  # fmt: skip


def cell_of(suite: str, category: str) -> Cell:
    return Cell(SUITES[suite], SEEN, (category,))


@pytest.mark.parametrize(("suite", "category"), CASES)
def test_truth_scores_one_and_nonsense_nothing(suite: str, category: str) -> None:
    items = plain_items(cell_of(suite, category))
    (right,) = play(items, Truth())
    found = marks(right)
    assert [mark.score for mark in found] == pytest.approx([1.0] * len(found), abs=0.02)
    assert not any(mark.wrong for mark in found)
    (wrong,) = play(items, Nonsense())
    assert max(mark.score for mark in marks(wrong, detailed=False)) < (0.65 if category == "remove" else 0.01)


def test_an_edit_that_changes_nothing_keeps_all_and_scores_nothing() -> None:
    (played,) = play(plain_items(cell_of("edit", "colour")), Lazy())
    (mark,) = marks(played)
    assert mark.measures["preserved"] == 1.0
    assert (mark.score, mark.measures["done"]) == (0.0, 0.0)
    assert mark.wrong


def test_a_story_loses_what_an_edit_forgets() -> None:
    """The right picture of the second turn, given again after the third: the third turn's facts are missing, nothing has drifted."""
    # With one object alone nothing could drift that an edit did not ask for.
    item = next(item for item in plain_items(cell_of("multiturn", "four turns"), 3) if len(item.example().turns[0].facts) > 2)
    (played,) = play([item], Truth())
    first, second, _, last = played.answers
    stuck = Played(played.item, played.example, (*played.given[:3], (second,)), (first, second, second, last))
    found = {mark.label: mark for mark in marks(stuck)}
    assert list(found) == ["after turn 1", "after turn 2", "after turn 3", "then asked"]
    assert [found[f"after turn {k}"].score for k in (1, 2, 3)] == pytest.approx([1.0, 1.0, 0.0], abs=0.02)
    assert found["after turn 3"].measures["drift"] < 0.02
    lost = Played(played.item, played.example, played.given, (first, _white(first), *played.answers[2:]))
    assert marks(lost)[1].measures["drift"] > 0.2


def _white(clip: Clip) -> Clip:
    return Clip(np.full_like(clip.frames, 245), clip.fps)


@given(st.text("ABC", max_size=6), st.text("ABC", max_size=6))
def test_letters_is_a_share(said: str, right: str) -> None:
    share = letters(said, right)
    assert 0 <= share <= 1
    assert (share == 1) == (said == right)
    assert share == letters(right, said)


def test_letters_counts_edits() -> None:
    assert letters("CAT", "CUT") == pytest.approx(2 / 3)
    assert letters("", "CUT") == 0
    assert letters("CUTS", "CUT") == pytest.approx(3 / 4)


def test_psnr() -> None:
    black = np.zeros((8, 8, 3), np.uint8)
    assert psnr(black, black) == 100
    assert psnr(black, black + 255) == 0
    assert psnr(black, black + 1) == pytest.approx(48.13, abs=0.01)
    assert psnr(black, black[:4]) == 0


def test_measures_see_flicker_jerks_and_stillness() -> None:
    def clip(motion: str) -> np.ndarray:
        moving = Object("circle", "red", "solid", "large", 0.3, 0.5, 0.4, Motion(motion, 0.4 if motion == "right" else 0.0))
        return clip_of(Medium(Scene(128, 128, BACKGROUND, (moving,)), 128, 128, 9)).frames.copy()

    smooth = clip_measures(clip("right"))
    assert smooth == pytest.approx({"subject consistency": 1, "background consistency": 1, "steadiness": 1, "smoothness": 1, "dynamic": 1})
    flickering = clip("right")
    flickering[::2] -= 12
    assert clip_measures(flickering)["steadiness"] < 0.97
    jerky = clip("right")
    jerky[4] = jerky[0]
    assert clip_measures(jerky)["smoothness"] < 1
    still = np.repeat(clip("right")[:1], 9, 0)
    assert clip_measures(still)["dynamic"] == 0
