"""An engine in another process: the results of one here, and an end that harms nobody else."""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from openlance.engine.engine import Engine, Result, Ticket
from openlance.engine.history import History
from openlance.engine.remote import RemoteEngine, _portable
from openlance.engine.request import ImageSampling, Progress
from openlance.errors import Cancelled, CheckpointError, RequestError
from openlance.media import Clip
from openlance.pipeline import Lance
from openlance.sequence.template import OWN_WORDING
from tests.serve.tiny import tiny_lance

from .conftest import SMALL


@dataclass(frozen=True)
class Load:
    """What the other process calls: the tiny model of this test session."""

    folder: Path
    wording: Path

    def __call__(self) -> Lance:
        return Lance.from_pretrained(self.folder, dtype="float32", device="cpu", templates=self.wording)


@pytest.fixture(scope="module")
def load(golden_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Load:
    wording = tmp_path_factory.mktemp("wording") / "templates.json"
    OWN_WORDING.save(wording)
    return Load(golden_dir, wording)


def started(load: Load) -> RemoteEngine:
    engine = RemoteEngine(load)
    assert engine.ready(120)
    return engine


@pytest.fixture(scope="module")
def remote(load: Load) -> Iterator[RemoteEngine]:
    engine = started(load)
    yield engine
    engine.close()


def finish(engine: RemoteEngine, *tickets: Any) -> list[Any]:
    while not all(ticket.future.done() for ticket in tickets):
        engine.step()
    return [ticket.future.result() for ticket in tickets]


def drawing(lance: Lance, **parameters: Any) -> Any:
    return lance.request("t2i", "a red circle", height=64, width=64, **{"num_inference_steps": 3, **parameters})


def test_results_are_those_of_an_engine_here(remote: RemoteEngine, lance: Lance, picture: Clip) -> None:
    asked = [
        drawing(lance, seed=1),
        lance.request("image_edit", "make it green", [picture], **SMALL),
        lance.request("understand", "what is it?", [picture], max_new_tokens=5),
        lance.request("t2v", "a cat", height=64, width=64, num_frames=5, num_inference_steps=2, seed=3),
    ]
    expected = lance.engine.run(asked)
    for given, own in zip(finish(remote, *map(remote.submit, asked)), expected, strict=True):
        assert given.text == own.text
        if own.clip is not None:
            assert np.array_equal(given.clip.frames, own.clip.frames)
    assert not remote.active
    assert not remote.step()


def test_tokens_of_the_next_step_are_known(remote: RemoteEngine, lance: Lance) -> None:
    ticket, own = remote.submit(drawing(lance)), lance.engine.submit(drawing(lance))
    for _ in range(2):
        remote.step()
        lance.engine.step()
        assert [len(row) for row in ticket.rows] == [len(row) for row in own.rows]
    finish(remote, ticket)
    own.cancel()
    lance.engine.step()


def test_callbacks_hear_of_it(remote: RemoteEngine, lance: Lance) -> None:
    heard: list[Progress] = []
    pieces: list[str] = []
    drawn = remote.submit(replace(drawing(lance, preview_every=2), on_progress=heard.append))
    told = remote.submit(replace(lance.request("text", "hello", max_new_tokens=4), on_text=pieces.append))
    _, result = finish(remote, drawn, told)
    assert [(p.step, p.total) for p in heard] == [(1, 3), (2, 3), (3, 3)]
    assert [p.preview is not None for p in heard] == [False, True, False]
    assert "".join(pieces) == result.text


def test_a_failing_callback_ends_its_request_alone(remote: RemoteEngine, lance: Lance) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("no more")

    failing, other = remote.submit(replace(drawing(lance), on_progress=fail)), remote.submit(drawing(lance))
    finish(remote, other)
    with pytest.raises(ValueError, match="no more"):
        failing.future.result()
    assert not remote._held


def test_cancelled_and_removed_requests_end(remote: RemoteEngine, lance: Lance) -> None:
    first, second = (remote.submit(drawing(lance, num_inference_steps=50)) for _ in range(2))
    remote.step()
    first.cancel()
    remote.active.remove(second)
    remote.step()
    with pytest.raises(Cancelled):
        first.future.result(timeout=0)
    assert not remote._held


def test_only_the_chosen_step(remote: RemoteEngine, lance: Lance) -> None:
    heard: list[int] = []
    waiting = remote.submit(replace(drawing(lance), on_progress=lambda progress: heard.append(progress.step)))
    other = remote.submit(drawing(lance))
    for _ in range(3):
        remote.step([other])
    assert heard == []
    finish(remote, waiting, other)
    assert heard == [1, 2, 3]


def test_errors_of_a_request_come_back(remote: RemoteEngine, lance: Lance) -> None:
    wrong = remote.submit(replace(drawing(lance), height=100_000, width=100_000, image=ImageSampling(num_inference_steps=0)))
    remote.step()
    with pytest.raises(RequestError, match="num_inference_steps"):
        wrong.future.result(timeout=0)


class Telling(Engine):
    """Instead of steps, says with how many threads it would have made them."""

    def step(self, chosen: Sequence[Ticket] | None = None) -> bool:
        for ticket in chosen or ():
            ticket.future.set_result(Result(text=str(torch.get_num_threads())))
        return False


def telling() -> SimpleNamespace:
    lance = tiny_lance()
    return SimpleNamespace(engine=Telling(lance.model, lance.binder))


def test_threads_are_those_that_it_was_told_last(lance: Lance) -> None:
    engine = RemoteEngine(telling)
    try:
        assert engine.ready(120)
        told = []
        for threads in (None, 2, 3, 1):
            if threads is not None:
                engine.use_threads(threads)
            (result,) = finish(engine, engine.submit(drawing(lance)))
            told.append(result.text)
        assert told == ["1", "2", "3", "1"]
    finally:
        engine.close()


def test_histories_do_not_travel(remote: RemoteEngine, lance: Lance) -> None:
    with pytest.raises(RequestError, match="history"):
        remote.submit(replace(drawing(lance), history=History()))


def test_when_the_process_dies_its_requests_fail(load: Load, lance: Lance) -> None:
    engine = started(load)
    try:
        lost = engine.submit(drawing(lance, num_inference_steps=6))
        engine.step()
        assert engine._process.pid is not None
        os.kill(engine._process.pid, signal.SIGKILL)
        while engine.step():
            pass
        late = engine.submit(drawing(lance))
        for ticket in (lost, late):
            with pytest.raises(RuntimeError, match="try again"):
                ticket.future.result(timeout=0)
        assert not engine.alive
        assert not engine.ready()
    finally:
        engine.close()


@pytest.mark.parametrize("error", [RequestError("too long"), Cancelled("no"), CheckpointError("x"), ValueError("a", "b")])
def test_errors_travel(error: Exception) -> None:
    assert _portable(error) is error


def test_errors_that_do_not_survive_the_way_are_told() -> None:
    class Local(Exception):
        pass

    told = _portable(Local("what happened"))
    assert type(told) is RuntimeError
    assert str(told) == "Local: what happened"
