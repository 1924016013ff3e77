"""Activation checkpointing: a layer keeps what enters it and computes the rest again on the way back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextvars import copy_context
from functools import partial
from typing import Any, cast

import torch
from torch.utils.checkpoint import checkpoint

from openlance.model.lance import LanceModel
from openlance.model.mot import Layer


def recompute_layers(model: LanceModel) -> None:
    """Let every layer forget its activations. After `compile_layers`, whose forward is then what runs twice; hooks of a split model, which
    put the weights of a layer together, stay around it.
    """
    for layer in cast(Iterable[Layer], model.transformer.layers):
        setattr(layer, "forward", partial(_recomputed, layer.forward))  # noqa: B010


def _recomputed(forward: Callable[..., Any], *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    # Layers draw nothing at random: there is no state of a generator to bring back.
    # Which operations are used is a setting of the context (`plain_operations`), which the way back has left.
    return checkpoint(copy_context().run, forward, *inputs, use_reentrant=False, preserve_rng_state=False)
