"""The dense layer of the transformer: what a row gives depends neither on the rows beside it nor on the number of threads."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLOCK = 16 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4
"""Rows that a float32 product on a processor has a multiple of, while it has fewer than MANY. MKL sums few rows in another order than
the same rows of a larger product: with AVX2 one to three, also as the rest of a thread's share, with AVX512 up to 15. All else
measured is equal bit for bit (`tests/model/test_linear.py`)."""
MANY = 64


class Linear(nn.Linear):
    """`nn.Linear` of rows (S, inputs) that computes few rows as part of more, so that a request gives the same numbers alone and beside
    others, with gradients and without.
    """

    def forward(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        whole = rows >= MANY or rows % BLOCK == 0 or x.dim() != 2
        if whole or x.dtype != torch.float32 or x.device.type != "cpu":
            return F.linear(x, self.weight, self.bias)
        return F.linear(F.pad(x, (0, 0, 0, -rows % BLOCK)), self.weight, self.bias)[:rows]
