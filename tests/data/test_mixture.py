"""The order of training: seeded, complete within an epoch, resumable from a few integers, the same on any number of ranks."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openlance.data.batch import TrainingBatch
from openlance.data.loader import BatchRecipe, Loader
from openlance.data.mixture import Draw, Mixture, Weight
from openlance.data.sample import Sample
from openlance.errors import LanceError
from tests.train.tiny import ANCHORS, tiny_sample


class Counted:
    """A source whose samples carry their index in their words."""

    def __init__(self, name: str, length: int, task: str = "t2i") -> None:
        self.name, self.length, self.task = name, length, task

    def __len__(self) -> int:
        return self.length

    def sample(self, index: int, rng: Random) -> Sample:
        return tiny_sample(self.task, rng.randrange(1000) * 100 + index)

    def contents(self) -> str:
        return f"it has {self.length} samples"


def draws(mixture: Mixture, count: int) -> list[Draw]:
    return [mixture.draw() for _ in range(count)]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=3), st.integers(0, 99), st.integers(0, 40))
@settings(max_examples=40, deadline=None)
def test_a_resumed_mixture_goes_on_with_the_same_draws(lengths: list[int], seed: int, before: int) -> None:
    def mixture() -> Mixture:
        return Mixture([Counted(str(i), n) for i, n in enumerate(lengths)], [Weight()] * len(lengths), seed)

    whole = draws(mixture(), before + 20)
    first = mixture()
    draws(first, before)
    second = mixture()
    second.load_state(first.state())
    assert draws(second, 20) == whole[before:]


def test_an_epoch_holds_every_sample_once_and_the_next_is_ordered_anew() -> None:
    mixture = Mixture([Counted("a", 50)], [Weight()], 3)
    first, second = ([draw.index for draw in draws(mixture, 50)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(50))
    assert first != second
    assert first != sorted(first)


def test_weights_are_the_shares() -> None:
    mixture = Mixture([Counted("a", 10), Counted("b", 10), Counted("never", 10)], [Weight(3.0), Weight(1.0), Weight(0.0)], 0)
    sources = [draw.source for draw in draws(mixture, 4000)]
    assert abs(sources.count(0) / 4000 - 0.75) < 0.03
    assert sources.count(2) == 0


def test_weights_change_on_straight_lines() -> None:
    weight = Weight(2.0, {30: 1.0, 10: 4.0})
    assert [weight.at(step) for step in (0, 5, 10, 20, 30, 1000)] == [2.0, 3.0, 4.0, 2.5, 1.0, 1.0]
    mixture = Mixture([Counted("a", 10), Counted("b", 10)], [Weight(1.0, {100: 0.0}), Weight(0.0, {100: 1.0})], 0)
    for step, share in ((0, 0.0), (50, 0.5), (75, 0.75), (100, 1.0), (200, 1.0)):
        found = [mixture.draw(step).source for _ in range(2000)]
        assert abs(sum(found) / 2000 - share) < 0.04


def test_a_weight_that_cannot_be_says_why() -> None:
    with pytest.raises(LanceError, match="changes at step 0: name steps from 1 on"):
        Weight(1.0, {0: 2.0})
    with pytest.raises(LanceError, match=r"weight -1\.0 must be at least 0"):
        Weight(1.0, {5: -1.0})
    for odd in (float("nan"), float("inf")):
        with pytest.raises(LanceError, match="at least 0, and finite"):
            Weight(odd)
    with pytest.raises(LanceError, match="the weights of all sources are 0 at step 9: raise one"):
        Mixture([Counted("a", 3), Counted("b", 3)], [Weight(1.0, {9: 0.0}), Weight(0.0, {9: 0.0, 12: 1.0})], 0)
    with pytest.raises(LanceError, match="source 'later' is empty"):
        Mixture([Counted("a", 3), Counted("later", 0)], [Weight(1.0), Weight(0.0, {9: 1.0})], 0)


def test_a_source_that_grew_is_taken_in_at_refresh_only() -> None:
    source = Counted("a", 5)
    mixture = Mixture([source], [Weight()], 0)
    source.length = 50
    assert {draw.index for draw in draws(mixture, 50)} == set(range(5))
    mixture.refresh()
    assert {draw.index for draw in draws(mixture, 50)} == set(range(50))


@pytest.mark.parametrize(("lengths", "weights"), [([0], [1.0]), ([3], [0.0]), ([3], [-1.0]), ([3, 3], [1.0])])
def test_a_mixture_that_cannot_be_drawn_from_says_why(lengths: list[int], weights: list[float]) -> None:
    with pytest.raises(LanceError, match=r"source|weight"):
        Mixture([Counted(str(i), n) for i, n in enumerate(lengths)], [Weight(weight) for weight in weights], 0)


def loader(form: str = "bucketed", rank: int = 0, world_size: int = 1, views: int = 1) -> Loader:
    mixture = Mixture(
        [Counted("t2i", 20), Counted("ask", 20, "understand"), Counted("edit", 20, "image_edit")], [Weight(2.0), Weight(), Weight()], 7
    )
    return Loader(mixture, BatchRecipe(form, 512, 1024, 16, views), ANCHORS, rank, world_size)


def same(a: TrainingBatch, b: TrainingBatch) -> bool:
    return a.tasks == b.tasks and a.ids.equal(b.ids) and a.latents.equal(b.latents) and a.answer.equal(b.answer)


@pytest.mark.parametrize("form", ["bucketed", "packed"])
def test_a_resumed_loader_goes_on_with_the_same_batches(form: str) -> None:
    whole = loader(form)
    batches = [next(whole) for _ in range(24)]
    first = loader(form)
    for _ in range(11):
        next(first)
    second = loader(form)
    second.load_state(first.state())
    assert all(same(next(second), batch) for batch in batches[11:])


def test_a_resumed_loader_goes_on_with_the_weights_of_its_step() -> None:
    def changing() -> Loader:
        sources = [Counted("t2i", 20), Counted("ask", 20, "understand")]
        return Loader(Mixture(sources, [Weight(1.0, {6: 0.0}), Weight(0.0, {6: 1.0})], 7), BatchRecipe("bucketed", 512, 1024, 16), ANCHORS)

    whole = changing()
    steps = [whole.step() for _ in range(10)]
    assert {task for batch in steps[0] for task in batch.tasks} == {"t2i"}
    assert {task for batch in steps[-1] for task in batch.tasks} == {"understand"}
    first, second = changing(), changing()
    for _ in range(4):
        first.step()
    second.load_state(first.state())
    for expected in steps[4:]:
        assert all(same(a, b) for a, b in zip(second.step(), expected, strict=True))


@pytest.mark.parametrize("form", ["bucketed", "packed"])
def test_batches_keep_within_the_tokens_and_are_well_filled(form: str) -> None:
    source = loader(form)
    batches = [next(source) for _ in range(30)]
    assert all(batch.num_tokens <= 512 for batch in batches)
    assert sum(batch.num_tokens for batch in batches) / len(batches) > 0.75 * 512
    if form == "bucketed":
        assert all(len(batch.rows) == 1 for batch in batches)


@pytest.mark.parametrize("form", ["bucketed", "packed"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_ranks_partition_the_batches_of_every_step(form: str, world_size: int) -> None:
    """Whatever the number of ranks, a step holds the same batches, each on one rank and at the same place, and ends at the same state."""
    whole = loader(form)
    parts = [loader(form, rank, world_size) for rank in range(world_size)]
    for _ in range(6):
        expected = whole.step()
        placed = {part.place(i): batch for part in parts for i, batch in enumerate(part.step())}
        assert sorted(placed) == list(range(len(expected)))
        assert all(same(placed[i], batch) for i, batch in enumerate(expected))
        assert all(part.state() == whole.state() for part in parts)


@pytest.mark.parametrize("form", ["bucketed", "packed"])
def test_a_step_has_as_many_tokens_as_its_batches(form: str) -> None:
    """The size of a batch is known before it is put together: a step ends at the first batch that comes near enough."""
    source = loader(form, views=2)
    for _ in range(6):
        sizes = [batch.num_tokens for batch in source.step()]
        assert sum(sizes[:-1]) + 256 < 1024 or len(sizes) == 1
        assert sum(sizes) + 256 >= 1024


def test_more_ranks_than_batches_leave_some_with_nothing() -> None:
    sizes = [len(loader(rank=rank, world_size=9).step()) for rank in range(9)]
    assert sizes.count(0) >= 1
    assert max(sizes) == 1


def test_a_sample_beyond_the_budget_is_an_error_that_names_the_remedy() -> None:
    mixture = Mixture([Counted("t2i", 3)], [Weight()], 0)
    with pytest.raises(LanceError, match=r"raise batch\.tokens"):
        next(Loader(mixture, BatchRecipe(tokens=32), ANCHORS))
