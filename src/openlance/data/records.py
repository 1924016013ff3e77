"""A record: one training example of any task, as typed data. Everything that trains a model passes through this form."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from openlance.errors import LanceError
from openlance.media.clip import Clip
from openlance.sequence.tasks import Task, find_task, infer_task

Frames = NDArray[np.uint8]
IMAGE, VIDEO = "image", "video"
KNOWN_KEYS = frozenset({"id", "task", "text", "answer", "system", "media", "target", "items"})


class RecordError(LanceError):
    """A record that cannot be used; the message names it and says why."""


class Drawing(Protocol):
    """A medium that is drawn when it is looked at."""

    @property
    def fps(self) -> float: ...

    def pixels(self) -> Frames:
        """uint8 (F, H, W, 3)."""


@dataclass(frozen=True)
class Medium:
    """One image or video: its pixels, or where they are."""

    kind: str
    """`image` or `video`."""
    source: Clip | Path | bytes | Drawing

    def __post_init__(self) -> None:
        if self.kind not in (IMAGE, VIDEO):
            raise RecordError(f"a medium is '{IMAGE}' or '{VIDEO}', not '{self.kind}'")

    def clip(self) -> Clip:
        """The decoded frames. Raises MediaError naming the file."""
        if isinstance(self.source, Clip):
            return self.source
        if isinstance(self.source, Path | bytes):
            from openlance.media.read import read_image, read_video

            return read_image(self.source) if self.kind == IMAGE else read_video(self.source)
        return Clip(self.source.pixels(), self.source.fps)


@dataclass(frozen=True)
class Words:
    """What is said in an example, for media that are features already."""

    task: str
    text: str = ""
    answer: str | None = None
    system: str | None = None
    """Replaces the SYSTEM text of the task."""
    more: tuple[tuple[str, str], ...] = ()
    """Further (question, answer) pairs about the same media, each as if it were asked alone."""

    @property
    def definition(self) -> Task:
        return find_task(self.task)


@dataclass(frozen=True)
class Record:
    """One example: what a user gives (`text`, `media`) and what the model must make of it (`target` or `answer`)."""

    task: str
    text: str = ""
    media: tuple[Medium, ...] = ()
    target: Medium | None = None
    answer: str | None = None
    system: str | None = None
    """Replaces the SYSTEM text of the task."""
    id: str = ""

    def __post_init__(self) -> None:
        task = self.definition
        low, high = task.media
        if not low <= len(self.media) <= high:
            raise RecordError(f"record '{self.id}': task '{task.name}' takes {low} to {high} media, this has {len(self.media)}")
        wanted = "answer" if task.output == "text" else "target"
        given = [name for name in ("answer", "target") if getattr(self, name) is not None]
        if given != [wanted]:
            raise RecordError(f"record '{self.id}': task '{task.name}' needs {wanted} and nothing else to learn, this has {given}")

    @property
    def definition(self) -> Task:
        return find_task(self.task)

    @property
    def words(self) -> Words:
        return Words(self.task, self.text, self.answer, self.system)


def from_items(items: Sequence[tuple[str | Medium, bool]], subject: bool = False, **fields: Any) -> Record:
    """A record of interleaved items in any order, each with its target mark; the one marked item is what is learned.

    The texts that are given are joined in order; `subject` as in `infer_task`. A video after one image is an animation of it.
    """
    given = [item for item, is_target in items if not is_target]
    targets = [item for item, is_target in items if is_target]
    if len(targets) != 1:
        raise RecordError(f"an interleaved record has one item marked as target, not {len(targets)}")
    target = targets[0]
    media = tuple(item for item in given if isinstance(item, Medium))
    kinds = tuple(item.kind for item in media)
    output = "text" if isinstance(target, str) else target.kind
    first_frame = output == VIDEO and kinds == (IMAGE,) and not subject
    task = infer_task(output, kinds, first_frame, subject)
    text = " ".join(item for item in given if isinstance(item, str))
    learned = {"answer": target} if isinstance(target, str) else {"target": target}
    return Record(task.name, text, media, **learned, **fields)


def read_jsonl(path: Path) -> Iterator[Record]:
    """Records of a JSONL file; media are paths relative to its folder.

    Keys: `id, task, text, answer, system, media: [{image|video: path}], target: {image|video: path}`, or instead of task, text, media
    and target `items: [{text|image|video: ..., target: true}]`. Raises RecordError naming line and key.
    """
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                try:
                    yield parse(json.loads(line), path.parent, f"{path.name}:{number}")
                except (ValueError, TypeError, KeyError) as error:
                    raise RecordError(f"{path}, line {number}: {error}") from error


def open_records(path: Path) -> Sequence[Record]:
    """The records of a `.parquet` file, read as they are needed, or of a JSONL file. Raises RecordError."""
    if path.suffix == ".parquet":
        from openlance.data.parquet import ParquetRecords

        return ParquetRecords(path)
    return list(read_jsonl(path))


def parse(values: dict[str, Any], folder: Path, name: str) -> Record:
    """One record of its JSON form."""
    unknown = sorted(set(values) - KNOWN_KEYS)
    if unknown:
        raise RecordError(f"unknown keys {unknown}; known: {sorted(KNOWN_KEYS)}")
    rest = {key: values[key] for key in ("system",) if key in values}
    rest["id"] = str(values.get("id", name))
    if "items" in values:
        items = [(_item(item, folder), bool(item.get("target", False))) for item in values["items"]]
        return from_items(items, **rest)
    media = tuple(_medium(item, folder) for item in values.get("media", ()))
    target = _medium(values["target"], folder) if "target" in values else None
    record = Record(values["task"], values.get("text", ""), media, target, values.get("answer"), **rest)
    return replace(record, task=record.definition.name)


def _item(item: dict[str, Any], folder: Path) -> str | Medium:
    return str(item["text"]) if "text" in item else _medium(item, folder)


def _medium(item: dict[str, Any], folder: Path) -> Medium:
    kinds = [kind for kind in (IMAGE, VIDEO) if kind in item]
    if len(kinds) != 1:
        raise RecordError(f"a medium is {{'image': path}} or {{'video': path}}, not {sorted(item)}")
    path = (folder / str(item[kinds[0]])).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise RecordError(f"{item[kinds[0]]} lies outside the folder of the data file: move the media beside it")
    return Medium(kinds[0], path)
