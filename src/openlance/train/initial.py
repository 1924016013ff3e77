"""The weights a new model starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch
from torch import nn

from openlance.model.lance import LanceModel
from openlance.model.linear import Linear
from openlance.model.mot import Layer

EMBEDDING_STD = 0.3


@torch.no_grad()
def initialise(model: LanceModel, seed: int) -> None:
    """Fill all weights of a new model.

    Products that enter a layer keep the variance, those that leave it are scaled down with depth so that the stream grows slowly;
    the flow head and the vocabulary head start at zero: the first prediction is the mean of the data, and no token is preferred.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = len(model.transformer.layers)

    def normal(weight: torch.Tensor, std: float) -> None:
        weight.copy_(torch.randn(weight.shape, generator=generator) * std)

    for layer in cast(Iterable[Layer], model.transformer.layers):
        for expert in (layer.understanding, layer.generation):
            for product in (expert.qkv, expert.gate_up):
                normal(product.weight, product.in_features**-0.5)
            for product in (expert.output, expert.down):
                normal(product.weight, product.in_features**-0.5 / math.sqrt(2 * depth))
            nn.init.zeros_(expert.qkv.bias)
    normal(model.embedding.weight, EMBEDDING_STD)
    nn.init.zeros_(model.head.weight)
    for product in (model.latent.input, *(part for part in model.latent.time if isinstance(part, Linear))):
        normal(product.weight, product.in_features**-0.5)
        nn.init.zeros_(product.bias)
    nn.init.zeros_(model.latent.output.weight)
    nn.init.zeros_(model.latent.output.bias)
