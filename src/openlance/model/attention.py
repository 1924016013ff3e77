"""Joint attention of the two streams, row by row over a ragged batch."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.flex_attention import BlockMask

from openlance.model import flex, kernels
from openlance.model.context import Context


@dataclass(frozen=True)
class Block:
    """Consecutive tokens of one stream in every row of a group, and what they see: all tokens of the blocks `keys` and no other, less
    what `mask` (count or 1, 1, size or 1, tokens of `keys`), added to the scores, takes away.
    """

    size: int
    keys: tuple[int, ...]
    mask: Tensor | None


@dataclass(frozen=True)
class RowGroup:
    """`count` rows of one shape: U understanding and G generation tokens each, consecutive in both streams.

    `context` only with count 1. `mask`: (count or 1, 1, U+G, context + U+G) in stream order (understanding first), boolean
    (True = may attend) or to be added to the scores; None where every token sees everything. `plain`: attend by two matrix
    products and a softmax instead of the fused kernel, which is faster in training on short rows. `blocks`: the same plainly and in
    place of a mask, block by block, without the products between blocks that do not see each other. `flex`: by FlexAttention and in
    place of a mask; the group is then a whole batch of rows of any shapes, as one row.
    """

    understanding: int
    generation: int
    context: Context | None = None
    mask: Tensor | None = None
    count: int = 1
    plain: bool = False
    blocks: tuple[Block, ...] = ()
    flex: BlockMask | None = None


def attend(
    layer: int, streams: tuple[Tensor | None, Tensor | None], counts: Sequence[int], groups: list[RowGroup]
) -> tuple[Tensor | None, Tensor | None]:
    """Outputs of both streams, (U, heads * d) and (G, heads * d); a stream that is None stays None.

    `streams`: heads (1, sum(counts), U, d) and (1, sum(counts), G, d), the `counts` of queries, keys and values behind each other.
    """
    firsts = _cut(streams[0], [group.count * group.understanding for group in groups])
    seconds = _cut(streams[1], [group.count * group.generation for group in groups])
    understanding, generation = [], []
    for group, first, second in zip(groups, firsts, seconds, strict=True):
        size = (group.understanding, group.generation)
        pieces = [x for x, tokens in zip((first, second), size, strict=True) if x is not None and tokens]
        if group.count > 1:
            pieces = [_rows(x, group.count) for x in pieces]
        u, g = _attend_group(layer, group, pieces, counts).transpose(1, 2).split_with_sizes(size, 1)
        if group.count > 1:
            u, g = (x.reshape(1, -1, *x.shape[2:]) for x in (u, g))
        understanding.append(u)
        generation.append(g)
    return (None if streams[0] is None else _merge(understanding)), (None if streams[1] is None else _merge(generation))


def _cut(stream: Tensor | None, sizes: list[int]) -> Sequence[Tensor | None]:
    """The tokens of each group."""
    if stream is None:
        return [None] * len(sizes)
    return stream.split_with_sizes(sizes, 2) if len(sizes) > 1 else [stream]


def _merge(parts: list[Tensor]) -> Tensor:
    """(tokens, heads * d) of all groups, each (1, tokens, heads, d)."""
    whole = _join(parts, 1)
    return whole.reshape(whole.shape[1], -1)


def _rows(x: Tensor, count: int) -> Tensor:
    """(count, heads, tokens, d) of (1, heads, count * tokens, d)."""
    return x.view(x.shape[1], count, -1, x.shape[3]).transpose(0, 1)


def _attend_group(layer: int, group: RowGroup, pieces: list[Tensor], counts: Sequence[int]) -> Tensor:
    """Attention (N, heads, S, d) of rows whose heads come in one or two streams, each (N, sum(counts), tokens, d)."""
    if group.flex is not None:
        return flex.attend(pieces, counts, group.flex)
    if group.blocks:
        return _attend_blocks(group, pieces, counts)
    queries = counts[0]
    query, seen = _join(pieces, 2).split_with_sizes((queries, sum(counts) - queries), 1)
    if group.context is not None:
        seen = group.context.extend(layer, seen)
    key, value = seen.chunk(2, 1)
    kernel = plain_attention if group.plain else fused_attention
    return kernel(query, key, value, group.mask)


def _attend_blocks(group: RowGroup, pieces: list[Tensor], counts: Sequence[int]) -> Tensor:
    """The same block by block."""
    left = [block.size for block in group.blocks]
    heads: list[tuple[Tensor, ...]] = []
    for piece in pieces:
        sizes: list[int] = []
        while sum(sizes) < piece.shape[2]:
            sizes.append(left.pop(0))
        heads += [part.split_with_sizes(counts, 1) for part in piece.split_with_sizes(sizes, 2)]
    mixed = []
    for block, (query, _, _) in zip(group.blocks, heads, strict=True):
        key, value = (_join([heads[j][part] for j in block.keys], 2) for part in (1, 2))
        mixed.append(plain_attention(query, key, value, block.mask))
    return _join(mixed, 2)


def blocks_of(mask: Tensor, sizes: list[int], dtype: torch.dtype) -> tuple[Block, ...]:
    """What blocks of these sizes see by a boolean mask (N, 1, S, S), True = may attend."""
    blocks = []
    for size, row in zip(sizes, torch.split(mask, sizes, 2), strict=True):
        parts = torch.split(row, sizes, 3)
        keys = tuple(j for j, part in enumerate(parts) if part.any())
        seen = torch.cat([parts[j] for j in keys], 3)
        if bool((seen == seen[:, :, :1]).all()):
            seen = seen[:, :, :1]
        blocks.append(Block(size, keys, None if bool(seen.all()) else added_mask(seen, dtype)))
    return tuple(blocks)


def added_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A boolean mask as what is added to scores."""
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, float("-inf"))


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (N, heads, S, d) of query (N, heads, S, d) over key and value (N, kv_heads, L, d) by the library's best kernel."""
    if mask is not None and query.device.type != "cpu":
        # Of the library's kernels on accelerators, those that take a mask know no shared heads: it would fall back to plain products.
        key, value = (heads.repeat_interleave(query.shape[1] // heads.shape[1], 1) for heads in (key, value))
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=key.shape[1] != query.shape[1])


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two products and a softmax; the heads that share a key head become rows of one product."""
    if mask is not None and mask.dtype == torch.bool:
        mask = added_mask(mask, query.dtype)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return kernels.attention(query, key, value, mask)
    n, heads, s, d = query.shape
    shared = heads // key.shape[1]
    scores = (query * d**-0.5).reshape(n, -1, shared * s, d) @ key.mT
    if mask is not None:
        scores = (scores.unflatten(2, (shared, s)) + mask[:, :, None]).flatten(2, 3)
    mixed: Tensor = scores.softmax(-1).to(value.dtype) @ value
    return mixed.reshape(n, heads, s, d)


def _join(parts: list[Tensor], axis: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)
