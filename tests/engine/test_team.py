"""A team of processes: the results of one engine, and nobody harmed by another's end."""

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from openlance.engine.history import History
from openlance.engine.request import Progress
from openlance.engine.team import Away, Team, _portable
from openlance.errors import Cancelled, CheckpointError, RequestError
from openlance.media import Clip
from openlance.pipeline import Lance
from openlance.sequence.template import OWN_WORDING

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


def grown(load: Load) -> Team:
    team = Team(load().engine, torch.get_num_threads())
    team.grow(load, 1)
    until = time.monotonic() + 120
    while team.ready < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert team.ready == 2
    return team


@pytest.fixture(scope="module")
def team(load: Load) -> Iterator[Team]:
    team = grown(load)
    yield team
    team.close()


def finish(team: Team, *tickets: Any) -> list[Any]:
    while not all(ticket.future.done() for ticket in tickets):
        team.step()
    return [ticket.future.result() for ticket in tickets]


def requests(lance: Lance, picture: Clip) -> list[Any]:
    return [
        lance.request("t2i", "a red circle", height=64, width=64, num_inference_steps=3, seed=1),
        lance.request("t2i", "a blue star", height=64, width=96, num_inference_steps=2, seed=2),
        lance.request("image_edit", "make it green", [picture], **SMALL),
        lance.request("understand", "what is it?", [picture], max_new_tokens=5),
        lance.request("t2v", "a cat", height=64, width=64, num_frames=5, num_inference_steps=2, seed=3),
    ]


def test_a_team_gives_what_one_engine_gives(team: Team, lance: Lance, picture: Clip) -> None:
    asked = requests(lance, picture)
    alone = [lance.engine.run([request])[0] for request in asked]
    tickets = [team.submit(request) for request in asked]
    assert {isinstance(ticket, Away) for ticket in tickets} == {True, False}
    for ticket, expected in zip(finish(team, *tickets), alone, strict=True):
        assert ticket.text == expected.text
        if expected.clip is not None:
            assert np.array_equal(ticket.clip.frames, expected.clip.frames)
    assert not team.active
    assert not team.step()


def away(team: Team, request: Any) -> Away:
    """A ticket that went to the other process: whoever has less to do takes it, and this one has something to do."""
    here = team.submit(replace(request, on_progress=None, on_text=None, history=History()))
    ticket = team.submit(request)
    assert isinstance(ticket, Away)
    here.cancel()
    return ticket


def test_callbacks_hear_of_it(team: Team, lance: Lance) -> None:
    heard: list[Progress] = []
    pieces: list[str] = []
    request = lance.request("t2i", "a red circle", height=64, width=64, num_inference_steps=3, preview_every=2)
    drawn = away(team, replace(request, on_progress=heard.append))
    told = away(team, replace(lance.request("text", "hello", max_new_tokens=4), on_text=pieces.append))
    _, result = finish(team, drawn, told)
    assert [(p.step, p.total) for p in heard] == [(1, 3), (2, 3), (3, 3)]
    assert [p.preview is not None for p in heard] == [False, True, False]
    assert "".join(pieces) == result.text


def test_a_failing_callback_ends_its_request_alone(team: Team, lance: Lance) -> None:
    def fail(progress: Progress) -> None:
        raise ValueError("no more")

    request = lance.request("t2i", "a red circle", height=64, width=64, num_inference_steps=3)
    failing, other = away(team, replace(request, on_progress=fail)), away(team, request)
    finish(team, other)
    with pytest.raises(ValueError, match="no more"):
        failing.future.result()
    team.step()
    assert not team._members[0].tickets


def test_cancel_and_removal_end_a_request(team: Team, lance: Lance) -> None:
    request = lance.request("t2i", "a red circle", height=64, width=64, num_inference_steps=50)
    first, second = away(team, request), away(team, request)
    team.step()
    first.cancel()
    team.active.remove(second)
    team.step()
    with pytest.raises(Cancelled):
        first.future.result(timeout=0)
    team.step()
    assert not team._members[0].tickets


def test_only_the_chosen_step(team: Team, lance: Lance) -> None:
    heard: list[int] = []
    request = lance.request("t2i", "a red circle", height=64, width=64, num_inference_steps=4)
    waiting = away(team, replace(request, on_progress=lambda progress: heard.append(progress.step)))
    other = away(team, request)
    for _ in range(3):
        team.step([other])
    assert heard == []
    finish(team, waiting, other)
    assert heard == [1, 2, 3, 4]


def test_histories_stay_here(team: Team, lance: Lance) -> None:
    request = lance.request("text", "hello", max_new_tokens=2)
    tickets = [team.submit(replace(request, history=History())) for _ in range(3)]
    assert not any(isinstance(ticket, Away) for ticket in tickets)
    finish(team, *tickets)


def test_a_process_that_dies_takes_only_its_requests_along(load: Load, lance: Lance) -> None:
    team = grown(load)
    try:
        request = lance.request("t2i", "a red circle", height=64, width=64, num_inference_steps=6)
        lost, kept = away(team, request), team.submit(replace(request, history=History()))
        team.step()
        pid = team._members[0]._process.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        finish(team, kept)
        with pytest.raises(RuntimeError, match="try again"):
            lost.future.result(timeout=0)
        assert team.ready == 1
        assert not isinstance(team.submit(request), Away)
    finally:
        team.close()


@pytest.mark.parametrize("error", [RequestError("too long"), Cancelled("no"), CheckpointError("x"), ValueError("a", "b")])
def test_errors_travel(error: Exception) -> None:
    assert _portable(error) is error


def test_errors_that_do_not_survive_the_way_are_told() -> None:
    class Local(Exception):
        pass

    told = _portable(Local("what happened"))
    assert type(told) is RuntimeError
    assert str(told) == "Local: what happened"


def test_a_ticket_is_a_future_like_that_of_an_engine(team: Team, lance: Lance) -> None:
    assert isinstance(team.submit(lance.request("text", "hi", max_new_tokens=1)).future, Future)
    while team.step():
        pass
