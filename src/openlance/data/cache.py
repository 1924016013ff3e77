"""A cache of features on disk: shards of examples whose pixels were encoded once by the frozen encoders.

A folder holds `cache.json` (what the features depend on; a mismatch is an error), and for each shard `shard-00007.safetensors` with two
tensors, `vision` (cells, D) and `latent` (cells, C) in bfloat16, and `shard-00007.jsonl` with one entry an example: the record's words
and where its features lie. The JSON file is written last, so a shard is complete once it is there. Words are in the JSON: they can be
changed without encoding anything again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from openlance.data.features import Encoders, encode_records
from openlance.data.records import Record, Words
from openlance.data.sample import ConditionDropout, MediumFeatures, Sample, bind_sample
from openlance.errors import LanceError
from openlance.files import whole_file
from openlance.sequence.bind import Binder

Place = tuple[int, int, int, int] | None
"""First cell in the shard's tensor, and the grid (t, h, w)."""
Rephrase = Callable[[dict[str, Any], Random], Words]
"""What is said of an entry, worded anew."""


@dataclass(frozen=True)
class _Shard:
    vision: Tensor
    latent: Tensor
    lines: list[bytes]


class ShardWriter:
    """Writes shards into a folder that belongs to one set of settings.

    `defaults`: by group of settings, what a folder stands for whose settings were written before such a field existed.
    """

    def __init__(self, folder: Path, settings: dict[str, Any], defaults: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "cache.json"
        theirs = _completed(json.loads(path.read_text()), defaults) if path.exists() else settings
        different = sorted(key for key in {*theirs, *settings} if theirs.get(key) != settings.get(key))
        if different:
            raise LanceError(
                f"{folder} holds features made with other settings ({', '.join(different)}): choose another folder, or remove it"
            )
        _write(path, json.dumps(settings, indent=1).encode())

    def complete(self, number: int) -> bool:
        return self._path(number, "jsonl").exists()

    def write(self, number: int, records: Sequence[Record], extras: Sequence[dict[str, Any]], encoders: Encoders, batch: int = 64) -> None:
        """Encode and write one shard; `extras` go into the entries as they are."""
        from safetensors.torch import save

        vision, latent = _Stack(), _Stack()
        lines = []
        for start in range(0, len(records), batch):
            part = records[start : start + batch]
            for record, extra, (media, target) in zip(part, extras[start:], encode_records(part, encoders), strict=False):
                places = [(vision.add(medium.vision), latent.add(medium.latent)) for medium in media]
                words = {"task": record.task, "text": record.text, "answer": record.answer, "system": record.system}
                lines.append(json.dumps({**words, "media": places, "target": latent.add(target), **extra}))
        _write(self._path(number, "safetensors"), save({"vision": vision.tensor(), "latent": latent.tensor()}))
        _write(self._path(number, "jsonl"), "\n".join(lines).encode())

    def _path(self, number: int, suffix: str) -> Path:
        return self.folder / f"shard-{number:05d}.{suffix}"


class _Stack:
    """Cells on top of each other, and where each tensor went."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []
        self._cells = 0

    def add(self, features: Tensor | None) -> Place:
        if features is None:
            return None
        t, h, w, _ = features.shape
        self._parts.append(features.flatten(0, 2).bfloat16())
        self._cells += t * h * w
        return self._cells - t * h * w, t, h, w

    def tensor(self) -> Tensor:
        return torch.cat(self._parts).contiguous() if self._parts else torch.zeros(0, 0, dtype=torch.bfloat16)


class CachedSource:
    """The examples of a cache folder. Shards are opened when first needed; new ones are noticed by `len`."""

    def __init__(self, name: str, folder: Path, binder: Binder, dropout: ConditionDropout, rephrase: Rephrase | None = None) -> None:
        self.name = name
        self.folder = folder
        self.binder = binder
        self.dropout = dropout
        self.rephrase = rephrase
        self._shards: list[_Shard] = []
        self._starts: list[int] = [0]

    def __len__(self) -> int:
        while (path := self.folder / f"shard-{len(self._shards):05d}.jsonl").exists():
            self._shards.append(_open(path))
            self._starts.append(self._starts[-1] + len(self._shards[-1].lines))
        return self._starts[-1]

    def contents(self) -> str:
        """The folder and its shards; those behind a gap do not count, as others may be built beside this run."""
        if not self.folder.is_dir():
            return f"there is no folder {self.folder}"
        known, found = len(self._shards), len(list(self.folder.glob("shard-*.jsonl")))
        behind = f", and {found - known} behind shard-{known:05d}.jsonl, which is missing" if found > known else ""
        return f"{self.folder} has {known} complete shards{behind}"

    def entries(self) -> Iterator[dict[str, Any]]:
        """What is known of every example besides its features."""
        for shard in self._shards:
            yield from (json.loads(line) for line in shard.lines)

    def sample(self, index: int, rng: Random) -> Sample:
        shard, entry = self._find(index)
        words = self.dropout.speak(words_of(entry) if self.rephrase is None else self.rephrase(entry, rng), rng)
        media = [MediumFeatures(_cut(shard.vision, vision), _cut(shard.latent, latent)) for vision, latent in entry["media"]]
        return bind_sample(self.binder, words, media, _cut(shard.latent, entry["target"]), self.dropout.draw(rng))

    def _find(self, index: int) -> tuple[_Shard, dict[str, Any]]:
        number = next(i for i, start in enumerate(self._starts) if start > index) - 1
        shard = self._shards[number]
        entry: dict[str, Any] = json.loads(shard.lines[index - self._starts[number]])
        return shard, entry


def words_of(entry: dict[str, Any]) -> Words:
    """What an entry says as it was written."""
    return Words(entry["task"], entry["text"], entry["answer"], entry["system"])


def _cut(tensor: Tensor, place: Place) -> Tensor | None:
    if place is None:
        return None
    start, t, h, w = place
    return tensor[start : start + t * h * w].reshape(t, h, w, -1)


def _open(path: Path) -> _Shard:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    features = path.with_suffix(".safetensors")
    try:
        tensors = load_file(features)
    except (OSError, SafetensorError) as error:
        raise LanceError(f"{features} cannot be read ({error}): remove {path.name} beside it and build the cache again") from error
    return _Shard(tensors["vision"], tensors["latent"], path.read_bytes().split(b"\n"))


def _completed(settings: dict[str, Any], defaults: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    return {**settings, **{group: {**values, **settings.get(group, {})} for group, values in defaults.items()}}


def _write(path: Path, content: bytes) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(content)
