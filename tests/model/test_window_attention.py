"""Windows attended to together equal windows one by one, and the library's own loop."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from openlance.model.attention import fused_attention, plain_attention
from openlance.model.vision import VisionEncoder
from openlance.model.window_attention import attend_in_windows
from tests.model.test_vision import SMALL


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 7), min_size=1, max_size=9).filter(lambda lengths: sum(lengths) > 0), st.integers(0, 2**31))
def test_windows_together_are_windows_one_by_one(lengths: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key, value = (torch.randn(sum(lengths), 2, 8, generator=generator) for _ in range(3))
    alone = [
        F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in parts)).transpose(0, 1)
        for parts in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True)
        if len(parts[0])
    ]
    for kernel in (fused_attention, plain_attention):
        torch.testing.assert_close(attend_in_windows(query, key, value, lengths, kernel), torch.cat(alone), rtol=0, atol=1e-6)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("sizes", [[(1, 32, 32)], [(1, 32, 32), (3, 24, 40), (1, 8, 16)], [(4, 24, 40)]])
def test_the_tower_with_its_own_loop_gives_the_same(sizes: list[tuple[int, int, int]], implementation: str) -> None:
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention

    torch.manual_seed(0)
    encoder = VisionEncoder(SMALL).eval().requires_grad_(False)
    encoder.tower.set_attn_implementation(implementation)
    frames = [torch.randint(0, 256, (f, h, w, 3), dtype=torch.uint8) for f, h, w in sizes]
    ours = encoder([encoder.patchify(each) for each in frames])
    for block in encoder.tower.blocks:
        block.attn.__class__ = Qwen2_5_VLVisionAttention
    theirs = encoder([encoder.patchify(each) for each in frames])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
