"""Checkpoint files -> a model in memory, tensor by tensor, without ever holding more than the final weights and a few rows.

Parameters are created without memory, buffers for real; then parameters get memory in the target dtype and device, or, of a model that is
split among processes, for the rows that one of them holds, and those rows are read. A file that does not fit is refused before that.
"""

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
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
from openlance.sequence.bind import Binder
from openlance.sequence.known_words import KnownWords
from openlance.sequence.template import Templates
from openlance.sequence.tokenizer import Tokenizer
from openlance.weights.checksums import check_weights
from openlance.weights.deferred import DeferredVision
from openlance.weights.empty import Held, all_rows, allocate, build_empty
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
) -> tuple[LanceModel, Binder]:
    """Model and binder (tokenizer, templates, known words) of a checkpoint; `name` and `variant` as in `hub.resolve`.

    `device`: `auto` takes a GPU if there is one. `dtype`: float32, bfloat16, float16, or `auto`, which is what the device
    multiplies fast: bfloat16, or float32 on processors without instructions for it (`model.precision`).
    `templates`: a templates.json to use instead of the checkpoint's. Published weights come with none: for the hub name it is
    made once out of their public source; a folder without one asks that requests bring their own SYSTEM text.
    For errors see `load_checkpoint`.
    """
    kind = None if dtype == "auto" else getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if kind not in (None, torch.float32, torch.bfloat16, torch.float16):
        raise CheckpointError(f"weights cannot be loaded as {dtype}: use 'auto', 'float32', 'bfloat16' or 'float16'")
    place = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    checkpoint, binder = open_pretrained(name, variant=variant, templates=templates)
    return checkpoint.load(kind, place), binder


def open_pretrained(
    name: str | Path, *, variant: str | None = None, templates: str | Path | None = None
) -> tuple["UnreadCheckpoint", Binder]:
    """`load_pretrained` up to where weights take memory."""
    files = resolve(name, variant=variant)
    wording = files.templates if templates is None else Path(templates)
    if wording is None and str(name) == HUB_NAME:
        wording = fetched_templates()
    tokenizer = Tokenizer.load(files.tokenizer)
    vocabulary = read_config(files).transformer.vocab_size
    if len(tokenizer) > vocabulary:
        raise CheckpointError(f"{files.tokenizer}: {len(tokenizer)} tokens do not fit a model of {vocabulary}; bring its own tokenizer")
    return UnreadCheckpoint(files), read_binder(files, tokenizer, wording)


def read_binder(files: CheckpointFiles, tokenizer: Tokenizer, wording: Path | None) -> Binder:
    """The binder of a checkpoint with the templates of the file `wording`, or without any."""
    words = None if files.words is None else KnownWords.load(files.words)
    return Binder(tokenizer, Templates({}) if wording is None else Templates.load(wording), words)


def load_checkpoint(files: CheckpointFiles, *, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> LanceModel:
    """Read a checkpoint of any layout into a model in evaluation mode, without gradients; `dtype` None is the fast one of the device.

    Source of the memory bound: peak resident memory within 1.15x of the final weights, `tests/weights/test_memory.py`.

    Raises CheckpointError naming every missing, unexpected or misshapen tensor, or every tensor with NaN or infinity in it,
    or the file that cannot be read, or is not what was saved, and what to do about it.
    """
    return UnreadCheckpoint(files).load(dtype, device)


class UnreadCheckpoint:
    """A checkpoint that fits its model: `model` in evaluation mode, without gradients, and without memory for its weights.

    It may be changed before it is read: layers wrapped, weights split, encoders replaced.
    """

    def __init__(self, files: CheckpointFiles) -> None:
        config = read_config(files)
        model: LanceModel = build_empty(lambda: build_model(config, DeferredVision)).eval().requires_grad_(False)
        self.model, self._files = model, files
        if files.layout == "own":
            self._fillings = [Filling(model, open_tensors(files.weights), [Slot(name, name) for name in model.state_dict()])]
            return
        self._fillings = []
        if files.autoencoder_weights:
            slots = autoencoder_slots(model.autoencoder.state_dict())
            self._fillings.append(Filling(model.autoencoder, open_tensors(files.autoencoder_weights), slots))
        if files.vision_weights:
            slots = vision_slots(model.vision.state_dict())
            self._fillings.append(Filling(model.vision, open_tensors(files.vision_weights), slots))
        self._fillings.append(Filling(model, open_tensors(files.weights), transformer_slots(config.transformer)))

    def load(self, dtype: torch.dtype | None = None, device: str | torch.device = "cpu") -> LanceModel:
        """The model with its weights."""
        allocate(self.model, device, dtype or fast_dtype(device, sum(parameter.numel() for parameter in self.model.parameters())))
        self.read(all_rows)
        return self.model

    def read(self, held: Held) -> None:
        """Fill the weights, which have memory by now; those of parts that the model has lost since have none, and are left out."""
        for filling in self._fillings:
            filling.read(held)
        if self._files.layout == "own":
            check_weights(self._files.folder)

    def fingerprint(self) -> str:
        """Of names, shapes and first rows of all tensors: cheap to make, and another one after a training that moves any of these rows."""
        digest = hashlib.sha256()
        for filling in self._fillings:
            filling.sign(digest.update)
        return digest.hexdigest()


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


class Filling:
    """The parameters of a module that `slots` name and the tensors of a file that fill them.

    Every tensor of the file must have a slot and every slot a tensor, of the right shape; see `load_checkpoint` for errors.
    """

    def __init__(self, module: nn.Module, file: TensorFile, slots: Iterable[Slot]) -> None:
        slots = list(slots)
        shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
        _check(file, {slot.name: (slot.rows or 0, *shapes[slot.target][1:]) if slot.rows else shapes[slot.target] for slot in slots})
        self._file = file
        self._slots = sorted(slots, key=lambda slot: (str(file.entries[slot.name].path), file.entries[slot.name].offset))
        # By their module: names change where a layer is wrapped, parameters where they are split.
        self._owners = dict(module.named_modules())

    def read(self, held: Held) -> None:
        """Give the parameters their values, of each the rows that are held. Raises CheckpointError."""
        broken: dict[str, torch.dtype] = {}
        for slot in self._slots:
            owner, _, leaf = slot.target.rpartition(".")
            weight = self._owners[owner].get_parameter(leaf)
            if weight.is_meta:
                continue
            rows, first = held(weight)
            finite = True
            for destination, piece in self._pieces(slot, rows, first):
                destination.copy_(piece)
                finite = finite and _finite(destination)
            if not finite:
                broken[slot.name] = rows.dtype
        if broken:
            hint = "; float16 cannot hold numbers beyond 65504: try bfloat16" if torch.float16 in broken.values() else ""
            path = self._file.entries[next(iter(broken))].path
            raise CheckpointError(f"{path} has NaN or infinity in {len(broken)} tensors: {', '.join(broken)}; download it again{hint}")

    def sign(self, update: Callable[[bytes], None]) -> None:
        """Tell what the tensors are called, their shapes, and their first rows."""
        for slot in self._slots:
            update(f"{slot.name} {self._file.entries[slot.name].shape}".encode())
            for _, piece in self._file.rows(slot.name, 0, 1):
                update(piece.reshape(-1).view(torch.uint8).numpy().tobytes())

    def _pieces(self, slot: Slot, rows: Tensor, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(part of `rows`, what the file has for it): `rows` are those of the target from `first` on."""
        if not rows.ndim:
            yield from ((rows, piece) for _, piece in self._file.rows(slot.name))
            return
        shift = first - slot.start
        for row, piece in self._file.rows(slot.name, max(0, shift), max(0, shift + len(rows))):
            yield rows.narrow(0, row - shift, len(piece)), piece


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
