"""Many users on one engine: nobody's result depends on the others, nobody waits for ever, nobody's fault is another's."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from openlance.apps.serve.admission import QueueFull, ShuttingDown, TooLarge
from openlance.apps.serve.worker import DeadlineExceeded
from openlance.errors import Cancelled, RequestError
from tests.waiting import wait_until


def mixed(lance, picture, film):
    """Requests of every kind and of several sizes."""
    pictures = [lance.request("t2i", f"number {i}", seed=i, height=32 + 16 * i, num_inference_steps=3 + i) for i in range(3)]
    answers = [lance.request("understand", "what?", [medium]) for medium in (picture, film)]
    texts = [lance.request("text", "tell", temperature=1.0, top_p=0.9, seed=i) for i in range(3)]
    changed = [lance.request("image_edit", "blue", [picture], seed=1), lance.request("video_edit", "red", [film], seed=2)]
    films = [lance.request("t2v", "go", seed=5), lance.request("i2v", "go", [picture], seed=6, num_frames=5)]
    plain = [lance.request("t2i", "no guidance", seed=7, guidance_scale=1.0, solver="heun")]
    return [*films, *pictures, *answers, *texts, *changed, *plain]


def same(one, other) -> bool:
    if one.clip is None:
        return one.text == other.text and one.token_ids == other.token_ids
    return np.array_equal(one.clip.frames, other.clip.frames)


def slow(lance, steps=400, **options):
    """A request that certainly still runs when the test looks at it."""
    return lance.request("t2v", "long", seed=1, num_inference_steps=steps, **options)


def test_together_equals_alone(lance, worker, picture, film):
    requests = mixed(lance, picture, film)
    alone = [lance.run([request])[0] for request in requests]
    crowd = worker()
    handles = [crowd.submit(request) for request in requests]
    together = [handle.future.result(60) for handle in handles]
    assert [same(a, b) for a, b in zip(alone, together, strict=True)] == [True] * len(requests)
    assert crowd.budget.used == crowd.budget.taken == 0


def test_submitted_from_many_threads(lance, worker):
    crowd = worker()
    results: dict[int, str] = {}

    def ask(seed):
        results[seed] = crowd.submit(lance.request("text", "tell", temperature=1.0, seed=seed)).future.result(60).text

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    crowd.stop()
    assert results == {seed: lance.run([lance.request("text", "tell", temperature=1.0, seed=seed)])[0].text for seed in range(8)}


def test_an_answer_passes_a_clip_that_began_before_it(lance, worker):
    crowd = worker()
    clip = crowd.submit(slow(lance))
    wait_until(lambda: clip.active is not None)
    answer = crowd.submit(lance.request("text", "quick", max_new_tokens=3))
    assert answer.future.result(20).text is not None
    assert not clip.future.done()
    clip.cancel()


def test_a_clip_goes_on_while_answers_keep_coming(lance, worker):
    steps: list[int] = []
    crowd = worker()
    clip = crowd.submit(lance.request("t2v", "x", seed=1, num_inference_steps=30, on_progress=lambda p: steps.append(p.step)))
    answers: list[Future] = []
    while not clip.future.done() and len(answers) < 2000:
        answers.append(crowd.submit(lance.request("text", "more", max_new_tokens=4)).future)
        answers[-1].result(20)
    assert clip.future.done()
    assert steps == list(range(1, 31))


def test_cancel_while_running_and_while_waiting(lance, worker):
    crowd = worker(max_active=1)
    running, waiting = crowd.submit(slow(lance)), crowd.submit(slow(lance))
    wait_until(lambda: running.active is not None)
    waiting.cancel()
    running.cancel()
    for handle in (waiting, running):
        with pytest.raises(Cancelled, match="cancelled"):
            handle.future.result(20)
    assert crowd.submit(lance.request("text", "after", max_new_tokens=2)).future.result(20)
    assert not lance.engine.active


def test_deadline(lance, worker):
    crowd = worker(max_active=1)
    running, waiting = crowd.submit(slow(lance, 1000), deadline=0.2), crowd.submit(slow(lance, 1000), deadline=0.1)
    for handle in (running, waiting):
        with pytest.raises(DeadlineExceeded, match="which is the time it had"):
            handle.future.result(20)


def test_the_queue_is_bounded(lance, worker):
    crowd = worker(max_active=1, max_queue=2)
    first = crowd.submit(slow(lance))
    wait_until(lambda: first.active is not None)
    handles = [crowd.submit(slow(lance)) for _ in range(2)]
    with pytest.raises(QueueFull, match="2 requests are waiting") as refused:
        crowd.submit(slow(lance))
    assert refused.value.retry_after >= 1
    for handle in (first, *handles):
        handle.cancel()


def test_what_never_fits_is_refused_at_once(lance, worker):
    crowd = worker(memory_bytes=500_000)
    with pytest.raises(TooLarge, match="smaller size"):
        crowd.submit(lance.request("t2v", "large", height=256, width=256))
    assert crowd.submit(lance.request("text", "small", max_new_tokens=2)).future.result(20)


def test_memory_bounds_what_is_active(lance, worker):
    request = lance.request("t2i", "x", seed=1)
    _, cost = worker().plan(request)
    crowd = worker(memory_bytes=int(2.5 * cost.bytes))
    most = 0
    handles = [crowd.submit(request) for _ in range(6)]
    while not all(handle.future.done() for handle in handles):
        most = max(most, len(crowd._active))
        assert crowd.budget.used <= crowd.budget.bytes
    assert most <= 2
    assert len({handle.future.result().clip.frames.tobytes() for handle in handles}) == 1


def test_what_the_model_cannot_do_is_refused_before_it_waits(lance, worker):
    crowd = worker()
    for parameters, message in (
        ({"height": 4096}, "height 4096"),
        ({"guidance_scale": -1}, "guidance_scale"),
        ({"solver": "no"}, "solver"),
    ):
        with pytest.raises(RequestError, match=message):
            crowd.submit(lance.request("t2i", "x", **parameters))
    with pytest.raises(RequestError, match="exceed the 2048"):
        crowd.submit(lance.request("text", "x" * 1900, max_new_tokens=200))


def test_an_error_of_one_request_is_its_own(lance, worker):
    def burst(_):
        raise ZeroDivisionError("the client's callback")

    good = lance.request("t2i", "good", seed=3)
    alone = lance.run([good])[0]
    crowd = worker()
    bad = crowd.submit(lance.request("text", "bad", on_text=burst))
    fine = crowd.submit(good)
    with pytest.raises(ZeroDivisionError):
        bad.future.result(20)
    assert same(fine.future.result(20), alone)


def test_running_out_of_memory_hurts_only_who_asked_for_it(lance, worker, monkeypatch):
    forward = lance.model.forward

    def limited(batch):
        if batch.latents.shape[0] > 100:
            raise MemoryError("too many tokens")
        return forward(batch)

    small = [lance.request("t2i", "small", seed=i, height=32, width=32) for i in range(3)]
    alone = [lance.run([request])[0] for request in small]
    monkeypatch.setattr(lance.model, "forward", limited)
    crowd = worker()
    large = crowd.submit(lance.request("t2i", "large", height=256, width=256))
    handles = [crowd.submit(request) for request in small]
    with pytest.raises(MemoryError):
        large.future.result(20)
    assert [same(handle.future.result(20), other) for handle, other in zip(handles, alone, strict=True)] == [True] * 3


def test_a_failing_step_ends_its_requests_and_not_the_worker(lance, worker, monkeypatch):
    step = lance.engine.step
    broken = [True]

    def failing(chosen):
        if broken.pop() if broken else False:
            raise RuntimeError("a defect of the engine")
        return step(chosen)

    monkeypatch.setattr(lance.engine, "step", failing)
    crowd = worker()
    with pytest.raises(RuntimeError, match="a defect"):
        crowd.submit(lance.request("text", "first")).future.result(20)
    assert crowd.submit(lance.request("text", "second")).future.result(20)
    assert crowd.alive
    assert crowd.budget.taken == 0


def test_stop_ends_everything(lance, worker):
    crowd = worker(max_active=1)
    handles = [crowd.submit(slow(lance)) for _ in range(2)]
    crowd.stop()
    for handle in handles:
        with pytest.raises(Cancelled, match="stopped"):
            handle.future.result(1)
    with pytest.raises(ShuttingDown):
        crowd.submit(slow(lance))
    assert not lance.engine.active


def test_closing_finishes_what_was_taken(lance, worker):
    crowd = worker()
    handle = crowd.submit(lance.request("t2i", "last", seed=1))
    crowd.close()
    with pytest.raises(ShuttingDown):
        crowd.submit(slow(lance))
    assert handle.future.result(20).clip is not None
