"""Sizes and conventions of a model: plain frozen data, read from and written to config.json.

This is the only file that holds numbers of the released configuration.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openlance.errors import CheckpointError


@dataclass(frozen=True)
class TransformerConfig:
    """The two-expert transformer. Defaults: the released 3B."""

    vocab_size: int = 151936
    hidden_size: int = 2048
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int = 2
    head_dim: int = 128
    intermediate_size: int = 11008
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
    mrope_section: tuple[int, int, int] = (16, 24, 24)
    mrope_interleaved: bool = False
    """Whether every axis gets frequencies from the whole range. The released model gives the fast ones to t and the slow ones to w."""
    rope_inv_freq_dtype: str = "bfloat16"
    """The released code rounds the rotary frequencies to bfloat16; a model of our own uses float32."""
    max_position_embeddings: int = 32768
    """Longest sequence in tokens that a request may build."""


@dataclass(frozen=True)
class AnchorConfig:
    """Modality-aware temporal anchors (MaPE): where kinds of visual tokens sit on the temporal rotary axis."""

    vision: int = 1000
    reference: int = 2000
    understanding: bool = False
    """Whether vision tokens are anchored when no latent follows them: released inference does not, training does."""


@dataclass(frozen=True)
class MediaConfig:
    """How pictures and clips from outside are brought to sizes of the model."""

    resize: str = "bucket"
    """`bucket`: crop and resize to the nearest aspect bucket of the preset. `multiple`: nearest sides that are multiples of 16."""
    image_preset: str = "image_768res"
    video_preset: str = "video_480p"
    min_side: int = 64
    max_side: int = 2048
    """Limits of a side in pixels, for `multiple` and for requested sizes."""
    max_frames: int = 121
    fps: float = 12.0
    """Frames a second of generated clips and of sampled input clips."""
    image_size: tuple[int, int] = (768, 768)
    video_size: tuple[int, int] = (480, 848)
    num_frames: int = 49
    """Default height and width of an image and of a clip, and frames of a clip."""


@dataclass(frozen=True)
class SamplingConfig:
    """Defaults of a request. The released ones: SPEC section 5 (30 steps, shift 3.5, guidance 4 inside (0.4, 1])."""

    num_inference_steps: int = 30
    timestep_shift: float = 3.5
    guidance_scale: float = 4.0
    guidance_interval: tuple[float, float] = (0.4, 1.0)
    guidance_renorm: str = "global"
    guidance_renorm_min: float = 0.0
    solver: str = "euler"
    max_new_tokens: int = 256


@dataclass(frozen=True)
class LanceConfig:
    """Everything that defines a model besides its weights. Defaults: the released 3B."""

    transformer: TransformerConfig = field(default_factory=TransformerConfig)
    anchors: AnchorConfig = field(default_factory=AnchorConfig)
    media: MediaConfig = field(default_factory=MediaConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    vision: dict[str, Any] = field(default_factory=dict)
    """Arguments of the vision encoder (Qwen2.5-VL vision tower)."""
    autoencoder: dict[str, Any] = field(default_factory=dict)
    """Class and arguments of the video autoencoder, with the per-channel `latents_mean` and `latents_std`."""
    latent_channels: int = 48
    spatial_stride: int = 16
    temporal_stride: int = 4
    prediction: str = "velocity"
    """What the flow head predicts: `velocity` (released) or `data` (x-prediction, converted when sampling)."""
    name: str = "lance-3b"

    def latent_grid(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Latent tokens (t, h, w) of `num_frames` frames of height x width pixels."""
        return (num_frames - 1) // self.temporal_stride + 1, height // self.spatial_stride, width // self.spatial_stride

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(self.to_dict(), indent=1) + "\n")

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "LanceConfig":
        """Read a config.json of our own layout. Raises CheckpointError naming unknown keys."""
        config: LanceConfig = _build(cls, values, "config")
        return config

    @classmethod
    def load(cls, path: Path) -> "LanceConfig":
        return cls.from_dict(json.loads(path.read_text()))


def _build(cls: Any, values: dict[str, Any], where: str) -> Any:
    fields = {f.name: f for f in dataclasses.fields(cls)}
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise CheckpointError(f"{where} has unknown keys {unknown}; known: {sorted(fields)}")
    arguments = {}
    for name, value in values.items():
        kind = fields[name].type
        if dataclasses.is_dataclass(kind):
            value = _build(kind, value, f"{where}.{name}")
        elif isinstance(value, list) and not isinstance(fields[name].default, list):
            value = tuple(value)
        arguments[name] = value
    return cls(**arguments)


RELEASED_AUTOENCODER: dict[str, Any] = {
    "dim": 160,
    "dec_dim": 256,
    "z_dim": 48,
    "dim_mult": (1, 2, 4, 4),
    "num_res_blocks": 2,
    "temperal_downsample": (False, True, True),
    "latents_mean": (
        -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
        0.157, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
        -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.123, -0.0313, -0.1649, 0.0117, 0.0723,
        -0.2839, -0.2083, -0.052, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
    ),
    "latents_std": (
        0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.499, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
        0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
        0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
        0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.06, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
    ),
}  # fmt: skip
"""The Wan2.2 autoencoder: its weights are published without a configuration, so what they need is here."""


def published_config(llm: dict[str, Any], vision: dict[str, Any], autoencoder: dict[str, Any], variant: str = "image") -> LanceConfig:
    """The configuration of weights in the published layout from its stock JSON files.

    `llm_config.json` knows nothing of experts, q/k norms or MaPE and claims tied embeddings: those are fixed here.
    """
    autoencoder = {**RELEASED_AUTOENCODER, **autoencoder}
    section = llm.get("rope_scaling", {}).get("mrope_section", (16, 24, 24))
    heads = llm["num_attention_heads"]
    transformer = TransformerConfig(
        vocab_size=llm["vocab_size"],
        hidden_size=llm["hidden_size"],
        num_hidden_layers=llm["num_hidden_layers"],
        num_attention_heads=heads,
        num_key_value_heads=llm["num_key_value_heads"],
        head_dim=llm.get("head_dim", llm["hidden_size"] // heads),
        intermediate_size=llm["intermediate_size"],
        rms_norm_eps=llm["rms_norm_eps"],
        rope_theta=llm["rope_theta"],
        mrope_section=tuple(section),
        max_position_embeddings=llm.get("max_position_embeddings", 32768),
    )
    return LanceConfig(
        transformer=transformer,
        vision=vision,
        autoencoder=autoencoder,
        latent_channels=autoencoder["z_dim"],
        name=f"lance-3b-{variant}",
    )
