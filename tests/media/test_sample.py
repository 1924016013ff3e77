"""Which frames the model sees, and constant-rate timelines."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openlance.errors import MediaError
from openlance.media import MediaLimits, sample_frame_indices
from openlance.media.sample import Timeline, spread, timeline


def test_indices_equal_the_reference(golden):
    rows = golden("frame_sampler")["rows"]
    listed = [row for row in rows if isinstance(row["indices"], list)]
    assert len(listed) >= 25
    for row in listed:
        assert sample_frame_indices(row["total_frames"], row["fps"]) == row["indices"], row


def test_one_frame_on_which_the_reference_fails_gives_that_frame(golden):
    failing = [row for row in golden("frame_sampler")["rows"] if not isinstance(row["indices"], list)]
    assert [(row["total_frames"], sample_frame_indices(row["total_frames"], row["fps"])) for row in failing] == [(1, [0])]
    assert sample_frame_indices(1, 1.0) == [0]


@given(st.integers(1, 100_000), st.floats(0.01, 1000))
def test_samples_are_4k_plus_1_in_order_from_the_first_frame_to_the_last(total, fps):
    indices = sample_frame_indices(total, fps)
    assert len(indices) % 4 == 1
    assert len(indices) <= 69
    assert indices == sorted(indices)
    assert indices[0] == 0
    assert indices[-1] == (total - 1 if len(indices) > 1 else 0)


@given(st.integers(2, 5000), st.integers(2, 100))
def test_spread_is_a_truncated_linspace(total, count):
    assert spread(total, count) == np.linspace(0, total - 1, count).astype(int).tolist()


@pytest.mark.parametrize(("total", "fps"), [(0, 24), (-3, 24), (10, 0), (10, float("nan")), (10, float("inf"))])
def test_impossible_samples_are_refused(total, fps):
    with pytest.raises(MediaError, match=r"at least one|finite and above 0"):
        sample_frame_indices(total, fps)


def _timeline(starts, end, nominal=None, limits=None):
    return timeline(starts, end, nominal, limits or MediaLimits(), "it")


@given(st.integers(2, 200), st.sampled_from([10.0, 12.0, 23.976, 24.0, 25.0, 29.97, 30.0, 50.0, 60.0]))
def test_a_constant_rate_keeps_its_frames_whatever_its_clock_rounds_to(count, fps):
    marks = [round(index * 1000 / fps) / 1000 for index in range(count + 1)]
    view = _timeline(marks[:-1], marks[-1], fps)
    assert view == Timeline(list(range(count)), fps)


@given(st.lists(st.integers(1, 12), min_size=8, max_size=40))
def test_a_varying_rate_shows_each_frame_as_long_as_it_lasts(ticks):
    """Frames of whole ticks of 40 ms, single ticks being the most common: the grid is the tick, so times come out exact."""
    ticks = [1] * (len(ticks) + 3) + [5] + ticks
    starts = [0.04 * sum(ticks[:index]) for index in range(len(ticks))]
    view = _timeline(starts, 0.04 * sum(ticks))
    assert view.fps == pytest.approx(25)
    assert view.indices == [index for index, length in enumerate(ticks) for _ in range(length)]


def test_a_lying_clock_cannot_make_a_long_timeline():
    with pytest.raises(MediaError, match=r"lasts 1000000\.0 s, the limit is 900"):
        _timeline([0.0, 0.04, 0.08], 1e6)
    with pytest.raises(MediaError, match=r"the limit is 100: .*MediaLimits\(frames"):
        _timeline([0.0, 0.001, 0.002, 0.003, 10.0], 10.001, limits=MediaLimits(frames=100))


def test_frames_at_the_same_time_are_all_kept():
    assert _timeline([0.0, 0.0, 0.0], 0.0, 25.0) == Timeline([0, 1, 2], 25.0)


def test_picking_keeps_the_duration_and_checks_the_sampler():
    view = Timeline([0, 1, 1, 2, 3, 4], 12.0).pick(lambda total, fps: [0, 2, 5])
    assert view == Timeline([0, 1, 4], 6.0)
    assert Timeline([3, 1, 3], 1.0).places() == {1: [1], 3: [0, 2]}
    for wrong in ([], [6], [-1]):
        with pytest.raises(MediaError, match=r"of a video of 6: return indices in 0\.\.5"):
            Timeline([0, 1, 1, 2, 3, 4], 12.0).pick(lambda total, fps, wrong=wrong: wrong)
