"""The weights a new model starts from."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import cast

import torch

from openlance.model.lance import LanceModel
from openlance.model.linear import Linear
from openlance.model.mot import Layer
from openlance.weights.empty import Held, all_rows

EMBEDDING_STD = 0.3


@torch.no_grad()
def initialise(model: LanceModel, seed: int, held: Held = all_rows) -> None:
    """Fill the weights of a new model, of each the rows that are held. Those of norms are ones already.

    One weight at a time is drawn whole, so that values do not depend on how the model is split.

    Products that enter a layer keep the variance, those that leave it are scaled down with depth so that the stream grows slowly;
    the flow head and the vocabulary head start at zero: the first prediction is the mean of the data, and no token is preferred.
    """
    generator = torch.Generator().manual_seed(seed)
    depth = len(model.transformer.layers)

    def normal(weight: torch.Tensor, std: float) -> None:
        rows, first = held(weight)
        rows.copy_(torch.randn(weight.shape, generator=generator).mul_(std)[first : first + len(rows)])

    def zeros(weight: torch.Tensor) -> None:
        held(weight)[0].zero_()

    for layer in cast(Iterable[Layer], model.transformer.layers):
        for expert in (layer.understanding, layer.generation):
            for product in (expert.qkv, expert.gate_up):
                normal(product.weight, product.in_features**-0.5)
            for product in (expert.output, expert.down):
                normal(product.weight, product.in_features**-0.5 / math.sqrt(2 * depth))
            zeros(expert.qkv.bias)
    normal(model.embedding.weight, EMBEDDING_STD)
    zeros(model.head.weight)
    for product in (model.latent.input, *(part for part in model.latent.time if isinstance(part, Linear))):
        normal(product.weight, product.in_features**-0.5)
        zeros(product.bias)
    zeros(model.latent.output.weight)
    zeros(model.latent.output.bias)
