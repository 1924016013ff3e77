"""Cases of one encoder alone: the vision tower, and the video autoencoder in both directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from openlance.model.lance import LanceModel
from openlance.verify.golden import Case, Golden


@torch.inference_mode()
def check_vision(golden: Golden, case: Case) -> None:
    """Embeddings, window order and the first blocks' outputs (in window order) of given patches."""
    from transformers.vision_utils import get_vision_window_index

    model = golden.model(case)
    tower = model.vision.tower
    grid = case.tensor("grid_thw")
    grids = [(int(t), int(h), int(w)) for t, h, w in grid]
    patches = torch.split(case.tensor("patches"), [t * h * w for t, h, w in grids])
    blocks = [name for name in case.tensors if name.startswith("block")]
    with _Outputs({name: tower.blocks[int(name[5 : name.index("_")])] for name in blocks}) as outputs:
        embeds = torch.cat(model.vision(list(zip(patches, grids, strict=True))))
    case.compare("embeds", embeds)
    for name in blocks:
        case.compare(name, torch.cat(outputs[name]))
    index, bounds = get_vision_window_index(
        grid, spatial_merge_size=tower.spatial_merge_size, window_size=tower.window_size, patch_size=tower.patch_size
    )
    case.compare("window_index", index)
    case.compare("cu_window_seqlens", torch.unique_consecutive(bounds).tolist())


@torch.inference_mode()
def check_autoencoder(golden: Golden, case: Case) -> None:
    """Latents of given frames (mean, log-variance and the recorded draw), and pixels of given latents."""
    case.given("sample_rule")
    autoencoder = golden.model(case).autoencoder
    case.compare("mean48", autoencoder.latents_mean)
    case.compare("std48", autoencoder.latents_std)
    case.compare("inv_std48_used", 1 / autoencoder.latents_std)
    stats: list[dict[str, Any]] = [{} for _ in case.scalars.get("stats", ())]
    for index in case.numbers("in_u8."):
        mean, log_variance = _encode(autoencoder, case.tensor(f"in_u8.{index}"))
        case.compare(f"mu_normalised_thwc.{index}", mean)
        case.compare(f"logvar_raw_cthw.{index}", log_variance)
        if f"sample_eps_cthw.{index}" in case.tensors:
            draw = mean + ((0.5 * log_variance).exp() * case.tensor(f"sample_eps_cthw.{index}")).permute(1, 2, 3, 0)
            case.compare(f"sampled_thwc.{index}", draw)
        if index < len(stats):
            frames, height, width = case.tensors[f"in_u8.{index}"].shape[:3]
            stats[index] |= {"T": frames, "H": height, "W": width, "lat": list(mean.shape), "mu_std": float(mean.std())}
    for index in case.numbers("dec_latent_thwc."):
        pixels = autoencoder.decode(case.tensor(f"dec_latent_thwc.{index}")[None])[0]
        case.compare(f"dec_pixels_cthw.{index}", pixels)
        if index < len(stats):
            clamped = float((pixels.abs() >= 1).float().mean())
            stats[index] |= {"dec_shape": list(pixels.shape), "dec_std": float(pixels.std()), "dec_frac_clamped": clamped}
    for index, (ours, theirs) in enumerate(zip(stats, case.given("stats", ()), strict=True)):
        for key, value in theirs.items():
            if key in ours:
                case.expect(f"stats.{index}.{key}", ours[key], value)


def _encode(autoencoder: Any, frames: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised mean (t, h, w, C) and raw log-variance (C, t, h, w) of uint8 frames (F, H, W, 3)."""
    with _Outputs({"moments": autoencoder.wan.quant_conv}) as outputs:
        mean = autoencoder.encode(frames)[0]
    moments = torch.cat(outputs["moments"], 2)[0]
    return mean, moments[autoencoder.latent_channels :]


class _Outputs:
    """Collects what modules return while the block runs."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.modules = modules

    def __enter__(self) -> dict[str, list[Tensor]]:
        outputs: dict[str, list[Tensor]] = {name: [] for name in self.modules}
        self.hooks = [module.register_forward_hook(self._keep(outputs[name])) for name, module in self.modules.items()]
        return outputs

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    @staticmethod
    def _keep(into: list[Tensor]) -> Callable[[nn.Module, Any, Any], None]:
        return lambda _module, _inputs, output: into.append(output[0] if isinstance(output, tuple) else output)


def vision_tokens(model: LanceModel, frames: list[Tensor]) -> list[Tensor]:
    """Tokens (n, D) of each medium (F, H, W, 3), encoded together."""
    tokens: list[Tensor] = model.vision([model.vision.patchify(medium) for medium in frames])
    return tokens
