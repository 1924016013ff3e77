"""Compiling the layers for training: one graph a shape, shared by all layers. On a CPU the kernels of kernels.py serve better now."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch

from openlance.model.lance import LanceModel
from openlance.model.mot import Layer

MOST_SHAPES = 64
"""Shapes of batches to compile for; beyond them layers run uncompiled."""


def compile_layers(model: LanceModel) -> bool:
    """Replace the forward of every layer by a compiled one. False, with a notice, where there is no C++ compiler to do it with.

    Measured on one core: see benchmarks/train_step.py.
    """
    if model.device.type == "cpu" and not any(map(shutil.which, ("g++", "clang++", "c++"))):
        print("no C++ compiler: layers run uncompiled, which is slower", file=sys.stderr)
        return False
    torch._dynamo.config.recompile_limit = MOST_SHAPES
    compiled = torch.compile(_forward, dynamic=False)
    for layer in cast(Iterable[Layer], model.transformer.layers):
        setattr(layer, "forward", partial(_without_index, compiled, layer))  # noqa: B010
    return True


def _forward(layer: Layer, *inputs: Any) -> Any:
    """The layer's own forward. Its index matters only to a context, which training has not, so one graph serves all layers."""
    return Layer.forward(layer, 0, *inputs)


def _without_index(compiled: Callable[..., Any], layer: Layer, index: int, *inputs: Any) -> Any:
    return compiled(layer, *inputs)
