"""Records as lines of JSON, with their media beside the file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from openlance.data.records import IMAGE, VIDEO, Medium, Record, RecordError, from_items

KNOWN_KEYS = frozenset({"id", "task", "text", "answer", "system", "media", "target", "items"})


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
