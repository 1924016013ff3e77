"""Attention of the vision tower over windows: all windows of one length in one call.

The library's own loops over windows in Python, and a clip at the released size has hundreds of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionAttention, apply_rotary_pos_emb_vision

from openlance.model.attention import fused_attention, plain_attention

Kernel = Callable[[Tensor, Tensor, Tensor, None], Tensor]


class WindowAttention(Qwen2_5_VLVisionAttention):
    """The library's attention with its weights; only how windows reach the kernel differs."""

    def forward(
        self,
        hidden_states: Tensor,
        cu_seqlens: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        max_seqlen: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """(P, width) of patches in window order to the same; `cu_seqlens` (windows + 1,): where windows start and the last one ends.

        `max_seqlen` and what else the library passes is for its other kernels.
        """
        assert position_embeddings is not None
        query, key, value = self.qkv(hidden_states).view(len(hidden_states), 3, self.num_heads, -1).unbind(1)
        query, key = apply_rotary_pos_emb_vision(query, key, *position_embeddings)
        kernel = plain_attention if self.config._attn_implementation == "eager" else fused_attention
        mixed = attend_in_windows(query, key, value, cu_seqlens.diff().tolist(), kernel)
        projected: Tensor = self.proj(mixed.flatten(1))
        return projected


def attend_in_windows(query: Tensor, key: Tensor, value: Tensor, lengths: list[int], kernel: Kernel = fused_attention) -> Tensor:
    """Attention (P, heads, d) of patches to those of their own window; windows lie one after another and have these lengths."""
    windows: dict[int, list[int]] = defaultdict(list)
    start = 0
    for length in lengths:
        windows[length].append(start)
        start += length
    if len(windows) == 1:
        return _attend(query, key, value, lengths[0], kernel)
    mixed = torch.empty_like(query)
    for length, starts in windows.items():
        if length:
            members = (torch.tensor(starts)[:, None] + torch.arange(length)).flatten().to(query.device)
            mixed[members] = _attend(query[members], key[members], value[members], length, kernel)
    return mixed


def _attend(query: Tensor, key: Tensor, value: Tensor, length: int, kernel: Kernel) -> Tensor:
    """Of windows that all have `length` patches."""
    q, k, v = (heads.reshape(-1, length, *heads.shape[1:]).transpose(1, 2) for heads in (query, key, value))
    return kernel(q, k, v, None).transpose(1, 2).flatten(0, 1)
