"""The table of released names: complete, without overlap, and equal to the published list."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openlance.model.config import LanceConfig, TransformerConfig, published_config
from openlance.weights.load import build_empty, build_model
from openlance.weights.names import IGNORED, autoencoder_slots, transformer_slots, vision_slots


@pytest.fixture(scope="module")
def empty(golden_dir: Path):
    read = lambda name: json.loads((golden_dir / name).read_text())  # noqa: E731
    return build_empty(lambda: build_model(published_config(read("llm_config.json"), read("vit_config.json"), read("vae_config.json"))))


def shape(module, slot):
    target = module.state_dict()[slot.target]
    return [slot.rows, *target.shape[1:]] if slot.rows else list(target.shape)


def test_language_model_names_equal_the_published_list(empty, golden):
    published = {name: size for name, size in golden("misc")["state_dict_keys"].items() if name not in IGNORED}
    assert {slot.name: shape(empty, slot) for slot in transformer_slots(empty.config.transformer)} == published


def test_vision_names_equal_the_published_list(empty, golden):
    assert {slot.name: shape(empty.vision, slot) for slot in vision_slots(empty.vision.state_dict())} == golden("misc")["vit_keys"]


def test_autoencoder_names_equal_the_original_file(empty, golden_dir):
    published = {name: list(tensor.shape) for name, tensor in load_file(golden_dir / "vae.safetensors").items()}
    assert {slot.name: shape(empty.autoencoder, slot) for slot in autoencoder_slots(empty.autoencoder.state_dict())} == published


def test_the_released_model_has_1021_tensors():
    assert len(transformer_slots(TransformerConfig())) + len(IGNORED) == 1021


def test_every_row_of_every_tensor_is_filled_once(empty):
    slots = [
        *transformer_slots(empty.config.transformer),
        *((f"vision.{slot.target}", slot) for slot in vision_slots(empty.vision.state_dict())),
        *((f"autoencoder.{slot.target}", slot) for slot in autoencoder_slots(empty.autoencoder.state_dict())),
    ]
    pairs = [item if isinstance(item, tuple) else (item.target, item) for item in slots]
    counts = {name: torch.zeros(tensor.shape[0] if tensor.ndim else 1, dtype=torch.int) for name, tensor in empty.state_dict().items()}
    for target, slot in pairs:
        stop = slot.start + slot.rows if slot.rows else None
        counts[target][slot.start : stop] += 1
    assert {name for name, count in counts.items() if not bool((count == 1).all())} == set()


def test_number_of_resampling_layer_follows_the_blocks():
    names = build_model(LanceConfig(transformer=TransformerConfig(1, 8, 0, 1, 1, 8, 8, mrope_section=(2, 1, 1)), autoencoder={
        "dim": 4, "dec_dim": 4, "z_dim": 2, "dim_mult": [1, 1], "num_res_blocks": 3, "temperal_downsample": [True],
        "latents_mean": [0, 0], "latents_std": [1, 1]})).autoencoder.state_dict()  # fmt: skip
    slots = {slot.target: slot.name for slot in autoencoder_slots(names)}
    assert slots["wan.encoder.down_blocks.0.downsampler.time_conv.weight"] == "encoder.downsamples.0.downsamples.3.time_conv.weight"
    assert slots["wan.decoder.up_blocks.0.upsampler.resample.1.bias"] == "decoder.upsamples.0.upsamples.4.resample.1.bias"
