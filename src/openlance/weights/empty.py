"""Modules whose weights take no memory yet: what a checkpoint is checked against and, once they have memory, read into."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

M = TypeVar("M", bound=nn.Module)
Held = Callable[[Tensor], tuple[Tensor, int]]
"""Of a weight the rows that this process holds, sharing their memory and without gradients, and the index of the first of them."""


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


def all_rows(weight: Tensor) -> tuple[Tensor, int]:
    """`Held` of a process that holds weights whole."""
    return weight.detach(), 0


def allocate(module: nn.Module, device: str | torch.device, dtype: torch.dtype | None = None) -> None:
    """Give weights without memory their memory on a device, and move all else there; of weights that are split, of the rows held here.

    `dtype`: of all parameters, by default each keeps its own, as buffers do. New memory has no values yet.
    """

    def placed(tensor: Tensor) -> Tensor:
        kind = dtype if dtype is not None and isinstance(tensor, nn.Parameter) else tensor.dtype
        if not tensor.is_meta:
            return tensor.to(device, kind)
        # `empty_like` keeps a tensor split, but without memory makes the library import its compiler, as above.
        plain = type(tensor) in (Tensor, nn.Parameter)
        return torch.empty(tensor.shape, dtype=kind, device=device) if plain else torch.empty_like(tensor, dtype=kind, device=device)

    # As `to_empty` does it, which would lose the values of buffers; split modules take note of what it changes.
    module._apply(placed)  # type: ignore[no-untyped-call]


@contextmanager
def stand_ins(module: nn.Module) -> Iterator[None]:
    """Inside, zeros in host memory that take none of it are in the place of weights without memory: for code that looks where they are."""
    held = [(owner, leaf, p) for owner in module.modules() for leaf, p in owner.named_parameters(recurse=False) if p.is_meta]
    for owner, leaf, weight in held:
        setattr(owner, leaf, nn.Parameter(torch.zeros((), dtype=weight.dtype).expand(weight.shape), requires_grad=False))
    try:
        yield
    finally:
        for owner, leaf, weight in held:
            setattr(owner, leaf, weight)


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
