"""The vision encoder that is built with its first picture: the same tensors, the same tokens, and no library before."""

import dataclasses
import subprocess
import sys

import pytest
import torch

from openlance.errors import LanceError
from openlance.model.vision import VisionEncoder
from openlance.weights.deferred import DeferredVision
from openlance.weights.empty import build_empty
from openlance.weights.hub import resolve
from openlance.weights.load import load_checkpoint, read_config
from openlance.weights.names import VISION_DEFAULTS, vision_shapes
from tests.weights.conftest import same_tensors


def shapes_of(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def nano_vision():
    return read_config(resolve("nano")).vision


@pytest.mark.parametrize("changes", [{}, {"depth": 1}, {"out_hidden_size": 48, "in_channels": 4, "temporal_patch_size": 1}])
def test_shapes_are_those_of_the_library(changes):
    config = {**nano_vision(), **changes}
    assert vision_shapes(config) == shapes_of(build_empty(lambda: VisionEncoder(config)).tower)


def test_sizes_that_a_configuration_leaves_out_are_those_of_the_library():
    from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig

    library = {field.name: field.default for field in dataclasses.fields(Qwen2_5_VLVisionConfig)}
    assert {name: library[name] for name in VISION_DEFAULTS} == VISION_DEFAULTS
    deferred, full = DeferredVision({"depth": 1}), build_empty(lambda: VisionEncoder({"depth": 1}))
    for name in ("patch_size", "merge_size", "temporal_patch_size", "out_features", "pixel_multiple"):
        assert getattr(deferred, name) == getattr(full, name), name
    assert shapes_of(deferred) == shapes_of(full)


def test_tokens_and_parameters_are_those_of_an_encoder_built_at_once(model, own_folder):
    loaded = load_checkpoint(resolve(own_folder), dtype=torch.float32)
    before = dict(loaded.named_parameters())
    medium = model.vision.patchify(torch.randint(256, (3, 56, 84, 3), dtype=torch.uint8))
    with torch.inference_mode():
        (tokens,) = loaded.vision([medium])
        (expected,) = model.vision([medium])
    assert torch.equal(tokens, expected)
    after = dict(loaded.named_parameters())
    assert before.keys() == after.keys()
    assert all(after[name] is parameter for name, parameter in before.items())
    assert not any(parameter.requires_grad for parameter in after.values())
    assert not any(module.training for module in loaded.modules())
    assert not any(buffer.is_inference() for buffer in loaded.buffers())
    assert loaded.vision.tower is loaded.vision.tower
    assert same_tensors(loaded, model)


def test_what_is_done_before_the_first_picture_counts(own_folder):
    loaded = load_checkpoint(resolve(own_folder), dtype=torch.float32)
    loaded.vision.double().train().requires_grad_(True)
    tower = loaded.vision.tower
    assert {parameter.dtype for parameter in tower.parameters()} == {torch.float64}
    assert all(parameter.requires_grad for parameter in tower.parameters())
    assert all(module.training for module in tower.modules())


def test_a_load_and_a_picture_from_text_import_no_library_of_models():
    code = (
        "import sys; from openlance import Lance; lance = Lance.from_pretrained('nano');"
        "lance.generate_image('a red circle', height=64, width=64, num_inference_steps=1);"
        "print(sorted({'transformers', 'diffusers', 'torch._dynamo', 'sympy', 'av'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_heads": 7}, "num_heads 7"),
        ({"num_heads": 0}, "num_heads 0"),
        ({"num_heads": 80}, "num_heads 80"),
        ({"num_heads": "5"}, "num_heads '5'"),
        ({"depth": 5.0}, "depth 5.0"),
        ({"fullatt_block_indexes": ["2"]}, r"fullatt_block_indexes \['2'\]"),
        ({"window_size": 8}, "window_size 8"),
        ({"fullatt_block_indexes": [2, 7]}, r"fullatt_block_indexes \[7\]"),
    ],
)
def test_settings_that_no_shape_shows_are_checked_before_the_first_picture(changes, said):
    with pytest.raises(LanceError, match=said):
        DeferredVision({**nano_vision(), **changes})
