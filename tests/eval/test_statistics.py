import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlance.eval.statistics import Estimate, change_between, estimate, mean_of, wilson


def test_wilson_equals_published_values() -> None:
    # Newcombe 1998, table I: 81 of 263 and 0 of 20.
    assert wilson(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)


@given(st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=4), min_size=1, max_size=12))
def test_an_interval_holds_its_mean(groups: list[list[float]]) -> None:
    found = estimate(groups)
    scores = [score for group in groups for score in group]
    assert found.mean == pytest.approx(sum(scores) / len(scores), abs=1e-9)
    assert 0 <= found.low <= found.mean <= found.high <= 1
    assert (found.groups, found.scores) == (len(groups), len(scores))


def test_right_or_wrong_once_a_prompt_is_wilson() -> None:
    found = estimate([[1.0]] * 8 + [[0.0]] * 2)
    assert (found.low, found.high) == pytest.approx(wilson(0.8, 10))


def test_four_equal_pictures_a_prompt_say_no_more_than_one() -> None:
    once = estimate([[1.0], [0.0]] * 20)
    four = estimate([[1.0] * 4, [0.0] * 4] * 20)
    independent = estimate([[1.0, 0.0, 1.0, 0.0]] * 20 + [[1.0, 0.0, 0.0, 0.0]] * 20)
    assert four.scores == 160
    assert four.high - four.low == pytest.approx(once.high - once.low, rel=0.2)
    assert independent.high - independent.low < (four.high - four.low) / 2


def test_agreement_is_not_certainty() -> None:
    assert estimate([[1.0] * 4] * 5).low < 0.8


def test_nothing_has_no_mean() -> None:
    with pytest.raises(ValueError, match="at least one"):
        estimate([[]])


def test_the_mean_of_means_is_tighter() -> None:
    parts = [Estimate(0.5, 0.3, 0.7, 10, 10), Estimate(0.9, 0.7, 1.0, 10, 40)]
    found = mean_of(parts)
    assert found.mean == pytest.approx(0.7)
    assert found.low == pytest.approx(0.7 - math.sqrt(0.08) / 2)
    assert found.high == pytest.approx(0.7 + math.sqrt(0.05) / 2)
    assert (found.groups, found.scores) == (20, 50)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=30))
def test_a_change_is_that_of_pairs(pairs: list[tuple[float, float]]) -> None:
    before, after = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = change_between(before, after), change_between(after, before)
    assert there.mean == pytest.approx(there.after - there.before, abs=1e-9)
    assert there.low - 1e-9 <= there.mean <= there.high + 1e-9
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)
    assert (there.better, there.worse, there.pairs) == (back.worse, back.better, len(pairs))


def test_pairs_tell_what_means_cannot() -> None:
    """Scores that differ a lot from thing to thing hide a small change that every pair shows."""
    before = [0.1, 0.9] * 50
    after = [value + 0.01 + 0.002 * (i % 3) for i, value in enumerate(before)]
    apart = estimate([[value] for value in after])
    assert apart.low < estimate([[value] for value in before]).mean
    assert change_between(before, after).low > 0.01
    same = change_between(before, before)
    assert same.mean == 0
    assert same.high == -same.low == pytest.approx(wilson(0.0, 100)[1])
    for bad in (([], []), ([1.0], [])):
        with pytest.raises(ValueError, match="needs pairs"):
            change_between(*bad)
