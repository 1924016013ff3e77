"""Joint attention of the two streams, row by row over a ragged batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openlance.model import kernels
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
    place of a mask, block by block, without the products between blocks that do not see each other.
    """

    understanding: int
    generation: int
    context: Context | None = None
    mask: Tensor | None = None
    count: int = 1
    plain: bool = False
    blocks: tuple[Block, ...] = ()


class Heads(NamedTuple):
    """Queries (S, heads, d), keys and values (S, kv_heads, d) of one stream."""

    query: Tensor
    key: Tensor
    value: Tensor


def attend(layer: int, streams: tuple[Heads | None, Heads | None], groups: list[RowGroup]) -> tuple[Tensor | None, Tensor | None]:
    """Outputs of both streams, (U, heads * d) and (G, heads * d); a stream that is None stays None."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    starts = [0, 0]
    for group in groups:
        cuts: list[tuple[Tensor, ...]] = []
        owners = []
        for i, size in enumerate((group.understanding, group.generation)):
            stream = streams[i]
            if stream is not None and size:
                start = starts[i]
                starts[i] = stop = start + group.count * size
                cuts.append(tuple(x[start:stop].view(group.count, size, -1, x.shape[-1]).transpose(1, 2) for x in stream))
                owners.append((i, size))
        if group.blocks:
            outputs = _attend_blocks(group, cuts)
        else:
            outputs = torch.split(_attend_group(layer, group, cuts), [size for _, size in owners], 2)
        for (i, size), mixed in zip(owners, outputs, strict=True):
            parts[i].append(mixed.transpose(1, 2).reshape(group.count * size, -1))
    understanding, generation = parts
    return (None if streams[0] is None else _join(understanding)), (None if streams[1] is None else _join(generation))


def _attend_group(layer: int, group: RowGroup, cuts: list[tuple[Tensor, ...]]) -> Tensor:
    """Attention (N, heads, S, d) of rows whose (query, key, value) come in one or two streams, each (N, heads, tokens, d)."""
    query, key, value = (_join(pieces, 2) for pieces in zip(*cuts, strict=True))
    if group.context is not None:
        keys, values = group.context.extend(layer, key[0].transpose(0, 1), value[0].transpose(0, 1))
        key, value = keys[None], values[None]
    kernel = plain_attention if group.plain else fused_attention
    return kernel(query, key, value, group.mask)


def _attend_blocks(group: RowGroup, cuts: list[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """The same for each stream, (N, heads, tokens, d), block by block."""
    left, counts = [block.size for block in group.blocks], []
    pieces: list[tuple[Tensor, ...]] = []
    for cut in cuts:
        sizes: list[int] = []
        while sum(sizes) < cut[0].shape[2]:
            sizes.append(left.pop(0))
        counts.append(len(sizes))
        pieces += zip(*(torch.split(x, sizes, 2) for x in cut), strict=True)
    mixed = []
    for block, (query, _, _) in zip(group.blocks, pieces, strict=True):
        key, value = (_join([pieces[j][part] for j in block.keys], 2) for part in (1, 2))
        mixed.append(plain_attention(query, key, value, block.mask))
    return tuple(_join([mixed.pop(0) for _ in range(count)], 2) for count in counts)


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


def _join(parts: Sequence[Tensor], axis: int = 0) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(tuple(parts), axis)
