"""The context of a row: keys and values of a finished prefix, growing in place."""

import torch
from torch import Tensor

from openlance.model.config import TransformerConfig

GROWTH = 256


class Context:
    """KV cache of one sequence, one buffer a layer: keys, then values (1, 2 kv_heads, capacity, head_dim).

    A row writes its keys and values behind the `length` committed tokens; only `commit` makes them part of the context, so
    a denoising step leaves no trace and copies nothing.
    """

    def __init__(self, config: TransformerConfig, device: torch.device, dtype: torch.dtype, capacity: int = 0) -> None:
        self.config = config
        self.length = 0
        shape = (config.num_hidden_layers, 1, 2 * config.num_key_value_heads, capacity, config.head_dim)
        self._buffer = torch.empty(shape, device=device, dtype=dtype)

    @property
    def nbytes(self) -> int:
        return self._buffer.nbytes

    def reserve(self, tokens: int) -> None:
        """Make room for `tokens` beyond the committed ones."""
        needed = self.length + tokens
        if needed > self._buffer.shape[3]:
            layers, one, heads, _, dim = self._buffer.shape
            grown = self._buffer.new_empty(layers, one, heads, needed + min(needed, GROWTH), dim)
            grown[:, :, :, : self.length] = self._buffer[:, :, :, : self.length]
            self._buffer = grown

    def extend(self, layer: int, heads: Tensor) -> Tensor:
        """Keys and values (1, 2 kv_heads, length + n, head_dim) of the context followed by the row's own (1, 2 kv_heads, n, head_dim)."""
        whole = self._buffer[layer, :, :, : self.length + heads.shape[2]]
        whole[:, :, self.length :] = heads
        return whole

    def commit(self, tokens: int) -> None:
        """The last row's `tokens` now belong to the context."""
        self.length += tokens

    def fork(self, reserve: int = 0) -> "Context":
        """An independent copy with room for `reserve` more tokens."""
        copy = Context(self.config, self._buffer.device, self._buffer.dtype, self.length + reserve)
        copy._buffer[:, :, :, : self.length] = self._buffer[:, :, :, : self.length]
        copy.length = self.length
        return copy
