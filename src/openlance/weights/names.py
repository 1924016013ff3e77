"""Released tensor names and where their rows live in our model. The only file that knows them.

Everything is written from our side: a name of ours, and the published tensors whose rows, one below the other, make it up.
Reading follows the table forwards, exporting follows it backwards.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from openlance.model.config import TransformerConfig


@dataclass(frozen=True)
class Slot:
    """A published tensor `name` fills rows [start, start + rows) of our tensor `target`; `rows` None means all of it."""

    name: str
    target: str
    start: int = 0
    rows: int | None = None


IGNORED = frozenset({"latent_pos_embed.pos_embed"})
"""Published tensors that are no weights: the place embedding is a fixed table, computed from coordinates here."""

EXPERTS = {"understanding": "", "generation": "_moe_gen"}
"""Our name of an expert: the published suffix {e}."""

LAYER = {
    "input_norm.weight": ("input_layernorm{e}.weight",),
    "qkv.weight": ("self_attn.q_proj{e}.weight", "self_attn.k_proj{e}.weight", "self_attn.v_proj{e}.weight"),
    "qkv.bias": ("self_attn.q_proj{e}.bias", "self_attn.k_proj{e}.bias", "self_attn.v_proj{e}.bias"),
    "q_norm.weight": ("self_attn.q_norm{e}.weight",),
    "k_norm.weight": ("self_attn.k_norm{e}.weight",),
    "output.weight": ("self_attn.o_proj{e}.weight",),
    "mlp_norm.weight": ("post_attention_layernorm{e}.weight",),
    "gate_up.weight": ("mlp{e}.gate_proj.weight", "mlp{e}.up_proj.weight"),
    "down.weight": ("mlp{e}.down_proj.weight",),
}
"""One expert's tensors in one layer."""

TOP = {
    "embedding.weight": "language_model.model.embed_tokens.weight",
    "transformer.norm_understanding.weight": "language_model.model.norm.weight",
    "transformer.norm_generation.weight": "language_model.model.norm_moe_gen.weight",
    "head.weight": "language_model.lm_head.weight",
    "latent.input.weight": "vae2llm.weight",
    "latent.input.bias": "vae2llm.bias",
    "latent.output.weight": "llm2vae.weight",
    "latent.output.bias": "llm2vae.bias",
    "latent.time.0.weight": "time_embedder.mlp.0.weight",
    "latent.time.0.bias": "time_embedder.mlp.0.bias",
    "latent.time.2.weight": "time_embedder.mlp.2.weight",
    "latent.time.2.bias": "time_embedder.mlp.2.bias",
}

AUTOENCODER = (
    (r"^wan\.quant_conv\.", r"conv1."),
    (r"^wan\.post_quant_conv\.", r"conv2."),
    (r"^wan\.(encoder|decoder)\.conv_in\.", r"\1.conv1."),
    (r"^wan\.(encoder|decoder)\.norm_out\.", r"\1.head.0."),
    (r"^wan\.(encoder|decoder)\.conv_out\.", r"\1.head.2."),
    (r"^wan\.(encoder|decoder)\.mid_block\.resnets\.0\.", r"\1.middle.0.residual."),
    (r"^wan\.(encoder|decoder)\.mid_block\.attentions\.0\.", r"\1.middle.1."),
    (r"^wan\.(encoder|decoder)\.mid_block\.resnets\.1\.", r"\1.middle.2.residual."),
    (r"^wan\.encoder\.down_blocks\.(\d+)\.resnets\.(\d+)\.", r"encoder.downsamples.\1.downsamples.\2.residual."),
    (r"^wan\.encoder\.down_blocks\.(\d+)\.downsampler\.", r"encoder.downsamples.\1.downsamples.{resnets}."),
    (r"^wan\.decoder\.up_blocks\.(\d+)\.resnets\.(\d+)\.", r"decoder.upsamples.\1.upsamples.\2.residual."),
    (r"^wan\.decoder\.up_blocks\.(\d+)\.upsampler\.", r"decoder.upsamples.\1.upsamples.{resnets}."),
    (r"\.residual\.norm1\.", r".residual.0."),
    (r"\.residual\.conv1\.", r".residual.2."),
    (r"\.residual\.norm2\.", r".residual.3."),
    (r"\.residual\.conv2\.", r".residual.6."),
    (r"\.residual\.conv_shortcut\.", r".shortcut."),
)
"""Wan2.2 names out of those of diffusers, applied in order. {resnets}: the resampling layer comes after the block's residual layers."""


VISION_DEFAULTS = {
    "depth": 32,
    "hidden_size": 3584,
    "intermediate_size": 3420,
    "in_channels": 3,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 3584,
    "num_heads": 16,
    "window_size": 112,
}
"""Sizes of the vision tower where its configuration names none, as the transformers library has them."""


def vision_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the vision tower's tensors out of its configuration, in the order of the published file."""
    size = {**VISION_DEFAULTS, **config}
    width, hidden = size["hidden_size"], size["intermediate_size"]
    merged = width * size["spatial_merge_size"] ** 2
    block = {
        "norm1.weight": (width,),
        "norm2.weight": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "mlp.gate_proj.weight": (hidden, width),
        "mlp.gate_proj.bias": (hidden,),
        "mlp.up_proj.weight": (hidden, width),
        "mlp.up_proj.bias": (hidden,),
        "mlp.down_proj.weight": (width, hidden),
        "mlp.down_proj.bias": (width,),
    }
    return {
        "patch_embed.proj.weight": (width, size["in_channels"], size["temporal_patch_size"], size["patch_size"], size["patch_size"]),
        **{f"blocks.{index}.{name}": shape for index in range(size["depth"]) for name, shape in block.items()},
        "merger.ln_q.weight": (width,),
        "merger.mlp.0.weight": (merged, merged),
        "merger.mlp.0.bias": (merged,),
        "merger.mlp.2.weight": (size["out_hidden_size"], merged),
        "merger.mlp.2.bias": (size["out_hidden_size"],),
    }


def transformer_slots(config: TransformerConfig) -> list[Slot]:
    """Slots of the language model, flow head and time embedding: everything published in model.safetensors."""
    width, groups = config.head_dim, config.num_key_value_heads
    parts = {"qkv": [config.num_attention_heads * width, groups * width, groups * width], "gate_up": [config.intermediate_size] * 2}
    slots = [Slot(name, target) for target, name in TOP.items()]
    for layer in range(config.num_hidden_layers):
        for expert, suffix in EXPERTS.items():
            for ours, names in LAYER.items():
                target = f"transformer.layers.{layer}.{expert}.{ours}"
                published = [f"language_model.model.layers.{layer}.{name.format(e=suffix)}" for name in names]
                if len(published) == 1:
                    slots.append(Slot(published[0], target))
                    continue
                start = 0
                for name, rows in zip(published, parts[ours.split(".")[0]], strict=True):
                    slots.append(Slot(name, target, start, rows))
                    start += rows
    return slots


def vision_slots(names: Iterable[str]) -> list[Slot]:
    """Slots of the vision encoder, out of its own tensor names."""
    return [Slot(name.removeprefix("tower."), name) for name in names]


def autoencoder_slots(names: Iterable[str]) -> list[Slot]:
    """Slots of the Wan2.2 autoencoder, out of its own tensor names (those of diffusers)."""
    names = list(names)
    slots = []
    for ours in names:
        block = re.match(r"wan\.\w+\.(?:down|up)_blocks\.\d+\.", ours)
        resnets = len({name.split(".")[5] for name in names if block and name.startswith(block[0] + "resnets.")})
        published = ours
        for pattern, replacement in AUTOENCODER:
            published = re.sub(pattern, replacement.replace("{resnets}", str(resnets)), published)
        slots.append(Slot(published, ours))
    return slots
