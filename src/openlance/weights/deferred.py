"""A vision encoder in memory whose code is imported with the first picture it looks at.

Reading the weights needs names and shapes only; importing the library that computes with them takes longer than all the rest of
a load, and a model that draws from text never needs it.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from openlance.errors import LanceError
from openlance.model.vision import VisionEncoder
from openlance.weights.empty import build_empty, outline
from openlance.weights.names import VISION_DEFAULTS, vision_shapes


class DeferredVision(VisionEncoder):
    """A `VisionEncoder` with the same parameters under the same names, whose `tower` is built when it is first asked for.

    Until then its modules hold parameters and nothing else: it can be filled, moved, saved, and asked for sizes and patches.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        sizes = {**VISION_DEFAULTS, **config}
        _check(config, sizes)
        self.config = dict(config)
        self.patch_size = int(sizes["patch_size"])
        self.merge_size = int(sizes["spatial_merge_size"])
        self.temporal_patch_size = int(sizes["temporal_patch_size"])
        self.out_features = int(sizes["out_hidden_size"])
        self._modules["tower"] = outline(vision_shapes(config))

    @property
    def tower(self) -> Any:  # type: ignore[override]
        """The tower, ready to compute, with the very parameters held so far."""
        held = self._modules["tower"]
        if type(held) is nn.Module:
            held = self._modules["tower"] = self._built(held)
        return held

    def _built(self, held: nn.Module) -> nn.Module:
        with torch.inference_mode(False):  # a buffer made within would refuse a later training
            tower: nn.Module = build_empty(lambda: VisionEncoder(self.config)).tower
            parameters = dict(held.named_parameters())
            for name, parameter in tower.named_parameters():
                parameter.requires_grad_(parameters[name].requires_grad)
            tower.load_state_dict(parameters, assign=True)
            device = next(iter(parameters.values())).device
            for buffer in tower.buffers():
                buffer.data = buffer.data.to(device)
        return tower.train(self.training)


def _check(config: Mapping[str, Any], sizes: Mapping[str, Any]) -> None:
    """What no tensor's shape tells: the library would fail, or answer wrongly, with the first picture."""
    for name in ("depth", "hidden_size", "num_heads", "patch_size", "spatial_merge_size", "window_size"):
        if not isinstance(sizes[name], int) or sizes[name] < 1:
            raise LanceError(f"vision.{name} {sizes[name]!r} must be a whole number above 0")
    width, heads, depth = sizes["hidden_size"], sizes["num_heads"], sizes["depth"]
    if width % (4 * heads):
        raise LanceError(f"vision.num_heads {heads} must divide hidden_size {width} into heads of a multiple of 4: two axes are rotated")
    unit = sizes["patch_size"] * sizes["spatial_merge_size"]
    if sizes["window_size"] < unit:
        raise LanceError(f"vision.window_size {sizes['window_size']} must be at least {unit} px, the side of one token")
    beyond = [index for index in config.get("fullatt_block_indexes", ()) if not (isinstance(index, int) and 0 <= index < depth)]
    if beyond:
        raise LanceError(f"vision.fullatt_block_indexes {beyond} name no block: the tower has blocks 0 to {depth - 1}")
