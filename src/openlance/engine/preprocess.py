"""Media at the sizes of the model: frames sampled, cropped and resized for each stream. Inference and training prepare them alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from openlance.media.clip import Clip
from openlance.media.resize import PRESETS, crop_to_multiple, resize_to_bucket, resize_to_multiple
from openlance.media.sample import sample_frame_indices, spread
from openlance.model.config import LanceConfig
from openlance.model.lance import LanceModel
from openlance.model.pixels import usable_frames
from openlance.sequence.segment import Kind


@dataclass(frozen=True)
class Resolution:
    """Areas that media are brought to, as sides of squares in pixels: of the latent stream and of the vision stream."""

    latent: int
    vision: int


@dataclass(frozen=True)
class PreparedMedium:
    """One medium at the model's sizes, uint8 (F, H, W, 3), for each stream that its task feeds."""

    vision: Tensor | None = None
    latent: Tensor | None = None


def prepare_medium(model: LanceModel, clip: Clip, kinds: frozenset[Kind], resolution: Resolution | None = None) -> PreparedMedium:
    """Frames sampled and resized for the streams in `kinds`, each by the model's own rule."""
    media = model.config.media
    stride = model.config.temporal_stride
    if media.resize == "multiple":
        count = usable_frames(min(clip.num_frames, media.max_frames), stride)
        picked = clip.frames[spread(clip.num_frames, count)]
        unit = model.config.spatial_stride
        frames = torch.from_numpy(resize_to_multiple(picked, unit, media.min_side, media.max_side))
        return PreparedMedium(frames if Kind.VISION in kinds else None, frames if Kind.LATENT in kinds else None)
    sides = resolution or preset_resolution(model.config, clip.is_image)
    picked = clip.frames if clip.is_image else clip.frames[sample_frame_indices(clip.num_frames, clip.fps)]
    vision = latent = None
    if Kind.VISION in kinds:
        vision = torch.from_numpy(crop_to_multiple(resize_to_bucket(picked, sides.vision), model.vision.pixel_multiple))
    if Kind.LATENT in kinds:
        latent = torch.from_numpy(resize_to_bucket(picked[: usable_frames(len(picked), stride)], sides.latent))
    return PreparedMedium(vision, latent)


def preset_resolution(config: LanceConfig, image: bool) -> Resolution:
    """The areas of the model's preset for images or for clips."""
    preset = PRESETS[config.media.image_preset if image else config.media.video_preset]
    return Resolution(preset.vae_resolution, preset.vit_resolution)
