"""Fast paths equal their slow twins: cached = uncached, together = alone, shared prefix = own prefix, streamed = whole."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from openlance.engine.engine import Engine, starting_latents
from openlance.engine.prefill import MediumTokens
from openlance.engine.prepare import Plan, encode_medium, plan
from openlance.engine.request import Request
from openlance.flow.path import timesteps
from openlance.media import Clip
from openlance.model.lance import LanceModel, batch_of
from openlance.pipeline import Lance
from openlance.sequence.segment import Kind
from tests.engine.conftest import SMALL

TASKS = ["t2i", "t2v", "i2v", "image_edit", "video_edit", "subject_image", "subject_video"]


def media_of(task: str, picture: Clip, film: Clip) -> tuple[Clip, ...]:
    return {"t2i": (), "t2v": (), "video_edit": (film,), "subject_image": (picture, film)}.get(task, (picture,))


def request_of(lance: Lance, task: str, picture: Clip, film: Clip, **parameters: object) -> Request:
    sizes = {"height": 48, "width": 64} if task not in ("image_edit", "video_edit", "i2v") else {}
    frames = {"num_frames": 5} if task in ("t2v", "i2v", "subject_video") else {}
    return lance.request(task, "a red ball", media_of(task, picture, film), **{**SMALL, **sizes, **frames, **parameters})


def full_velocity(model: LanceModel, planned: Plan, branch: int, latents: Tensor, time: float, media: list[MediumTokens]) -> Tensor:
    """The velocity of the target from one uncached forward over the whole sequence with a dense mask."""
    chosen = planned.branches[branch]
    packed = chosen.packed()
    given = [media[s.medium].latent.flatten(0, 2) for s in chosen.segments if s.kind is Kind.LATENT and s.medium is not None]
    vision = [media[s.medium].vision for s in chosen.segments if s.kind is Kind.VISION]
    x = torch.cat([*given, latents])
    times = torch.where(packed.clean[packed.latent], 0.0, time)
    hidden = model(batch_of(model, packed, x, times, torch.cat(vision) if vision else None)).generation
    return model.velocity(hidden, x, times[:, None])[-len(latents) :]


@torch.inference_mode()
def slow_latents(lance: Lance, request: Request) -> Tensor:
    """Final latents by the obvious way: every step a whole uncached forward of each branch, Euler written out."""
    model = lance.model
    planned = plan(model, lance.binder, request)
    media = [encode_medium(model, medium) for medium in planned.media]
    guidance = planned.sampling.guidance()
    x = starting_latents(model, planned, media)
    target = planned.branches[0].packed()
    moving = ~target.clean[target.latent][-len(x) :]
    times = timesteps(planned.sampling.num_inference_steps, planned.sampling.timestep_shift)
    for i in range(len(times) - 1):
        t = float(times[i])
        wanted = range(len(planned.branches)) if guidance.acts_at(t) else range(1)
        velocities = [full_velocity(model, planned, branch, x, t, media)[moving] for branch in wanted]
        v = velocities[0] if len(velocities) == 1 else guidance.combine(*velocities)
        x = x.clone()
        x[moving] = x[moving] - v * (times[i] - times[i + 1])
    return x.reshape(*planned.target, -1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("visual", [1.0, 1.5])
def test_cached_sampling_equals_uncached(lance: Lance, picture: Clip, film: Clip, task: str, visual: float) -> None:
    request = request_of(lance, task, picture, film, visual_guidance_scale=visual)
    (result,) = lance.run([request])
    torch.testing.assert_close(result.latents, slow_latents(lance, request), atol=2e-4, rtol=0)


def test_together_equals_alone(lance: Lance, picture: Clip, film: Clip) -> None:
    """All tasks at once, of different sizes and step counts, joining one engine: each result is that of its lone run."""
    requests = [request_of(lance, task, picture, film, seed=i, num_inference_steps=2 + i % 3) for i, task in enumerate(TASKS)]
    requests += [
        lance.request("understand", "what is it?", (picture,), max_new_tokens=6, resolution=(64, 112)),
        lance.request("text", "hello", max_new_tokens=4),
    ]
    together = lance.run(requests)
    for request, result in zip(requests, together, strict=True):
        (alone,) = lance.run([request])
        assert result.token_ids == alone.token_ids
        if alone.clip is not None:
            torch.testing.assert_close(result.latents, alone.latents, atol=2e-4, rtol=0)
            assert np.abs(result.clip.frames.astype(int) - alone.clip.frames.astype(int)).max() <= 1


def test_requests_join_and_leave_between_steps(lance: Lance, picture: Clip, film: Clip) -> None:
    engine = Engine(lance.model, lance.binder)
    first = engine.submit(request_of(lance, "t2i", picture, film, num_inference_steps=6))
    for _ in range(4):
        engine.step()
    second = engine.submit(request_of(lance, "t2v", picture, film))
    while engine.step():
        pass
    for ticket in (first, second):
        (alone,) = lance.run([ticket.request])
        torch.testing.assert_close(ticket.future.result().latents, alone.latents, atol=2e-4, rtol=0)


def test_decoding_with_the_cache_equals_without(lance: Lance, picture: Clip) -> None:
    request = lance.request("understand", "what is it?", (picture,), max_new_tokens=8, resolution=(64, 112))
    (result,) = lance.run([request])
    model, ids = lance.model, []
    planned = plan(model, lance.binder, request)
    with torch.inference_mode():
        vision = encode_medium(model, planned.media[0]).vision
        for _ in range(8):
            answer = lance.binder.answer("") if not ids else []
            segments = [*planned.branches[0].segments]
            from openlance.sequence.pack import pack
            from openlance.sequence.positions import positions
            from openlance.sequence.segment import Role, Segment

            segments += [Segment(Kind.TEXT, Role.TARGET, tuple(ids))] if ids else []
            packed = pack([segments], [positions(segments)])
            hidden = model(batch_of(model, packed, torch.zeros(0, 48), torch.zeros(0), vision)).understanding
            token = int(model.logits(hidden[-1])[: len(lance.binder.tokenizer)].argmax())
            if token == lance.binder.tokenizer.end_of_turn:
                break
            ids.append(token)
        del answer
    assert list(result.token_ids) == ids


def test_streamed_text_is_the_answer(lance: Lance, picture: Clip) -> None:
    parameters = {"max_new_tokens": 12, "resolution": (64, 112), "temperature": 1.0, "top_p": 0.9, "seed": 3}
    whole = lance.ask([picture], "what is it?", **parameters)
    assert "".join(lance.ask([picture], "what is it?", stream=True, **parameters)) == whole


def test_history_keeps_the_cache_and_changes_nothing(lance: Lance, picture: Clip) -> None:
    """A conversation continued from its kept context equals the same conversation computed from scratch each turn."""
    kept, fresh = lance.session(history=True), lance.session(history=True)
    for session in (kept, fresh):
        session.show(picture)
    sizes = {"num_inference_steps": 2, "resolution": (64, 112)}
    results = []
    for session in (kept, fresh):
        answers = [session.ask("what is it?", max_new_tokens=5, **sizes)]
        for instruction in ("make it blue", "add a cat"):
            if session is fresh:
                session.history.context = None
            clip = session.edit(instruction, **sizes)
            answers.append(clip.frames.astype(int))
        if session is fresh:
            session.history.context = None
        answers.append(session.ask("and now?", max_new_tokens=5, **sizes))
        results.append(answers)
    assert results[0][0] == results[1][0]
    assert results[0][3] == results[1][3]
    for mine, theirs in zip(results[0][1:3], results[1][1:3], strict=True):
        assert np.abs(mine - theirs).max() <= 1
    assert kept.history.context is not None
    assert kept.history.context.length > 100
    assert dataclasses.is_dataclass(kept.turns[0])
