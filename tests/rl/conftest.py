"""A tiny model on disk that draws, and a recipe for it."""

from pathlib import Path

import pytest
import torch

from openlance.model.autoencoder import Autoencoder, AutoencoderConfig
from openlance.weights.save import save_pretrained
from tests.rl.tiny import tiny_model

AUTOENCODER = {"class": "light", "latent_channels": 4, "widths": [8, 8, 16], "encoder_blocks": [1, 1, 1], "decoder_blocks": [1, 1, 1]}
RECIPE = """
name: small
output: {folder}/run
model: {{checkpoint: {folder}/model, train: [generation]}}
prompts: {{world: {{single: 1}}, height: 64, width: 64}}
rewards: {{"tests.rl.tiny:redness": 1.0}}
watch: [world_judge]
iterations: 1
updates: 1
rollout: {{prompts: 1, samples: 3, sampling: {{num_inference_steps: 4}}}}
optim: {{learning_rate: 1.0e-2, ema: 0.0}}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    model, binder = tiny_model()
    torch.manual_seed(0)
    model.autoencoder = Autoencoder(AutoencoderConfig(**{k: v for k, v in AUTOENCODER.items() if k != "class"}))
    object.__setattr__(model.config, "autoencoder", AUTOENCODER)
    save_pretrained(model, binder, tmp_path / "model")
    path = tmp_path / "rl.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return path
