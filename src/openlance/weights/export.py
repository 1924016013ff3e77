"""A model in memory -> the published layout, so that tools made for the published files can read it.

The published configuration knows sizes only: conventions of ours (anchors, defaults of sampling, what the flow head predicts)
have no place in it, and a model is refused when it could not be rebuilt from what is written.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import CheckpointError
from openlance.files import whole_file
from openlance.model.config import LanceConfig, TransformerConfig
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.weights.hub import AUTOENCODER_FILE, VARIANTS, VISION_FOLDER
from openlance.weights.names import Slot, autoencoder_slots, transformer_slots, vision_slots
from openlance.weights.save import whole_folder
from openlance.weights.tensorfile import write_tensors


def export_pretrained(
    model: LanceModel,
    binder: Binder,
    folder: Path,
    *,
    variant: str = "image",
    dtype: torch.dtype = torch.float32,
    overwrite: bool = False,
) -> None:
    """Write `model`, with the tokenizer of `binder`, to `folder` in the published layout, complete or not at all.

    `dtype`: of everything on disk (published: float32). The published files hold no wording: templates.json and words.json go beside them.

    Raises CheckpointError if the model has parts or conventions that the published layout cannot express.
    """
    _expressible(model.config)
    with whole_folder(folder, overwrite=overwrite) as temporary:
        language, vision = temporary / VARIANTS[variant], temporary / VISION_FOLDER
        language.mkdir()
        vision.mkdir()
        write_tensors(language / "model.safetensors", published_tensors(model, transformer_slots(model.config.transformer)), dtype)
        _write_json(language / "llm_config.json", llm_config(model.config.transformer))
        binder.tokenizer.save(language)
        binder.save_wording(temporary)
        write_tensors(vision / "vit.safetensors", published_tensors(model.vision, vision_slots(model.vision.state_dict())), dtype)
        _write_json(vision / "config.json", model.config.vision)
        tensors = published_tensors(model.autoencoder, autoencoder_slots(model.autoencoder.state_dict()))
        content = {name: tensor.to("cpu", dtype, copy=True) for name, tensor in tensors.items()}
        with whole_file(temporary / AUTOENCODER_FILE, CheckpointError) as partial, partial.open("wb") as file:
            torch.save(content, file)
        _write_json(temporary / "vae_config.json", model.config.autoencoder)


def published_tensors(module: nn.Module, slots: Iterable[Slot]) -> dict[str, Tensor]:
    """Published names with views of our tensors: the rows that a name stands for."""
    ours = module.state_dict()
    return {slot.name: ours[slot.target] if slot.rows is None else ours[slot.target].narrow(0, slot.start, slot.rows) for slot in slots}


def llm_config(config: TransformerConfig) -> dict[str, Any]:
    """The stock configuration of the language model, as published beside its weights."""
    return {
        "model_type": "qwen2_5_vl",
        "hidden_act": "silu",
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "vocab_size": config.vocab_size,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(config.mrope_section)},
        "max_position_embeddings": config.max_position_embeddings,
        "tie_word_embeddings": False,
    }


def _expressible(config: LanceConfig) -> None:
    problems = []
    if not config.vision or not config.autoencoder:
        problems.append("it has no vision encoder or no autoencoder")
    if config.autoencoder.get("class", "wan") != "wan":
        problems.append(f"its autoencoder is of class {config.autoencoder['class']!r}")
    if config.prediction != "velocity":
        problems.append(f"its flow head predicts {config.prediction!r}")
    if problems:
        reason = "; ".join(problems)
        raise CheckpointError(f"{config.name} cannot be written in the published layout: {reason}; save it in our own layout instead")


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
