"""Who sees whom: one predicate over token metadata."""

import torch
from torch import Tensor


def visible(
    query_index: Tensor, key_index: Tensor, query_segment: Tensor, key_segment: Tensor, key_two_way: Tensor, key_noised: Tensor
) -> Tensor:
    """Boolean, broadcast over queries and keys: True where the query attends to the key.

    A query sees every earlier token and all of its own segment if that is two-way; noised segments are invisible outside
    themselves. Indices count inside a document; documents are kept apart by the caller.
    """
    same = query_segment == key_segment
    reach = (key_index <= query_index) | (same & key_two_way)
    return reach & (same | ~key_noised)


def attention_mask(segment: Tensor, two_way: Tensor, noised: Tensor, document: Tensor | None = None) -> Tensor:
    """Dense mask (S, S), True = may attend, of tokens given by their metadata (each (S,)).

    `segment` must be distinct between documents; `document` (S,) isolates samples packed side by side.
    """
    index = torch.arange(segment.numel(), device=segment.device)
    mask = visible(index[:, None], index[None], segment[:, None], segment[None], two_way[None], noised[None])
    if document is not None:
        mask = mask & (document[:, None] == document[None])
    return mask
