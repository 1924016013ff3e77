"""A tiny random model that draws, with an autoencoder whose pictures can be reasoned about: a latent cell is a flat tile of its colour."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import openlance.nano
from openlance.model.config import LanceConfig, MediaConfig, SamplingConfig, TransformerConfig
from openlance.model.lance import LanceModel
from openlance.rl.recipe import RlRecipe
from openlance.sequence.bind import Binder
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import Tokenizer
from openlance.train.initial import initialise
from openlance.train.recipe import parse_typed

SIDE = 32


class Tiles(nn.Module):
    """Latents (N, t, h, w, C) to pixels: the first three channels are the colour of a 16 x 16 tile."""

    def decode_stream(self, latents: Tensor) -> Iterator[Tensor]:
        colour = latents[..., :3].permute(0, 4, 1, 2, 3)
        yield (colour / 2).clamp(-1, 1).repeat_interleave(16, 3).repeat_interleave(16, 4)


def tiny_model(prediction: str = "velocity", seed: int = 0) -> tuple[LanceModel, Binder]:
    """Two layers of width 32 on 2 x 2 latents of 4 channels; the flow head is random, so that pictures differ from noise."""
    tokenizer = Tokenizer.load(Path(openlance.nano.__file__).parent / "tokenizer")
    sizes = TransformerConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=48, mrope_section=(2, 3, 3), rope_inv_freq_dtype="float32", max_position_embeddings=1024,
    )  # fmt: skip
    config = LanceConfig(
        transformer=sizes,
        media=MediaConfig(resize="multiple", min_side=16, max_side=64, image_size=(SIDE, SIDE), video_size=(SIDE, SIDE), num_frames=1),
        sampling=SamplingConfig(num_inference_steps=6, timestep_shift=2.0, guidance_scale=1.0, guidance_interval=(0.0, 1.0)),
        latent_channels=4,
        prediction=prediction,
        name="tiny",
    )
    model = LanceModel(config, autoencoder=Tiles())
    initialise(model, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    nn.init.normal_(model.latent.output.weight, std=0.1, generator=generator)
    return model.eval(), Binder(tokenizer, OWN_WORDING)


def recipe_of(folder: Path, **values: Any) -> RlRecipe:
    """A recipe on prompts of a file, with the redness of pictures as its reward."""
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"text": "a red circle"}\n{"text": "a blue star on a black background"}\n{"text": "the word \\"CAT\\" in red"}\n')
    given: dict[str, Any] = {
        "name": "tiny",
        "output": str(folder / "run"),
        "model": {"checkpoint": "in memory", "train": ["generation"]},
        "prompts": {"file": str(prompts)},
        "rewards": {"tests.rl.tiny:redness": 1.0},
        "iterations": 2,
        "rollout": {"prompts": 2, "samples": 4},
        "optim": {"learning_rate": 1e-3, "ema": 0.0},
        **values,
    }
    recipe: RlRecipe = parse_typed(RlRecipe, given, "test")
    return recipe


def redness(frames: np.ndarray, prompt: str) -> float:
    """Mean red less the mean of green and blue, in -1 to 1."""
    mean = frames.reshape(-1, 3).mean(0) / 255
    return float(mean[0] - mean[1:].mean())
