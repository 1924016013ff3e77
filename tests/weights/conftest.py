"""A model small enough to be written and read many times in a test."""

import json
from pathlib import Path

import pytest
import torch

from openlance.model.config import LanceConfig, TransformerConfig
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.sequence.template import Templates
from openlance.sequence.tokenizer import Tokenizer
from openlance.weights.load import build_model

SIZES = TransformerConfig(
    vocab_size=700,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    intermediate_size=24,
    mrope_section=(2, 1, 1),
)
VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16, "fullatt_block_indexes": [0]}
AUTOENCODER = {"dim": 4, "dec_dim": 4, "z_dim": 6, "dim_mult": [1, 1, 2, 2], "num_res_blocks": 1,
               "temperal_downsample": [False, True, True], "latents_mean": [0.5] * 6, "latents_std": [2.0] * 6}  # fmt: skip


@pytest.fixture(scope="session")
def config() -> LanceConfig:
    return LanceConfig(transformer=SIZES, vision=VISION, autoencoder=AUTOENCODER, latent_channels=6, name="tiny")


@pytest.fixture(scope="session")
def model(config: LanceConfig) -> LanceModel:
    """A model whose every parameter is random and different, so that a swapped tensor shows."""
    torch.manual_seed(0)
    model = build_model(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def binder(golden_dir: Path) -> Binder:
    return Binder(Tokenizer.load(golden_dir), Templates({"t2i/image": "Draw."}))


@pytest.fixture
def published_folder(tmp_path: Path, model: LanceModel, binder: Binder) -> Path:
    from openlance.weights.export import export_pretrained

    export_pretrained(model, binder, tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture
def own_folder(tmp_path: Path, model: LanceModel, binder: Binder) -> Path:
    from openlance.weights.save import save_pretrained

    save_pretrained(model, binder, tmp_path / "own")
    return tmp_path / "own"


def edit_json(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def same_tensors(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
