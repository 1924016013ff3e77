"""Joint attention of the two streams, row by row over a ragged batch."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from openlance.model.context import Context


@dataclass(frozen=True)
class RowGroup:
    """`count` rows of one shape: U understanding and G generation tokens each, consecutive in both streams.

    `context` only with count 1. `mask`: (count or 1, 1, U+G, context + U+G) boolean in stream order (understanding first),
    None where every token sees everything. `plain`: attend by two matrix products and a softmax instead of the fused kernel,
    which is faster in training on short rows.
    """

    understanding: int
    generation: int
    context: Context | None = None
    mask: Tensor | None = None
    count: int = 1
    plain: bool = False


@dataclass(frozen=True)
class Heads:
    """Queries (S, heads, d), keys and values (S, kv_heads, d) of one stream."""

    query: Tensor
    key: Tensor
    value: Tensor


def attend(layer: int, streams: tuple[Heads | None, Heads | None], groups: list[RowGroup]) -> tuple[Tensor | None, Tensor | None]:
    """Outputs of both streams, (U, heads * d) and (G, heads * d); a stream that is None stays None."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    starts = [0, 0]
    for group in groups:
        sizes = (group.understanding, group.generation)
        cuts = []
        for i, stream in enumerate(streams):
            if stream is not None and sizes[i]:
                stop = starts[i] + group.count * sizes[i]
                cuts.append((stream, slice(starts[i], stop), sizes[i], i))
                starts[i] = stop
        mixed = _attend_group(layer, group, cuts)
        for (_, _, _, i), part in zip(cuts, mixed, strict=True):
            parts[i].append(part)
    understanding, generation = (None if stream is None else _join(part) for stream, part in zip(streams, parts, strict=True))
    return understanding, generation


def _attend_group(layer: int, group: RowGroup, cuts: list[tuple[Heads, slice, int, int]]) -> list[Tensor]:
    count = group.count

    def rows(name: str) -> Tensor:
        tensors = [getattr(stream, name)[cut].unflatten(0, (count, size)) for stream, cut, size, _ in cuts]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors, 1)

    query, key, value = rows("query"), rows("key"), rows("value")
    if group.context is not None:
        k, v = group.context.extend(layer, key[0], value[0])
        key, value = k[None], v[None]
    else:
        key, value = key.transpose(1, 2), value.transpose(1, 2)
    kernel = plain_attention if group.plain else fused_attention
    out = kernel(query.transpose(1, 2), key, value, group.mask).transpose(1, 2)
    if len(cuts) == 1:
        return [out.flatten(0, 1).flatten(1)]
    return [part.flatten(0, 1).flatten(1) for part in out.split([size for _, _, size, _ in cuts], 1)]


def fused_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Attention (N, heads, S, d) of query (N, heads, S, d) over key and value (N, kv_heads, L, d) by the library's best kernel."""
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)


def plain_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """The same by two products and a softmax; the heads that share a key head become rows of one product."""
    n, heads, s, d = query.shape
    shared = heads // key.shape[1]
    scores = (query * d**-0.5).reshape(n, -1, shared * s, d) @ key.mT
    if mask is not None:
        scores = scores.masked_fill(~mask.repeat(1, 1, shared, 1), float("-inf"))
    return (scores.float().softmax(-1).to(value.dtype) @ value).reshape(n, heads, s, d)


def _join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
