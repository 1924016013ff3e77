"""Make the small copy of the golden numbers in tests/golden out of a full golden folder.

    python tools/make_golden.py FULL_FOLDER tests/golden

Kept: weights, raw media, and of each case what pins it down at the ends (ids, positions, final latents, logits, losses).
Left out: pixels, patches, hidden states and most intermediate steps, all of which the full folder has. Texts are stored as
token ids only. Masks become packed bits.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from openlance.sequence.tokenizer import Tokenizer
from openlance.verify.golden import parse_rendered

LIMIT = 12_000_000
"""Bytes of the whole copy."""
FILES = (
    "model.safetensors", "vit.safetensors", "vae.safetensors", "media.safetensors", "latent_pos_embed_sample.safetensors",
    "llm_config.json", "vit_config.json", "vae_config.json", "spec.json",
    "tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json",
)  # fmt: skip
DROPPED_CASES = ("vit", "image_edit_preset256", "image_edit_image_first", "image_edit_cfg1", "image_edit_bf16_inv_freq", "i2v_renorm_none")
TEXTS = ("rendered_text", "prompt", "entries", "prompt_text", "generated_text", "caption")
PROMPTS = ("system_prompts", "caption_system_prompts_random_choice")
KEPT = (
    r"(uncond_)?input_ids|(uncond_)?position_ids|(uncond_)?attention_mask(_packbits)?|modality|prompt_ids|input_ids_full",
    r"generated_ids|logits|position_ids_prompt_and_generated|vit\.grid_thw",
    r"timesteps|step0\.v|kv\.final_latent|final_latent\.\d+",
    r"label_ids|(ce|mse)_indexes|ce|mse|clean_latent|noise|packed_timesteps_presigmoid|timesteps_final",
    r"t|time_\w+|rgba\..*|in\.3|v.._first_rows\.3",
    r"(in_u8|mu_normalised_thwc|logvar_raw_cthw)\.[13]|(dec_latent_thwc|dec_pixels_cthw)\.1",
)
"""Names of tensors that are kept, matched whole."""
TRAINING_ONLY = ("noise", "vit.embeds")
"""Inputs of training cases; in the others they are results that follow from what is kept."""


def main(source: Path, target: Path) -> None:
    """Write the copy; fails if it is too large or a text does not survive its token ids."""
    if target.exists():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(source / name, target / name)
    tokenizer = Tokenizer.load(source)
    for folder in sorted(path.parent for path in source.glob("*/case.json")):
        if folder.name not in DROPPED_CASES:
            copy_case(folder, target / folder.name, tokenizer)
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target}: {size} bytes, {len(list(target.glob('*/case.json')))} cases")
    if size > LIMIT:
        raise SystemExit(f"the copy has {size} bytes, more than {LIMIT}: drop another case or tensor")


def copy_case(source: Path, target: Path, tokenizer: Tokenizer) -> None:
    """One case without what the small copy does not hold."""
    target.mkdir()
    values = json.loads((source / "case.json").read_text(encoding="utf-8"))
    scalars = without_texts({key: value for key, value in values.items() if key not in ("tensors", *PROMPTS)}, tokenizer)
    if "samples" in scalars:
        scalars["samples"] = [without_texts(sample, tokenizer) for sample in scalars["samples"]]
    (target / "case.json").write_text(json.dumps(scalars, ensure_ascii=True) + "\n", encoding="utf-8")
    tensors = load_file(source / "tensors.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if keeps(name, "samples" in values)}
    save_file(dict(packed(name, tensor) for name, tensor in kept.items()), target / "tensors.safetensors")


def keeps(name: str, training: bool) -> bool:
    """Whether a tensor of a case is kept."""
    if name in TRAINING_ONLY:
        return training
    return any(re.fullmatch(pattern, name) for pattern in KEPT)


def packed(name: str, tensor: torch.Tensor) -> tuple[str, torch.Tensor]:
    """Masks as bits, everything else as it is."""
    if tensor.dtype == torch.bool:
        return f"{name}_packbits", torch.from_numpy(np.packbits(tensor.numpy(), axis=1))
    return name, tensor


def without_texts(values: dict[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Scalars with the token ids of their texts instead of the texts."""
    kept = {key: value for key, value in values.items() if key not in TEXTS}
    if "rendered_text" in values:
        wording = parse_rendered(values["rendered_text"])
        texts = {"system": wording.system, "prompt": values.get("prompt", wording.prompt), "answer": wording.answer}
        kept["texts"] = {name: list(tokenizer.encode(text)) for name, text in texts.items()}
        for name, text in texts.items():
            if tokenizer.decode(kept["texts"][name]) != text:
                raise SystemExit(f"the {name} text does not survive its token ids: {text[:60]!r}")
    return kept


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
