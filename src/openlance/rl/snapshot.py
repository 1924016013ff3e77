"""Other values of the weights that learn: the reference model, the policy that samples."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Snapshot:
    """A copy of the weights that learn (the others never differ), which the model can carry for a while.

    With an adapter only the adapter's weights learn, and their first values switch it off: the copy then costs nothing to speak of.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.values = [p.detach().clone() for p in self.parameters]

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the model carries this copy. Nothing is computed or moved: the tensors change places."""
        own = [p.data for p in self.parameters]
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.data = value
        try:
            yield
        finally:
            for parameter, value in zip(self.parameters, own, strict=True):
                parameter.data = value

    @torch.no_grad()
    def follow(self, keep: float) -> None:
        """Move towards the model's weights: keep * copy + (1 - keep) * weights."""
        torch._foreach_lerp_(self.values, [p.data for p in self.parameters], 1 - keep)

    def state(self) -> list[Tensor]:
        return self.values

    @torch.no_grad()
    def load_state(self, values: Sequence[Tensor]) -> None:
        for own, saved in zip(self.values, values, strict=True):
            own.copy_(saved)
