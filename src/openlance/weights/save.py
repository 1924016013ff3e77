"""A model in memory -> a folder in our own layout, which `load.load_pretrained` reads back.

config.json  model.safetensors (or shards and model.safetensors.index.json)  tokenizer.json  templates.json  [words.json]
checksums.sha256
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from openlance.errors import CheckpointError
from openlance.model.lance import LanceModel
from openlance.sequence.bind import Binder
from openlance.weights.checksums import write_checksums
from openlance.weights.tensorfile import write_tensors


def save_pretrained(
    model: LanceModel,
    binder: Binder,
    folder: Path,
    *,
    max_shard_size: int = 5_000_000_000,
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
    tensors: Mapping[str, Tensor] | None = None,
) -> None:
    """Write `model`, with the tokenizer and the templates of `binder`, to `folder`, complete or not at all.

    `max_shard_size`: bytes of weights a file. `dtype`: of the weights on disk, default as they are.
    `overwrite` replaces an earlier checkpoint in `folder`; other files there stay.
    `tensors`: weights by name to write instead of the model's own, as of adapters merged on the way.

    Raises CheckpointError if the folder is in the way or cannot be written; nothing half-written is left.
    """
    with whole_folder(folder, overwrite=overwrite) as temporary:
        model.config.save(temporary / "config.json")
        binder.tokenizer.save(temporary)
        binder.save_wording(temporary)
        write_shards(temporary, model.state_dict() if tensors is None else tensors, max_shard_size, dtype)
        write_checksums(temporary)


def write_shards(folder: Path, tensors: Mapping[str, Tensor], max_shard_size: int, dtype: torch.dtype | None = None) -> None:
    """Write tensors as model.safetensors if they fit in one shard, else as shards with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    room = max_shard_size
    for name, tensor in tensors.items():
        size = tensor.numel() * (dtype or tensor.dtype).itemsize
        if shards[-1] and size > room:
            shards.append({})
            room = max_shard_size
        shards[-1][name] = tensor
        room -= size
    if len(shards) == 1:
        write_tensors(folder / "model.safetensors", shards[0], dtype)
        return
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        write_tensors(folder / file, shard, dtype)
        weight_map.update(dict.fromkeys(shard, file))
    total = sum(tensor.numel() * (dtype or tensor.dtype).itemsize for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


@contextlib.contextmanager
def whole_folder(folder: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A temporary folder beside `folder` that takes its name when the block ends well and vanishes otherwise.

    An existing folder is moved aside first and comes back if the change of names fails.
    """
    folder = folder.absolute()
    if folder.exists() and not folder.is_dir():
        raise CheckpointError(f"{folder} is a file: choose the name of a folder")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise CheckpointError(f"{folder} exists and is not empty: choose another folder, or allow overwriting")
    temporary = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
        os.chmod(temporary, 0o755)
        yield temporary
        _take_place(temporary, folder)
    except OSError as error:
        raise CheckpointError(f"cannot write {folder} ({error.strerror}): free some space or choose another folder") from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _take_place(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.replace(new, folder)
        return
    old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.old."))
    os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        os.replace(old, folder)
        raise
    for file in old.iterdir():
        stale = file.name.startswith("model") and ".safetensors" in file.name
        if not stale and not (folder / file.name).exists():
            os.replace(file, folder / file.name)
    shutil.rmtree(old, ignore_errors=True)
