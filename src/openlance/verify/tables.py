"""Cases that are tables: tokenizer, schedules, embeddings, tensor names, buckets, frame sampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from openlance.flow.path import timesteps
from openlance.media.clip import Clip
from openlance.media.resize import ASPECT_RATIOS, PRESETS, buckets, crop_box, crop_to_multiple, nearest_bucket, resize_to_bucket
from openlance.media.sample import sample_frame_indices
from openlance.model.lance import LanceModel
from openlance.model.latent import place_embedding, time_frequencies
from openlance.model.pixels import to_pixels
from openlance.model.vision import CLIP_MEAN, CLIP_STD
from openlance.verify.golden import Case, Golden

DEFAULT_LATENT_SIDE = 64
"""Side of the released place table, in latent tokens, where the folder's spec.json does not say."""


@torch.inference_mode()
def check_tables(golden: Golden, case: Case) -> None:
    """Tokenizer, schedules, tensor names and the two fixed embeddings."""
    model, tokenizer = golden.model(case), golden.binder.tokenizer
    for index, row in enumerate(case.given("tokenizer", ())):
        case.expect(f"tokenizer.{index}.ids", list(tokenizer.encode_template(row["text"])), row["ids"])
        case.expect(f"tokenizer.{index}.decoded", tokenizer.decode(row["ids"]), row["decoded"])
    case.compare("special_ids", {name: tokenizer.special.get(name) for name in case.scalars.get("special_ids", {})})
    case.compare("pad_token_id", tokenizer.special.get("<|endoftext|>"))
    case.compare("len_tokenizer", len(tokenizer))
    case.compare("vocab_size_config", model.config.transformer.vocab_size)
    for name, times in case.given("schedules", {}).items():
        steps, shift = name.split("_")
        case.expect(f"schedules.{name}", timesteps(int(steps), float(shift)), times)
    _compare_names(case, model)
    if "t" in case.tensors:
        frequencies = time_frequencies(case.tensor("t"))
        case.compare("time_freq", frequencies)
        case.compare("time_embed", model.latent.time(frequencies))
    _compare_places(golden, case, model)


def _compare_names(case: Case, model: LanceModel) -> None:
    """Published names and shapes, as the weight table of this package knows them."""
    from openlance.weights.export import published_tensors
    from openlance.weights.names import IGNORED, transformer_slots, vision_slots

    language = published_tensors(model, transformer_slots(model.config.transformer))
    recorded = case.scalars.get("state_dict_keys", {})
    fixed = {name: shape for name, shape in recorded.items() if name in IGNORED}
    case.compare("state_dict_keys", {name: list(tensor.shape) for name, tensor in language.items()} | fixed)
    tower = published_tensors(model.vision, vision_slots(model.vision.state_dict()))
    case.compare("vit_keys", {name: list(tensor.shape) for name, tensor in tower.items()})


def _compare_places(golden: Golden, case: Case, model: LanceModel) -> None:
    """The place embedding at the flat indices of the released table, which wraps coordinates beyond its side; and samples of the table."""
    width = model.config.transformer.hidden_size
    side = golden.spec.get("max_latent_size", DEFAULT_LATENT_SIDE)
    case.given("latent_pos_note")
    for name in [name for name in case.tensors if name.startswith("latent_pos_index")]:
        index = case.tensors[name]
        t, h, w = (int(part[1:]) for part in name.split("_")[-3:])
        grid = torch.meshgrid(*(torch.arange(n) for n in (t, h, w)), indexing="ij")
        case.compare(name, flat_place(torch.stack(grid).flatten(1), side))
        case.compare("latent_pos_embed_wide", place_embedding(unfold_place(index, side), width))
    path = golden.folder / "latent_pos_embed_sample.safetensors"
    if path.exists():
        from safetensors.torch import load_file

        sample = load_file(path)
        case.expect("latent_pos_embed.values", place_embedding(unfold_place(sample["rows"], side), width), sample["values"])
        rows = int(sample["shape"][0])
        parts = torch.split(torch.arange(rows), 4096)
        total = sum(float(place_embedding(unfold_place(part, side), width).double().sum()) for part in parts)
        case.expect("latent_pos_embed.mean", total / (rows * width), float(sample["sum"]) / (rows * width))


def flat_place(coordinates: Tensor, side: int) -> Tensor:
    """Row (S,) of the released place table for coordinates (3, S)."""
    return coordinates[0] * side**2 + coordinates[1] * side + coordinates[2]


def unfold_place(index: Tensor, side: int) -> Tensor:
    """Coordinates (3, S) of rows of the released place table."""
    return torch.stack([index // side**2, index // side % side, index % side])


def check_frame_sampling(golden: Golden, case: Case) -> None:
    """Which frames of a video are looked at."""
    for row in case.given("rows", ()):
        total, fps = row["total_frames"], row["fps"]
        name, ours = f"frames.{total}_at_{fps}", sample_frame_indices(total, fps)
        if isinstance(row["indices"], str):
            case.differs(name, f"{ours}, where the reference fails: {row['indices']}")
        else:
            case.expect(name, ours, row["indices"])
    case.seen.add("dummy")


def check_transforms(golden: Golden, case: Case) -> None:
    """Buckets, crops and resized pixels of both streams."""
    unit = golden.model(case).vision.pixel_multiple
    for name, recorded in case.given("presets", {}).items():
        for key, value in _preset(name, unit).items():
            if key in recorded:
                case.expect(f"presets.{name}.{key}", value, recorded[key])
    for choice in [name for name in case.scalars if name.startswith("bucket_choice_")]:
        for row in case.given(choice):
            bucket = nearest_bucket(row["h"], row["w"], int(choice.rsplit("_", 1)[1]))
            ours = {"bucket_hw": bucket, "crop_top_left_h_w": crop_box(row["h"], row["w"], *bucket)}
            case.expect(f"{choice}.{row['h']}x{row['w']}", ours, {key: row[key] for key in ours})
    latent, vision = case.given("vae_resolution"), case.given("vit_resolution")
    recorded = case.given("inputs", ())
    for index in case.numbers("in."):
        frames = case.tensor(f"in.{index}").numpy()
        vae = resize_to_bucket(frames, latent)
        vit = crop_to_multiple(resize_to_bucket(frames, vision), unit)
        case.compare(f"vae_u8.{index}", torch.from_numpy(vae))
        case.compare(f"vit_u8.{index}", torch.from_numpy(vit))
        case.compare(f"vae_first_rows.{index}", to_pixels(torch.from_numpy(vae))[0, :, 0, :2])
        case.compare(f"vit_first_rows.{index}", _clip_normalised(vit)[:, 0, :2])
        shape = {"h": frames.shape[1], "w": frames.shape[2], "frames": len(frames)}
        shape |= {"vae_out": [3, len(vae), *vae.shape[1:3]], "vit_out": [3, len(vit), *vit.shape[1:3]]}
        if index < len(recorded):
            case.expect(f"inputs.{index}", shape, recorded[index])
        patches, _ = golden.model(case).vision.patchify(torch.from_numpy(vit))
        pairs = patches.unflatten(1, (3, golden.model(case).vision.temporal_patch_size, -1))
        case.compare("vit_T0_equals_T1", bool((pairs[:, :, 0] == pairs[:, :, -1]).all()))
    for name in [name for name in case.tensors if name.endswith(".in")]:
        clip = Clip.from_image(case.tensor(name).numpy())
        for result in [other for other in case.tensors if other.startswith(f"{name.removesuffix('.in')}.vae")]:
            resolution = int(result.rsplit("vae", 1)[1])
            case.compare(result, to_pixels(torch.from_numpy(resize_to_bucket(clip.frames, resolution)))[0])


def _preset(name: str, unit: int) -> dict[str, Any]:
    preset = PRESETS[name]
    vision = buckets(preset.vit_resolution)
    return {
        "vae_resolution": preset.vae_resolution,
        "vit_resolution": preset.vit_resolution,
        "vae_buckets_hw": buckets(preset.vae_resolution),
        "vit_buckets_hw_before_crop": vision,
        "vit_hw_after_crop28": [[h // unit * unit, w // unit * unit] for h, w in vision],
        "aspect_ratios_w_h": [f"{wide}:{high}" for wide, high in ASPECT_RATIOS],
    }


def _clip_normalised(frames: Any) -> Tensor:
    """(3, F, H, W) of uint8 (F, H, W, 3) with the mean and deviation of the vision encoder."""
    pixels = (torch.from_numpy(np.asarray(frames)).float() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(CLIP_STD)
    return pixels.permute(3, 0, 1, 2)
