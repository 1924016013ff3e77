"""Vision encoder: frames -> tokens of the understanding expert.

The tower is the Qwen2.5-VL vision transformer of the transformers library at any size. Its `pooler_output`
is the merged tokens in raster order (t, h, w); `last_hidden_state` is still in window order and is not used.
What is ours is the way from pixels to patches, because the library's processor needs torchvision.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import LanceError

Grid = tuple[int, int, int]

# Mean and deviation of the CLIP training images, RGB in [0, 1]: part of how the tower was trained, not a setting.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class VisionEncoder(nn.Module):
    """Qwen2.5-VL vision tower with its merger: media of any number and size in, one token tensor per medium out.

    `config` is the plain dictionary of a Qwen2.5-VL `vision_config` (depth, hidden_size, num_heads, ...).
    Keys the library does not know are ignored, as the published file carries some.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
        from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel

        from openlance.model.window_attention import WindowAttention

        known = {name: config[name] for name in Qwen2_5_VLVisionConfig.__dataclass_fields__ if name in config and name != "dtype"}
        settings: Any = Qwen2_5_VLVisionConfig(**known, attn_implementation="sdpa")  # type: ignore[call-arg]
        self.tower = Qwen2_5_VisionTransformerPretrainedModel(settings)
        for block in self.tower.blocks:
            block.attn = WindowAttention(settings)
        self.patch_size = int(settings.patch_size)
        self.merge_size = int(settings.spatial_merge_size)
        self.temporal_patch_size = int(settings.temporal_patch_size)
        self.out_features = int(settings.out_hidden_size)

    @property
    def pixel_multiple(self) -> int:
        """Height and width of a medium must be multiples of this many pixels (28 in the released model)."""
        return self.patch_size * self.merge_size

    def token_grid(self, frames: int, height: int, width: int) -> Grid:
        """Grid (t, h, w) of the tokens that `forward` returns for F frames of H x W pixels, without looking at pixels.

        Raises LanceError if there is no frame or a side is not a multiple of `pixel_multiple`.
        """
        unit = self.pixel_multiple
        if frames < 1 or height < unit or width < unit or height % unit or width % unit:
            raise LanceError(
                f"the vision encoder cannot take {frames} frames of {height}x{width}: "
                f"give at least one frame, with sides cropped to multiples of {unit} pixels"
            )
        return -(-frames // self.temporal_patch_size), height // unit, width // unit

    def patchify(self, frames: Tensor) -> tuple[Tensor, Grid]:
        """Cut frames into normalised patches, in the order the tower's windows and merger expect.

        Parameters
        ----------
        frames: uint8 (F, H, W, 3), already cropped to multiples of `pixel_multiple`. An image is one frame; the last
            frame is repeated until F is a multiple of the temporal patch (2), so an image becomes two equal frames.

        Returns
        -------
        patches float32 (P, 3*T*p*p), ordered (t, h/m, w/m, m, m) with features (channel, T, p, p), and the grid
        (t, h, w) counted in patches, before the merge.
        """
        if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise LanceError(f"frames must be uint8 (F, H, W, 3), not {frames.dtype} {tuple(frames.shape)}")
        t, rows, columns = self.token_grid(frames.shape[0], frames.shape[1], frames.shape[2])
        merge, patch, depth = self.merge_size, self.patch_size, self.temporal_patch_size

        missing = t * depth - frames.shape[0]
        frames = torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)]) if missing else frames
        mean, std = (torch.tensor(values, device=frames.device) for values in (CLIP_MEAN, CLIP_STD))
        pixels = (frames.float() / 255 - mean) / std
        pixels = pixels.reshape(t, depth, rows, merge, patch, columns, merge, patch, 3)
        patches = pixels.permute(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(t * rows * columns * merge**2, -1)
        return patches, (t, rows * merge, columns * merge)

    def forward(self, media: Sequence[tuple[Tensor, Grid]]) -> list[Tensor]:
        """Tokens (t*h*w after the merge, D) of each medium, in the order given; media never see one another.

        `media` holds what `patchify` returned. Runs in the dtype of the weights and on their device.
        """
        if not media:
            return []
        device = self.tower.patch_embed.proj.weight.device
        patches = torch.cat([patches.to(device) for patches, _ in media])
        grids = torch.tensor([grid for _, grid in media], device=device)
        tokens: Tensor = self.tower(patches, grid_thw=grids).pooler_output
        return list(torch.split(tokens, [t * h * w // self.merge_size**2 for _, (t, h, w) in media]))
