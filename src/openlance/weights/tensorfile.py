"""Tensor files read and written as streams: a few megabytes of rows at a time, whatever the size of a file.

The safetensors library maps a file whole (its pages count as memory of the process) and writes from a dictionary that holds
everything at once. Here the library checks a file, and the rows are then read and written by position.
Rows are slices along the first axis.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from openlance.errors import CheckpointError
from openlance.files import whole_file

CHUNK_BYTES = 8 << 20
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
CODES = {dtype: code for code, dtype in DTYPES.items()}


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its kind, its shape, and where its bytes begin."""

    path: Path
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int = 0

    def rows(self, start: int = 0, stop: int | None = None) -> range:
        """Indices of the rows [start, stop), by default of all; a number is one row."""
        return range(self.shape[0] if self.shape else 1)[start:stop]


class TensorFile(Protocol):
    """Named tensors on disk."""

    @property
    def entries(self) -> Mapping[str, Entry]: ...

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Tensor]]:
        """Pieces (index of the first row, rows) of rows [start, stop) of a tensor, by default of all, from top to bottom; nothing else is
        read. A piece is valid until the next is asked for."""


def open_tensors(path: Path) -> TensorFile:
    """Tensors of a .safetensors file, of a .safetensors.index.json with its shards, or of a .pth pickle of tensors.

    Raises CheckpointError naming the file and the remedy if it is missing, truncated, corrupt or not of these kinds.
    """
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist: download it again, or point to the folder that holds it")
    if path.name.endswith(".index.json"):
        return SafetensorsFile(_shards(path))
    if path.suffix == ".safetensors":
        return SafetensorsFile([path])
    if path.suffix in (".pth", ".pt"):
        return PickleFile(path)
    raise CheckpointError(f"{path} is no weight file: expected .safetensors, .safetensors.index.json or .pth")


def _shards(index: Path) -> list[Path]:
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of shards ({error!r}): download it again") from error
    foreign = sorted(name for name in names if not isinstance(name, str) or Path(name).name != name)
    if foreign or not names:
        raise CheckpointError(f"{index} names {foreign or 'no shards'}: shards must be files beside it")
    missing = sorted(name for name in names if not (index.parent / name).is_file())
    if missing:
        raise CheckpointError(f"{index.parent} lacks {len(missing)} of {len(names)} shards: {', '.join(missing)}; download them again")
    return [index.parent / name for name in sorted(names)]


class SafetensorsFile:
    """One or several safetensors files as one, read row range by row range without mapping them."""

    def __init__(self, paths: list[Path]) -> None:
        self.entries: dict[str, Entry] = {}
        for path in paths:
            for name, entry in _read_header(path).items():
                if name in self.entries:
                    raise CheckpointError(f"'{name}' is in {self.entries[name].path} and in {path}: delete the stale shard")
                self.entries[name] = entry

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Tensor]]:
        entry = self.entries[name]
        width = math.prod(entry.shape[1:])
        wanted = entry.rows(start, stop)
        if not wanted or not width:
            return
        row_bytes = width * entry.dtype.itemsize
        step = max(1, CHUNK_BYTES // row_bytes)
        buffer = bytearray(min(step, len(wanted)) * row_bytes)
        with open(entry.path, "rb", buffering=0) as file:
            file.seek(entry.offset + wanted.start * row_bytes)
            for first in wanted[::step]:
                rows = min(step, wanted.stop - first)
                _fill(file, memoryview(buffer)[: rows * row_bytes], entry.path)
                piece = torch.frombuffer(buffer, dtype=entry.dtype, count=rows * width)
                yield first, piece.reshape(rows, *entry.shape[1:]) if entry.shape else piece.reshape(())


def _fill(file: Any, view: memoryview, path: Path) -> None:
    while view:
        count = file.readinto(view)
        if not count:
            raise CheckpointError(f"{path} ends too early: it was changed or truncated while being read; download it again")
        view = view[count:]


def _read_header(path: Path) -> dict[str, Entry]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt"):  # checks header, offsets and length of the file; reads no tensor
            pass
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except (SafetensorError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} ({path.stat().st_size} bytes) is truncated or corrupt ({error}): download it again") from error
    entries = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        if about["dtype"] not in DTYPES:
            raise CheckpointError(f"'{name}' in {path} is stored as {about['dtype']}: weights must be one of {', '.join(DTYPES)}")
        entries[name] = Entry(path, DTYPES[about["dtype"]], tuple(about["shape"]), 8 + size + about["data_offsets"][0])
    return entries


class PickleFile:
    """A .pth file that holds a dictionary of tensors and nothing else; no code in it is ever run.

    The file is mapped, and mapped anew after every 64 MB: pages already read would else count as memory of the process.
    """

    REMAP_BYTES = 64 << 20

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0
        self._tensors = self._map()
        self.entries = {name: Entry(path, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors.items()}

    def _map(self) -> dict[str, Tensor]:
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:  # torch raises several kinds, by the byte at which a file stops making sense
            reason = str(error).split("\n")[0]
            raise CheckpointError(f"{self.path} is no readable pickle of tensors ({reason}): download it again") from error
        if not isinstance(content, dict):
            raise CheckpointError(f"{self.path} holds a {type(content).__name__}: expected a dictionary of tensors")
        wrong = [str(name) for name, value in content.items() if not (isinstance(value, Tensor) and value.dtype in CODES)]
        if wrong:
            raise CheckpointError(f"{self.path} holds more than floating-point tensors: {', '.join(wrong[:5])}")
        return content

    def rows(self, name: str, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Tensor]]:
        entry = self.entries[name]
        step = max(1, CHUNK_BYTES // max(1, math.prod(entry.shape[1:]) * entry.dtype.itemsize))
        wanted = entry.rows(start, stop)
        for first in wanted[::step]:
            if self._read > self.REMAP_BYTES:
                self._read, self._tensors = 0, {}
                self._tensors = self._map()
            tensor = self._tensors[name]
            piece = tensor[first : min(first + step, wanted.stop)] if entry.shape else tensor
            self._read += piece.nbytes
            yield first, piece


def write_tensors(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write a safetensors file, converting to `dtype` (default: each tensor's own) a few rows at a time.

    The file appears complete or not at all. Raises CheckpointError if it cannot be written.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors.items():
        kind = dtype or tensor.dtype
        size = tensor.numel() * kind.itemsize
        header[name] = {"dtype": CODES[kind], "shape": list(tensor.shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    with whole_file(path, CheckpointError) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            flat = tensor.detach() if tensor.ndim else tensor.detach().reshape(1)
            step = max(1, CHUNK_BYTES // max(1, math.prod(flat.shape[1:]) * tensor.element_size()))
            for start in range(0, flat.shape[0], step):
                piece = flat[start : start + step].to("cpu", dtype or tensor.dtype).contiguous()
                file.write(piece.reshape(-1).view(torch.uint8).numpy().data)
