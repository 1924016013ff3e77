"""Checkpoint files -> a model in memory, tensor by tensor, without ever holding more than the final weights and a few rows.

Parameters are created without memory, buffers for real; then each parameter gets its memory in the target dtype and device
when the first of its rows arrives. A file that does not fit is refused before anything is read.
"""

import dataclasses
import difflib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openlance.errors import CheckpointError
from openlance.model.config import LanceConfig, published_config
from openlance.model.lance import LanceModel
from openlance.model.precision import fast_dtype
from openlance.model.vae import build_autoencoder
from openlance.model.vision import VisionEncoder
from openlance.sequence.template import Templates
from openlance.sequence.tokenizer import Tokenizer
from openlance.weights.checksums import check_weights
from openlance.weights.deferred import DeferredVision
from openlance.weights.empty import build_empty
from openlance.weights.hub import HUB_NAME, CheckpointFiles, resolve
from openlance.weights.names import IGNORED, Slot, autoencoder_slots, transformer_slots, vision_slots
from openlance.weights.templates import fetched_templates
from openlance.weights.tensorfile import TensorFile, open_tensors


def build_model(config: LanceConfig, encoder: type[VisionEncoder] = VisionEncoder) -> LanceModel:
    """The whole model of a configuration; vision encoder (of the class `encoder`) and autoencoder only if it describes them."""
    vision = encoder(config.vision) if config.vision else None
    autoencoder = build_autoencoder(config.autoencoder) if config.autoencoder else None
    return LanceModel(config, vision, autoencoder)


def load_pretrained(
    name: str | Path,
    *,
    variant: str | None = None,
    device: str | torch.device = "auto",
    dtype: str | torch.dtype = "auto",
    templates: str | Path | None = None,
) -> tuple[LanceModel, Tokenizer, Templates]:
    """Model, tokenizer and wording of a checkpoint; `name` and `variant` as in `hub.resolve`.

    `device`: `auto` takes a GPU if there is one. `dtype`: float32, bfloat16, float16, or `auto`, which is what the device
    multiplies fast: bfloat16, or float32 on processors without instructions for it (`model.precision`).
    `templates`: a templates.json to use instead of the checkpoint's. Published weights come with none: for the hub name it is
    made once out of their public source; a folder without one asks that requests bring their own SYSTEM text.
    For errors see `load_checkpoint`.
    """
    files = resolve(name, variant=variant)
    wording = files.templates if templates is None else Path(templates)
    if wording is None and str(name) == HUB_NAME:
        wording = fetched_templates()
    words = Templates({}) if wording is None else Templates.load(wording)
    tokenizer = Tokenizer.load(files.tokenizer)
    kind = None if dtype == "auto" else getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if kind not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise CheckpointError(f"weights cannot be loaded as {dtype}: use 'auto', 'float32', 'bfloat16' or 'float16'")
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    vocabulary = read_config(files).transformer.vocab_size
    if len(tokenizer) > vocabulary:
        raise CheckpointError(f"{files.tokenizer}: {len(tokenizer)} tokens do not fit a model of {vocabulary}; bring its own tokenizer")
    return load_checkpoint(files, dtype=kind, device=place), tokenizer, words


def load_checkpoint(files: CheckpointFiles, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> LanceModel:
    """Read a checkpoint of any layout into a model in evaluation mode, without gradients; `dtype` None is the fast one of the device.

    Source of the memory bound: peak resident memory within 1.15x of the final weights, `tests/weights/test_memory.py`.

    Raises CheckpointError naming every missing, unexpected or misshapen tensor, or every tensor with NaN or infinity in it,
    or the file that cannot be read, or is not what was saved, and what to do about it.
    """
    config = read_config(files)
    model = build_empty(lambda: build_model(config, DeferredVision))
    dtype = dtype or fast_dtype(device, sum(parameter.numel() for parameter in model.parameters()))
    if files.layout == "own":
        load_tensors(model, open_tensors(files.weights), [Slot(name, name) for name in model.state_dict()], dtype=dtype, device=device)
        check_weights(files.folder)
    else:
        if files.autoencoder_weights:
            slots = autoencoder_slots(model.autoencoder.state_dict())
            load_tensors(model.autoencoder, open_tensors(files.autoencoder_weights), slots, dtype=dtype, device=device)
        if files.vision_weights:
            slots = vision_slots(model.vision.state_dict())
            load_tensors(model.vision, open_tensors(files.vision_weights), slots, dtype=dtype, device=device)
        load_tensors(model, open_tensors(files.weights), transformer_slots(config.transformer), dtype=dtype, device=device)
    return model.eval().requires_grad_(False)


def read_config(files: CheckpointFiles) -> LanceConfig:
    """Configuration of a checkpoint. Raises CheckpointError if a JSON file is corrupt or lacks a key."""
    if files.layout == "own":
        return LanceConfig.from_dict(_json(files.config))
    vision = _json(files.vision_config) if files.vision_weights and files.vision_config else {}
    autoencoder = _json(files.autoencoder_config) if files.autoencoder_config else {}
    try:
        config = published_config(_json(files.config), vision.get("vision_config", vision), autoencoder, files.variant)
    except KeyError as error:
        raise CheckpointError(f"{files.config} lacks {error}: it is not the llm_config.json of this model") from error
    return config if files.autoencoder_weights else dataclasses.replace(config, autoencoder={})


def _json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): download it again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, not {type(values).__name__}")
    return values


def load_tensors(
    module: nn.Module, file: TensorFile, slots: Iterable[Slot], *, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> None:
    """Fill the parameters of `module` that `slots` name from `file`; its buffers move to `device` and keep their dtype.

    Every tensor of the file must have a slot and every slot a tensor, of the right shape; see `load_checkpoint` for errors.
    """
    slots = list(slots)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    _check(file, {slot.name: (slot.rows or 0, *shapes[slot.target][1:]) if slot.rows else shapes[slot.target] for slot in slots})
    owners = dict(module.named_modules())
    filled: dict[str, Tensor] = {}
    broken: list[str] = []
    for slot in sorted(slots, key=lambda slot: (str(file.entries[slot.name].path), file.entries[slot.name].offset)):
        if slot.target not in filled:
            filled[slot.target] = torch.empty(shapes[slot.target], dtype=dtype, device=device)
            owner, _, leaf = slot.target.rpartition(".")
            setattr(owners[owner], leaf, nn.Parameter(filled[slot.target], requires_grad=False))
        target = filled[slot.target]
        finite = True
        for row, piece in file.rows(slot.name):
            destination = target.narrow(0, slot.start + row, len(piece)) if target.ndim else target
            destination.copy_(piece)
            finite = finite and _finite(destination)
        if not finite:
            broken.append(slot.name)
    if broken:
        hint = "; float16 cannot hold numbers beyond 65504: try bfloat16" if dtype == torch.float16 else ""
        path = file.entries[broken[0]].path
        raise CheckpointError(f"{path} has NaN or infinity in {len(broken)} tensors: {', '.join(broken)}; download it again{hint}")
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)


def _finite(values: Tensor) -> bool:
    """Whether every value is finite. The sum is finite only then, and is cheaper to look at; if it is not, look closer."""
    return bool(values.sum(dtype=torch.float32).isfinite()) or bool(values.isfinite().all())


def _check(file: TensorFile, expected: dict[str, tuple[int, ...]]) -> None:
    missing = [name for name in expected if name not in file.entries]
    unexpected = [name for name in file.entries if name not in expected and name not in IGNORED]
    misshapen = [
        f"{name} is {list(entry.shape)} instead of {list(expected[name])}"
        for name, entry in file.entries.items()
        if name in expected and entry.shape != expected[name]
    ]
    # Comparing names takes time with the product of the two lists: beyond some dozens no suggestion would be read anyway.
    candidates = unexpected if len(missing) * len(unexpected) <= 10_000 else []
    guesses = {name: difflib.get_close_matches(name, candidates, n=1, cutoff=0.8) for name in missing}
    lines = [f"{name} (did you mean {guesses[name][0]}?)" if guesses[name] else name for name in missing]
    problems = [
        f"{len(found)} {kind}: {', '.join(found)}"
        for kind, found in (("missing", lines), ("unexpected", unexpected), ("of the wrong shape", misshapen))
        if found
    ]
    if problems:
        folder = next((entry.path for entry in file.entries.values()), "the file")
        listing = "; ".join(problems)
        raise CheckpointError(f"{folder} does not fit the model. Tensors {listing}. Check that weights and configuration belong together")
