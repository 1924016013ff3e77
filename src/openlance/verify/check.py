"""Checks: what kind of quantity a name stands for, how far it may be off, and by how much it is."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

EXACT = 0.0


@dataclass(frozen=True)
class Quantity:
    """A kind of number: the `tolerance` is absolute; 0 means every value must be equal."""

    label: str
    tolerance: float
    pattern: str
    """Of tensor and scalar names, matched whole."""
    guided: bool = False
    """Whether it depends on what guidance drops, so that a `quirk_*` case may differ on purpose."""


QUANTITIES = (
    Quantity("token ids", EXACT, r"uncond_input_ids|uncond_len|modality", guided=True),
    Quantity("segments", EXACT, r"(uncond_)?split_lens|(uncond_)?attn_modes", guided=True),
    Quantity("positions", EXACT, r"uncond_position_ids|kv_uncond_context_segments_with_cond_positions", guided=True),
    Quantity("masks", EXACT, r"uncond_attention_mask", guided=True),
    Quantity("token ids", EXACT, r"input_ids(_full)?|prompt_ids|prompt_len|prompt_text|label_ids|\w+_indexes|sample_task"),
    Quantity("segments", EXACT, r"sample_lens|sample_type|sequence_length|samples\..*"),
    Quantity("segments", EXACT, r"noise_rows_in_vae_tokens|video_sizes|video_grid_thw|vae_latent_shapes|cfg_applied_per_step"),
    Quantity("positions", EXACT, r"position_ids\w*|latent_position_ids|latent_pos_index\w*"),
    Quantity("masks", EXACT, r"attention_mask"),
    Quantity("frame indices", EXACT, r"frames\..*"),
    Quantity("pixels", EXACT, r".*_u8(\.\d+)?"),
    Quantity("vision patches", 2e-4, r"vit\.patches\w*|vit\.grid_thw|vit_patches_\w+"),
    Quantity("vision tokens", 2e-4, r"(vit\.)?embeds|block\d+_out_window_order"),
    Quantity("vision tokens", EXACT, r"window_index|cu_window_seqlens"),
    Quantity("latents", 2e-4, r"vae\..*latent.*|vae_latent\.\d+|clean_latent|noisy_latent|mu_\w+\.\d+|logvar_\w+\.\d+|sampled_\w+\.\d+"),
    Quantity("latents", 2e-4, r"(mean|std|inv_std)48\w*|stats\..*"),
    Quantity("noise", 2e-4, r"noise|x_init_all_vae_tokens"),
    Quantity("times", 1e-6, r"timesteps\w*|timestep_per_vae_token\w*|schedules\..*"),
    Quantity("hidden states", 5e-4, r"lm\..*", guided=True),
    Quantity("velocities", 5e-4, r"step\d+\.v\w*|renorm_scale_mean_per_step", guided=True),
    Quantity("latents of steps", 5e-4, r"step\d+\.x_next", guided=True),
    Quantity("final latents", 5e-4, r"final_latent\.\d+|engine\.latents|latent_abs_max", guided=True),
    Quantity("shipped cache", 5e-4, r"kv\..*|kv_(vs_full|step0_v(un)?cond|with_corrected\w*)_max_abs_diff\w*", guided=True),
    Quantity("decoded pixels", 5e-4, r"decoded|dec_pixels\w*\.\d+", guided=True),
    Quantity("frames of 0..255", 1.0, r"engine\.frames", guided=True),
    Quantity("logits", 1e-4, r"logits|top2_margin_min|kv_vs_full_logits_max_abs_diff"),
    Quantity("generated ids", EXACT, r"generated_ids|engine\.ids|generated_text|nocache_generated_same"),
    Quantity("losses", 1e-4, r"ce|mse|loss|ce_mean|mse_mean|ce_loss_weights|total_mse_tokens"),
    Quantity("gradient norms", 1e-4, r"grad\..*|params_without_grad"),
    Quantity("preprocessed", 2e-4, r"v\w\w_first_rows\.\d+|\w+\.vae\d+"),
    Quantity("buckets", EXACT, r"presets\..*|bucket_choice\w*(\..*)?|inputs(\..*)?|vit_image_tensor_shape\w*|vit_T0_equals_T1"),
    Quantity("tokenizer", EXACT, r"tokenizer\..*|special_ids|len_tokenizer|pad_token_id|vocab_size\w*|eos_token_id"),
    Quantity("tensor names", EXACT, r"state_dict_keys|vit_keys"),
    Quantity("embeddings", 2e-4, r"time_\w+|latent_pos_embed\w*(\..*)?"),
)
"""First match decides. Ids, positions, masks and frames are exact; float32 tolerances are those of the published parity target."""

OTHER = Quantity("other", EXACT, r".*")


def quantity_of(name: str) -> Quantity:
    """The kind of quantity that a tensor or scalar of a case is."""
    return next((quantity for quantity in QUANTITIES if re.fullmatch(quantity.pattern, name)), OTHER)


@dataclass(frozen=True)
class Check:
    """One compared quantity. `status`: `pass`, `fail`, or `intended` where ours differs on purpose."""

    name: str
    label: str
    error: float
    tolerance: float
    count: int
    status: str
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        values = asdict(self)
        values["error"] = self.error if math.isfinite(self.error) else str(self.error)
        return values


def compare(name: str, ours: Any, theirs: Any, quirk: bool = False) -> Check:
    """The check of `name`. Tensors compare by their largest absolute error (integers: 1 where any differs), everything else by equality.

    Floats and lists of floats count as tensors. `quirk`: a difference behind guidance is intended.
    """
    quantity = quantity_of(name)
    error, count, note = _distance(ours, theirs, quantity.tolerance)
    status = "pass" if error <= quantity.tolerance else ("intended" if quirk and quantity.guided else "fail")
    return Check(name, quantity.label, error, quantity.tolerance, count, status, note)


def _distance(ours: Any, theirs: Any, tolerance: float) -> tuple[float, int, str]:
    if isinstance(ours, Tensor) or isinstance(theirs, Tensor) or _floats(theirs):
        left, right = torch.as_tensor(ours).detach().cpu(), torch.as_tensor(theirs)
        if left.shape != right.shape:
            return math.inf, right.numel(), f"shape {list(left.shape)} instead of {list(right.shape)}"
        if not left.is_floating_point() and tolerance == EXACT:
            different = int((left.long() != right.long()).sum())
            return float(different > 0), right.numel(), f"{different} of {right.numel()} differ" if different else ""
        difference = (left.double() - right.double()).abs()
        error = float(difference.max()) if difference.numel() else 0.0
        return (error, right.numel(), "") if math.isfinite(error) else (math.inf, right.numel(), "not finite")
    equal = _plain(ours) == _plain(theirs)
    size = len(theirs) if hasattr(theirs, "__len__") else 1
    return float(not equal), size, "" if equal else f"{_short(ours)} instead of {_short(theirs)}"


def _floats(value: Any) -> bool:
    if isinstance(value, float):
        return True
    return isinstance(value, list) and bool(value) and any(isinstance(item, float) for item in value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return {key: _plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
