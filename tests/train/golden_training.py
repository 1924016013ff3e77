"""The golden training cases as samples of ours."""

from pathlib import Path
from typing import Any

import torch

from openlance.data.layout import Anchors
from openlance.data.records import Medium, Record
from openlance.data.sample import MediumFeatures, Sample, bind_sample
from openlance.sequence.bind import Binder
from openlance.sequence.segment import PROMPT_ROLES, Role
from openlance.sequence.template import OWN_WORDING
from openlance.sequence.tokenizer import Tokenizer

ANCHORS = Anchors(1000, 2000, understanding=True)
TASKS = {"text2image_general": "t2i", "image2image": "image_edit", "x2t_general": "understand", "text2video_general": "t2v"}


def golden_samples(case: Any, folder: Path) -> list[Sample]:
    """One sample of ours for each of the case's, its features taken from the case's tensors."""
    binder = Binder(Tokenizer.load(folder), OWN_WORDING)
    latents = [case.tensor(name) for name in sorted(case.tensors) if name.startswith("vae_latent.")]
    vision = case.tensor("vit.embeds")
    grids = case.tensor("vit.grid_thw").tolist()
    samples = []
    for entry in case["samples"]:
        task = "i2v" if entry["frame_condition"] else TASKS[entry["dataset_type"]]
        system, rest = entry["rendered_text"].removeprefix("<|im_start|>system\n").split("<|im_end|>\n<|im_start|>user\n")
        question, answer = rest.split("<|im_end|>\n<|im_start|>assistant\n")
        media: list[MediumFeatures] = []
        given = latents.pop(0) if task == "image_edit" and not entry["vision_dropped"] else torch.zeros(1, 1, 1, 48)
        shown = None
        if task in ("image_edit", "understand") and not entry["vision_dropped"]:
            t, h, w = grids.pop(0)
            cells = t * h * w // 4
            shown, vision = vision[:cells].reshape(t, h // 2, w // 2, -1), vision[cells:]
        if task in ("image_edit", "understand"):
            media.append(MediumFeatures(torch.zeros(1, 1, 1, 128) if shown is None else shown, given))
        blank = Medium("video" if task in ("t2v", "i2v") else "image", b"")
        record = Record(
            task,
            entry["caption"] if task != "understand" else question.split("<|vision_end|>")[-1],
            tuple(blank for _ in media) if task != "i2v" else (Medium("image", b""),),
            None if task == "understand" else blank,
            answer.removesuffix("<|im_end|>") if task == "understand" else None,
            system,
        )
        unseen = frozenset({Role.SOURCE}) if entry["vision_dropped"] else frozenset()
        dropped = (PROMPT_ROLES if entry["text_dropped"] else frozenset()) | unseen
        if task == "i2v":
            media = [MediumFeatures()]
        samples.append(bind_sample(binder, record.words, media, None if task == "understand" else latents.pop(0), dropped))
    return samples
