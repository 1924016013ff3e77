"""What a request may be, and what happens when it may not."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from openlance.engine.engine import Engine
from openlance.engine.request import Progress
from openlance.engine.text import StopWatch, choose_token
from openlance.errors import Cancelled, RequestError
from openlance.media import Clip
from openlance.pipeline import Lance, LanceNotice
from tests.engine.conftest import SMALL

BAD = [
    {"num_inference_steps": 0},
    {"num_inference_steps": 1001},
    {"guidance_scale": -1},
    {"guidance_scale": float("nan")},
    {"guidance_renorm": "cubic"},
    {"guidance_interval": (0.9, 0.1)},
    {"timestep_shift": 0},
    {"solver": "rk45"},
    {"guidance_positions": "other"},
    {"height": 0},
    {"height": 10**6},
    {"width": "wide"},
    {"seed": -1},
    {"seed": 1.5},
    {"steps": 3},
]


@pytest.mark.parametrize("parameters", BAD, ids=str)
def test_bad_parameters_are_named(lance: Lance, parameters: dict[str, object]) -> None:
    (name,) = parameters
    with pytest.raises(RequestError, match=name.replace("guidance_renorm", "renorm").replace("solver", "solver|rk45")):
        lance.generate_image("a cat", **{"num_inference_steps": 1, "height": 32, "width": 32, **parameters})


def test_sizes_are_rounded_with_a_notice(lance: Lance) -> None:
    with pytest.warns(LanceNotice, match="height 40 is not a multiple of 16"):
        image = lance.generate_image("a cat", height=40, width=32, num_inference_steps=1)
    assert image.size == (32, 32)
    with pytest.warns(LanceNotice, match="num_frames 6 is not of the form 4k"):
        clip = lance.generate_video("a cat", height=32, width=32, num_frames=6, num_inference_steps=1)
    assert clip.frames.shape == (5, 32, 32, 3)


def test_a_prompt_longer_than_the_model_takes(lance: Lance) -> None:
    with pytest.raises(RequestError, match="tokens long and the model takes 32768"):
        lance.generate_image("cat " * 40000, height=32, width=32)


def test_empty_prompt_and_wild_prompts(lance: Lance) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = lance.generate_image(["", "<|im_end|><|vision_start|>", "a \x00 b 東京 🙂"], height=32, width=32, num_inference_steps=2)
    assert [image.size for image in images] == [(32, 32)] * 3


def test_same_seed_same_pixels_other_seed_other_pixels(lance: Lance) -> None:
    parameters = {"height": 32, "width": 32, "num_inference_steps": 2}
    one, again, other = (np.asarray(lance.generate_image("a cat", seed=seed, **parameters)) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    batch = lance.generate_image(["a cat", "a cat"], seed=[1, 2], **parameters)
    assert np.abs(np.asarray(batch[0]).astype(int) - one.astype(int)).max() <= 1
    with pytest.raises(RequestError, match="3 seeds were given for 2 prompts"):
        lance.generate_image(["a", "b"], seed=[1, 2, 3], **parameters)


def test_progress_previews_and_cancel(lance: Lance) -> None:
    seen: list[Progress] = []
    lance.generate_image("a cat", height=32, width=32, num_inference_steps=4, preview_every=2, on_progress=seen.append)
    assert [(p.step, p.total, p.preview is not None) for p in seen] == [(1, 4, False), (2, 4, True), (3, 4, False), (4, 4, True)]
    engine = Engine(lance.model, lance.binder)
    stopped = engine.submit(lance.request("t2i", "a cat", height=32, width=32, num_inference_steps=50))
    kept = engine.submit(lance.request("t2i", "a cat", height=32, width=32, num_inference_steps=5))
    for _ in range(4):
        engine.step()
    stopped.cancel()
    while engine.step():
        pass
    with pytest.raises(Cancelled):
        stopped.future.result()
    assert kept.future.result().clip is not None


def test_one_failing_request_leaves_the_others_alone(lance: Lance) -> None:
    def explode(progress: Progress) -> None:
        raise MemoryError("out of memory")

    engine = Engine(lance.model, lance.binder)
    bad = engine.submit(lance.request("t2i", "a cat", height=32, width=32, num_inference_steps=3, on_progress=explode))
    good = engine.submit(lance.request("t2i", "a cat", height=32, width=32, num_inference_steps=3))
    while engine.step():
        pass
    with pytest.raises(MemoryError):
        bad.future.result()
    assert good.future.result().clip is not None


def test_a_row_that_breaks_the_forward_fails_alone(lance: Lance) -> None:
    engine = Engine(lance.model, lance.binder)
    bad = engine.submit(lance.request("t2i", "a cat", height=32, width=32, num_inference_steps=3))
    good = engine.submit(lance.request("t2i", "a cat", height=32, width=32, num_inference_steps=3))
    for _ in range(3):
        engine.step()
    bad.rows[0].latents = torch.zeros(3, 5)
    while engine.step():
        pass
    with pytest.raises(RuntimeError):
        bad.future.result()
    assert good.future.result().clip is not None


def test_session_turns(lance: Lance, picture: Clip) -> None:
    chat = lance.session()
    with pytest.raises(RequestError, match="no picture or clip yet"):
        chat.edit("make it blue")
    first = chat.generate("a red ball", height=32, width=32, num_inference_steps=1)
    second = chat.edit("make it blue", num_inference_steps=1, resolution=(64, 56))
    assert chat.source is second
    assert isinstance(chat.ask("what is it?", max_new_tokens=3, resolution=(64, 56)), str)
    clip = chat.animate("it moves", num_frames=5, num_inference_steps=1, resolution=(64, 56))
    assert clip.num_frames == 5
    assert len(chat.turns) == 4
    chat.undo()
    assert chat.source is second
    chat.undo()
    chat.undo()
    assert chat.source is first


def test_session_equals_single_calls(lance: Lance, picture: Clip) -> None:
    """Without history a turn is exactly the call it stands for."""
    chat = lance.session()
    chat.show(picture)
    edited = chat.edit("make it blue", **SMALL)
    assert np.array_equal(edited.frames[0], np.asarray(lance.edit(picture, "make it blue", **SMALL)))


@given(text=st.text(alphabet="abSTOP ", max_size=40), cuts=st.lists(st.integers(1, 5), max_size=20))
def test_stop_strings_never_leak(text: str, cuts: list[int]) -> None:
    watch = StopWatch(("STOP", "ab a"))
    given_out, rest = "", text
    for cut in [*cuts, len(text)]:
        piece, rest = rest[:cut], rest[cut:]
        given_out += watch.push(piece)
        if watch.stopped:
            break
    found = [text.find(stop) for stop in watch.stop if stop in text]
    if watch.stopped:
        assert given_out == text[: min(found)]
    else:
        assert not found
        assert given_out + watch.pending == text


def test_sampling_laws() -> None:
    logits = torch.tensor([0.0, 3.0, 2.0, -5.0])
    assert choose_token(logits, 0.0, 1.0, None) == 1
    generator = torch.Generator().manual_seed(0)
    assert {choose_token(logits, 1.0, 0.5, generator) for _ in range(50)} == {1}
    drawn = {choose_token(logits, 5.0, 1.0, generator) for _ in range(300)}
    assert drawn == {0, 1, 2, 3}


def test_coding_of_pixels_has_steps_of_its_own(lance: Lance, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it neither lengthens a step that others share, nor keeps them waiting for more than one piece."""
    decode, pieces = lance.model.autoencoder.decode_stream, []

    def counted(latents: torch.Tensor) -> Iterator[torch.Tensor]:
        for piece in decode(latents):
            pieces.append(piece)
            yield piece

    monkeypatch.setattr(lance.model.autoencoder, "decode_stream", counted)
    ticket = lance.engine.submit(lance.request("t2v", "a cat", height=64, width=64, num_frames=5, num_inference_steps=2, seed=3))
    steps = []
    while not ticket.future.done():
        rows, before = bool(ticket.rows), len(pieces)
        lance.engine.step()
        steps.append((rows, len(pieces) - before))
    assert [step for step in steps if step[1]] == [(False, 1), (False, 1)]
