"""Streams prepared ahead by workers are the streams prepared in place: the same batches, and exact resume."""

from collections.abc import Iterator

import pytest
import torch

from openlance.data.batch import TrainingBatch
from openlance.data.loader import BatchRecipe, Loader
from openlance.data.mixture import Mixture, Weight
from openlance.data.streams import Streams
from openlance.errors import LanceError
from tests.data.test_mixture import Counted
from tests.train.tiny import ANCHORS

RECIPE = BatchRecipe(tokens=256, tokens_per_step=512, streams=4)


def loaders(rank: int = 0, world_size: int = 1) -> list[Loader]:
    def mixture(stream: int) -> Mixture:
        return Mixture([Counted("a", 7), Counted("b", 5, "understand")], [Weight(1.0, {9: 0.0}), Weight(0.5, {3: 2.0})], stream)

    return [Loader(mixture(stream), RECIPE, ANCHORS, rank, world_size, stream, RECIPE.streams) for stream in range(RECIPE.streams)]


def streams(workers: int) -> Streams:
    return Streams(loaders(), workers)


def look(batch: TrainingBatch) -> tuple[list[str], list[int], float]:
    return batch.tasks, batch.ids.tolist(), float(batch.latents.double().sum())


def steps(data: Streams | Iterator[list[TrainingBatch]], count: int) -> list[list[tuple[list[str], list[int], float]]]:
    return [[look(batch) for batch in (data.step() if isinstance(data, Streams) else next(data))] for _ in range(count)]


def in_turns() -> Iterator[list[TrainingBatch]]:
    """The slow twin: plain loaders, one after the other."""
    own = loaders()
    while True:
        for loader in own:
            yield loader.step()


@pytest.mark.parametrize("workers", [0, 2, 4])
def test_any_number_of_workers_brings_the_same_steps(workers: int) -> None:
    assert steps(streams(workers), 10) == steps(in_turns(), 10)


@pytest.mark.parametrize(("before", "after", "done"), [(0, 0, 3), (2, 4, 0), (2, 4, 7), (4, 0, 6), (0, 2, 5)])
def test_a_run_resumes_exactly_on_another_number_of_workers(before: int, after: int, done: int) -> None:
    """Workers are ahead of what was consumed; their lead does not count."""
    first, whole = streams(before), steps(in_turns(), done + 6)
    steps(first, done)
    second = streams(after)
    second.load_state(first.state())
    assert steps(second, 6) == whole[done:]


def test_weights_are_those_of_the_step_of_the_run() -> None:
    """A source that comes in at step 6 comes in at the second step of two of four streams, at the first of none."""
    weights = [Weight(1.0, {5: 1.0, 6: 0.0}), Weight(0.0, {5: 0.0, 6: 1.0})]
    parts = [
        Loader(Mixture([Counted("a", 7), Counted("b", 5)], weights, stream), RECIPE, ANCHORS, stream=stream, streams=4)
        for stream in range(4)
    ]
    run = Streams(parts, 0)
    came_in = []
    for step in range(8):
        before = [list(loader.mixture.drawn) for loader in parts]
        run.step()
        a, b = [new - old for new, old in zip(parts[step % 4].mixture.drawn, before[step % 4], strict=True)]
        assert (a == 0) != (b == 0)
        came_in.append(b > 0)
    assert came_in == [False] * 6 + [True] * 2


def test_ranks_share_the_batches_of_a_step() -> None:
    alone = [look(batch) for batch in Streams(loaders(), 0).step()]
    shares = [Streams(loaders(rank, 2), 2) for rank in range(2)]
    parts = [[look(batch) for batch in share.step()] for share in shares]
    placed = {share.place(i): batch for share, part in zip(shares, parts, strict=True) for i, batch in enumerate(part)}
    assert [placed[i] for i in range(len(alone))] == alone


def test_a_state_of_other_streams_and_uneven_shares_are_refused() -> None:
    state = streams(0).state()
    state["streams"] = state["streams"][:3]
    with pytest.raises(LanceError, match=r"made with 3 streams.*set batch.streams=3"):
        streams(0).load_state(state)
    with pytest.raises(LanceError, match=r"made with 1 streams"):
        streams(0).load_state(loaders()[0].state())
    with pytest.raises(LanceError, match=r"workers 3 must divide batch.streams 4"):
        BatchRecipe(streams=4, workers=3)


def test_growth_is_noticed_in_place() -> None:
    data = streams(0)
    data.step()
    for loader in data._loaders:
        loader.mixture.sources[0].length = 9  # type: ignore[attr-defined]
    data.refresh()
    assert [loader.mixture.lengths[0] for loader in data._loaders] == [9] * 4
    assert torch.is_tensor(data.step()[0].ids)
