"""Modules whose weights take no memory yet: what a checkpoint is checked against, and then read into."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)


class _Unallocated(TorchFunctionMode):
    """Tensors made by `torch.empty`, as the weights of layers are, take no memory. Anything computed is real.

    `torch.device("meta")` would also swallow buffers that are computed once and stored in no file, such as rotary frequencies.
    First values of weights are not drawn: a draw without memory makes the library import its compiler, which takes a second.
    """

    DRAWS = (torch.nn.init.normal_, torch.nn.init.uniform_, torch.nn.init.kaiming_uniform_, Tensor.normal_, Tensor.uniform_)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.empty and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        if func in self.DRAWS:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **kwargs)


def build_empty(build: Callable[[], M]) -> M:
    """The module that `build` makes, with weights that take no memory yet and with real buffers."""
    with _Unallocated():
        return build()


def outline(shapes: Mapping[str, tuple[int, ...]]) -> nn.Module:
    """A module that has nothing but parameters of these dotted names and shapes, without memory, and the modules in between."""
    whole = nn.Module()
    for name, shape in shapes.items():
        owner, _, leaf = name.rpartition(".")
        module = whole
        for part in filter(None, owner.split(".")):
            if part not in module._modules:
                module.add_module(part, nn.Module())
            module = module.get_submodule(part)
        module.register_parameter(leaf, nn.Parameter(torch.empty(shape, device="meta"), requires_grad=False))
    return whole
