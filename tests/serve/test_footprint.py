"""The computed cost of a request bounds what it really takes."""

import pytest

from openlance.apps.serve.footprint import footprint
from openlance.engine.prepare import plan


@pytest.mark.parametrize("task", ["t2i", "t2v", "i2v", "image_edit", "video_edit", "understand", "text"])
def test_contexts_stay_within_what_was_reserved(lance, picture, film, task):
    media = {"i2v": [picture], "image_edit": [picture], "video_edit": [film], "understand": [picture, film]}.get(task, [])
    request = lance.request(task, "some words", media, seed=1)
    cost = footprint(lance.model, plan(lance.model, lance.binder, request))
    ticket = lance.engine.submit(request)
    largest = tokens = 0
    while not ticket.future.done():
        lance.engine.step()
        contexts = {id(row.context): row.context for row in ticket.rows}
        largest = max(largest, sum(context.nbytes for context in contexts.values()))
        tokens = max(tokens, sum(len(row) for row in ticket.rows))
    assert 0 < largest <= cost.context_bytes
    assert largest >= 0.3 * cost.context_bytes
    assert tokens <= max(cost.step_tokens, cost.prompt_tokens)


def test_cost_grows_with_what_is_asked(lance, picture):
    def cost(task, media=(), **parameters):
        return footprint(lance.model, plan(lance.model, lance.binder, lance.request(task, "x", media, **parameters)))

    small, large = cost("t2i", height=64, width=64), cost("t2i", height=128, width=128)
    assert large.bytes > small.bytes
    assert large.work_tokens > 2.5 * small.work_tokens
    assert cost("t2i", num_inference_steps=20).work_tokens > 3 * cost("t2i", num_inference_steps=4).work_tokens
    assert cost("t2i", guidance_scale=1.0).step_tokens * 2 == cost("t2i", guidance_scale=4.0).step_tokens
    assert cost("understand", [picture]).media_tokens == 16
