"""Training on media of any size: they are brought to the model's sizes exactly as at inference."""

import json
from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from openlance.data.jsonl import read_jsonl
from openlance.data.sample import ConditionDropout
from openlance.data.source import RecordSource
from openlance.engine.prepare import encode_medium
from openlance.engine.preprocess import prepare_medium
from openlance.media.clip import Clip
from openlance.model.lance import LanceModel
from openlance.model.vision import VisionEncoder
from openlance.sequence.bind import Binder
from openlance.sequence.segment import Kind
from openlance.train.attributes import VisionConfig
from openlance.train.encoder_stage import write_encoder
from openlance.train.frozen import FrozenEncoders
from openlance.train.prepare import build_model
from openlance.train.recipe import ModelRecipe, RecipeError

Built = tuple[LanceModel, Binder, FrozenEncoders]


@pytest.fixture(scope="module")
def built() -> Built:
    return build_model(ModelRecipe(checkpoint="nano"), 0)


def noise(frames: int, height: int, width: int) -> Clip:
    return Clip(np.random.default_rng(height).integers(0, 255, (frames, height, width, 3), dtype=np.uint8), 8.0)


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 100, 150), (1, 40, 700), (7, 90, 130)])
def test_features_are_those_of_inference(built: Built, frames: int, height: int, width: int) -> None:
    model, _, encoders = built
    clip = noise(frames, height, width)
    wanted = encode_medium(model, prepare_medium(model, clip, frozenset({Kind.VISION, Kind.LATENT})))
    (latent,), (vision,) = encoders.latent([clip]), encoders.vision([clip])
    assert wanted.latent is not None
    assert torch.allclose(latent, wanted.latent, atol=1e-5)
    assert torch.allclose(vision.flatten(0, 2), wanted.vision, atol=1e-5)


def test_records_of_odd_sizes_become_samples(built: Built, tmp_path: Path) -> None:
    """A photograph's edit, whose sides fit nothing: source and target come to one grid, so the target can take the source's positions."""
    _, binder, encoders = built
    for name in ("before", "after"):
        Image.fromarray(noise(1, 101, 333).frames[0]).save(tmp_path / f"{name}.png")
    line = {"task": "image_edit", "text": "make it snowy", "media": [{"image": "before.png"}], "target": {"image": "after.png"}}
    (tmp_path / "edits.jsonl").write_text(json.dumps(line) + "\n")
    source = RecordSource("edits", list(read_jsonl(tmp_path / "edits.jsonl")), encoders, binder, ConditionDropout())
    sample = source.sample(0, Random(0))
    grids = {segment.grid for segment in sample.segments if segment.kind is Kind.LATENT}
    assert len(grids) == 1
    t, h, w = grids.pop() or (0, 0, 0)
    assert t == 1
    assert max(h, w) <= 288 // 16 < 333 // 16


def test_a_recipe_can_replace_the_encoders_of_a_checkpoint(tmp_path: Path) -> None:
    small = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "patch_size": 8, "window_size": 64}
    for width in (256, 128):
        config = VisionConfig(**small, out_hidden_size=width, fullatt_block_indexes=(0,)).arguments()
        (tmp_path / str(width)).mkdir()
        write_encoder(tmp_path / str(width), VisionEncoder(config), config)
    model, _, _ = build_model(ModelRecipe(checkpoint="nano", vision=tmp_path / "256"), 0)
    assert model.config.vision["depth"] == 1
    with pytest.raises(RecipeError, match="gives tokens of width 128, the model takes 256"):
        build_model(ModelRecipe(checkpoint="nano", vision=tmp_path / "128"), 0)
