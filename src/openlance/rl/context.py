"""The context of a prompt as many samples attend to it at once, also under gradients."""

import torch
from torch import Tensor

from openlance.model.context import Context


class SharedContext(Context):
    """A finished context into which nothing is written: a row's own keys and values are set behind it in a new tensor.

    What lies before a target is text, which the generation expert takes no part in, so it is a constant of the training pass too.
    """

    def __init__(self, context: Context) -> None:
        self.config = context.config
        self.length = context.length
        self._buffer = context._buffer[:, :, :, : context.length].detach().contiguous()

    def reserve(self, tokens: int) -> None:
        """Nothing to do: rows bring their own room."""

    def extend(self, layer: int, heads: Tensor) -> Tensor:
        """As `Context.extend`, without a trace."""
        return torch.cat([self._buffer[layer], heads], 2)
