"""Joint attention of the two streams, row by row over a ragged batch."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openlance.model import kernels
from openlance.model.context import Context


@dataclass(frozen=True)
class RowGroup:
    """`count` rows of one shape: U understanding and G generation tokens each, consecutive in both streams.

    `context` only with count 1. `mask`: (count or 1, 1, U+G, context + U+G) in stream order (understanding first), boolean
    (True = may attend) or to be added to the scores; None where every token sees everything. `plain`: attend by two matrix
    products and a softmax instead of the fused kernel, which is faster in training on short rows.
    """

    understanding: int
    generation: int
    context: Context | None = None
    mask: Tensor | None = None
    count: int = 1
    plain: bool = False


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
                cuts.append(tuple(heads[start:stop].view(group.count, size, -1, heads.shape[-1]) for heads in stream))
                owners.append((i, size))
        mixed = _attend_group(layer, group, cuts)
        done = 0
        for i, size in owners:
            parts[i].append(mixed[:, done : done + size].reshape(group.count * size, -1))
            done += size
    understanding, generation = parts
    return (None if streams[0] is None else _join(understanding)), (None if streams[1] is None else _join(generation))


def _attend_group(layer: int, group: RowGroup, cuts: list[tuple[Tensor, ...]]) -> Tensor:
    """Attention (N, S, heads, d) of rows whose (query, key, value) come in one or two streams, each (N, tokens, heads, d)."""
    query, key, value = cuts[0] if len(cuts) == 1 else (torch.cat(pieces, 1) for pieces in zip(*cuts, strict=True))
    if group.context is not None:
        keys, values = group.context.extend(layer, key[0], value[0])
        key, value = keys[None], values[None]
    else:
        key, value = key.transpose(1, 2), value.transpose(1, 2)
    kernel = plain_attention if group.plain else fused_attention
    return kernel(query.transpose(1, 2), key, value, group.mask).transpose(1, 2)


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (N, heads, S, d) of query (N, heads, S, d) over key and value (N, kv_heads, L, d) by the library's best kernel."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two products and a softmax; the heads that share a key head become rows of one product."""
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        return kernels.attention(query, key, value, mask)
    n, heads, s, d = query.shape
    shared = heads // key.shape[1]
    scores = (query * d**-0.5).reshape(n, -1, shared * s, d) @ key.mT
    if mask is not None:
        scores = (scores.unflatten(2, (shared, s)) + mask[:, :, None]).flatten(2, 3)
    mixed: Tensor = scores.softmax(-1).to(value.dtype) @ value
    return mixed.reshape(n, heads, s, d)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
