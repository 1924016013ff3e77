"""A whole model of a few thousand random weights: every task runs, nothing it says or draws means anything."""

import torch

from openlance.model.config import LanceConfig, MediaConfig, SamplingConfig, TransformerConfig
from openlance.pipeline import Lance
from openlance.sequence.bind import Binder
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import SPECIAL_TOKENS, Tokenizer, describe
from openlance.weights.load import build_model

WIDTH = 48
VISION = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": WIDTH, "patch_size": 8,
          "spatial_merge_size": 2, "window_size": 32, "fullatt_block_indexes": [0]}  # fmt: skip
AUTOENCODER = {"class": "light", "latent_channels": 8, "widths": [8, 8, 16], "encoder_blocks": [1, 1, 1], "decoder_blocks": [1, 1, 1]}


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes in a byte-level vocabulary."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def tiny_tokenizer() -> Tokenizer:
    """One token a byte, and the special tokens."""
    vocab = {character: index for index, character in enumerate(byte_alphabet())}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    added = [{"id": len(vocab) + i, "content": name, **flags} for i, name in enumerate(SPECIAL_TOKENS)]
    return Tokenizer(describe(vocab, [], added))


def tiny_lance(dtype: torch.dtype = torch.bfloat16) -> Lance:
    """A model of 2 layers that takes sizes in multiples of 16, from 32 to 256 pixels, and up to 17 frames."""
    tokenizer = tiny_tokenizer()
    config = LanceConfig(
        transformer=TransformerConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=16,
            intermediate_size=64,
            mrope_section=(2, 3, 3),
            rope_inv_freq_dtype="float32",
            max_position_embeddings=2048,
        ),
        media=MediaConfig(
            resize="multiple", min_side=32, max_side=256, max_frames=17, fps=8.0, image_size=(64, 64), video_size=(64, 64), num_frames=9
        ),
        sampling=SamplingConfig(num_inference_steps=4, max_new_tokens=12),
        vision=VISION,
        autoencoder=AUTOENCODER,
        latent_channels=8,
        name="tiny",
    )
    torch.manual_seed(0)
    model = build_model(config)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return Lance(model.to(dtype).eval().requires_grad_(False), Binder(tokenizer, OWN_WORDING))
