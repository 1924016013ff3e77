"""A batch attended at once: rows see nothing of each other, padding harms nobody, and the block mask is one that FlexAttention takes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import create_mask, flex_attention

from openlance.model.attention import RowGroup, attend
from openlance.model.flex import BLOCK, block_mask

COUNTS = (4, 2, 2)
SHAPES = [(40, 90, 2), (60, 0, 1), (0, 25, 3), (1, 1, 1)]
"""Understanding and generation tokens a row, rows, of each group."""


@pytest.fixture
def groups() -> list[RowGroup]:
    generator = torch.Generator().manual_seed(0)
    found = []
    for u, g, count in SHAPES:
        mask = (torch.rand(count, 1, u + g, u + g, generator=generator) < 0.5) | torch.eye(u + g, dtype=torch.bool)
        found.append(RowGroup(u, g, mask=mask, count=count))
    return found


def masks(groups: list[RowGroup]) -> list[tuple[int, Tensor]]:
    return [(group.understanding, group.mask) for group in groups if group.mask is not None]


def streams_of(groups: list[RowGroup]) -> tuple[int, int]:
    """Tokens of both streams."""
    return sum(group.count * group.understanding for group in groups), sum(group.count * group.generation for group in groups)


def whole_mask(groups: list[RowGroup], size: int) -> Tensor:
    """(size, size): all rows in their places, padding that sees itself behind them."""
    U, G = streams_of(groups)
    whole = torch.zeros(size, size, dtype=torch.bool)
    whole[U + G :, U + G :] = True
    u, g = 0, U
    for (understanding, mask), group in zip(masks(groups), groups, strict=True):
        for one in mask[:, 0]:
            index = torch.cat([torch.arange(u, u + understanding), torch.arange(g, g + group.generation)])
            whole[index[:, None], index] = one
            u, g = u + understanding, g + group.generation
    return whole


def test_rows_see_what_their_masks_say_and_nothing_of_each_other(groups: list[RowGroup]) -> None:
    mask = block_mask(masks(groups))
    size = mask.shape[-1]
    assert size == 512
    wanted = whole_mask(groups, size)
    assert torch.equal(create_mask(mask.mask_mod, None, None, size, size, "cpu")[0, 0], wanted)
    blocks = wanted.view(size // BLOCK, BLOCK, size // BLOCK, BLOCK).any(3).any(1)
    assert not blocks.all()
    assert torch.equal(mask.to_dense()[0, 0].bool(), blocks)


def test_all_rows_at_once_equal_group_by_group(groups: list[RowGroup]) -> None:
    U, G = streams_of(groups)
    streams = [torch.randn(1, sum(COUNTS), tokens, 16).requires_grad_() for tokens in (U, G)]
    found = []
    for way in (groups, [RowGroup(U, G, flex=block_mask(masks(groups)))]):
        outputs = [x for x in attend(0, (streams[0], streams[1]), COUNTS, way) if x is not None]
        found.append([*outputs, *torch.autograd.grad(sum(x.sin().sum() for x in outputs), streams)])
    for got, want in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_takes_the_mask(groups: list[RowGroup]) -> None:
    """As the library computes it on a CPU, which is without gradients."""
    mask = block_mask(masks(groups))
    size = mask.shape[-1]
    query, key, value = (torch.randn(1, heads, size, 16) for heads in COUNTS)
    wanted = F.scaled_dot_product_attention(query, key, value, attn_mask=whole_mask(groups, size), enable_gqa=True)
    torch.testing.assert_close(flex_attention(query, key, value, block_mask=mask, enable_gqa=True), wanted, atol=1e-5, rtol=1e-5)
