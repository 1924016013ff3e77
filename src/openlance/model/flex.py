"""One attention for all rows of a batch, whatever their shapes: FlexAttention with a block mask, for training on a GPU.

The library's FlexAttention has no gradients on a CPU. There the same mask goes to its fused kernel as a dense one, which is slow and serves
tests. Source: `torch.nn.attention.flex_attention`.
"""

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, create_mask, flex_attention

BLOCK = 128
"""Tokens of a block. Batches are padded to whole blocks, so that few shapes occur."""


def block_mask(rows: Sequence[tuple[int, Tensor]]) -> BlockMask:
    """Who sees whom in a batch: the understanding tokens of all rows, the generation tokens of all rows, padding.

    `rows`: of each group how many tokens of a row are understanding tokens, and the boolean masks (count, 1, S, S) of its rows, in stream
    order.
    """
    device = rows[0][1].device
    shapes = [(understanding, len(mask), mask.shape[-1]) for understanding, mask in rows]
    row, start, place = _tokens(shapes).to(device).unbind()
    flat = torch.cat([torch.ones(1, dtype=torch.bool, device=device), *(mask.flatten() for _, mask in rows)])

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        same: Tensor = row[query] == row[key]
        # The place of another row's key may lie beyond the end of `flat`.
        return same & flat[torch.where(same, start[query] + place[key], 0)]

    # Compiled, visibility is counted block by block where it is computed; otherwise by several (S, S) tensors, of integers too.
    create = create_block_mask if device.type == "cpu" else _compiled(create_block_mask)
    mask: BlockMask = create(visible, None, None, len(row), len(row), device, BLOCK)
    return mask


def _tokens(shapes: Sequence[tuple[int, int, int]]) -> Tensor:
    """(3, tokens): of each token the number of its row, where in all masks behind each other its own line starts, its place in the row.

    `shapes`: understanding tokens a row, rows, tokens a row, of each group. Row 0 is the padding: it sees the one value before all masks,
    which is true, since a token that sees nothing would divide by 0.
    """
    streams: tuple[list[Tensor], list[Tensor]] = [], []
    number, start = 1, 1
    for understanding, count, size in shapes:
        place = torch.arange(size).expand(count, size)
        index = torch.arange(count)[:, None]
        tokens = torch.stack([(number + index).expand(count, size), start + (index * size + place) * size, place])
        for stream, part in zip(streams, tokens.tensor_split([understanding], 2), strict=True):
            stream.append(part.flatten(1))
        number, start = number + count, start + count * size * size
    whole = torch.cat([*streams[0], *streams[1]], 1)
    return F.pad(whole, (0, -whole.shape[1] % BLOCK))


def attend(pieces: Sequence[Tensor], counts: Sequence[int], mask: BlockMask) -> Tensor:
    """Attention (1, heads, S, d) of S tokens whose heads come in one or two streams, each (1, sum(counts), tokens, d)."""
    total = sum(piece.shape[2] for piece in pieces)
    size = mask.shape[-1]
    padding = pieces[0].new_zeros(1, sum(counts), size - total, pieces[0].shape[3])
    query, key, value = torch.cat([*pieces, padding], 2).split_with_sizes(list(counts), 1)
    gqa = counts[0] != counts[1]
    if query.device.type == "cpu":
        dense = create_mask(mask.mask_mod, None, None, size, size, query.device)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=dense, enable_gqa=gqa)[:, :, :total]
    kernel: Callable[..., Any] = flex_attention
    if not torch.compiler.is_compiling():  # otherwise it is compiled with its layer
        kernel = _compiled(flex_attention)
    mixed: Tensor = kernel(query, key, value, block_mask=mask, enable_gqa=gqa)
    return mixed[:, :, :total]


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled when it is first called, and for any size when sizes have changed."""
    return torch.compile(function)
