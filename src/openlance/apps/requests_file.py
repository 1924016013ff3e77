"""A file of requests: lines or parquet rows of our own format, or one of the two JSON formats of the released model's batch inference.

ours       {"id": ..., "task": ..., "prompt": ..., "images": [...], "videos": [...], "seed": ..., any sampling parameter}, a line a request;
           or parquet with such columns, a row a request, null where a request does not have one
prompts    {"NAME": "prompt", ...}
interleave {"NAME": {"interleave_array": [...], "element_dtype_array": ["text", "image", ...], "istarget_in_interleave": [0, ...]}, ...}
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from openlance.apps.output import LONGEST_NAME, slug
from openlance.apps.parameters import EVERYTHING
from openlance.errors import MissingExtra, RequestError
from openlance.sequence.tasks import find_task

T = TypeVar("T")
PARAMETERS = {parameter.name: parameter for parameter in EVERYTHING}
KEYS = ("id", "task", "prompt", "images", "videos", *PARAMETERS)
INTERLEAVED = frozenset({"interleave_array", "element_dtype_array", "istarget_in_interleave"})
MEDIA_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".mp4", ".gif", ".txt", ".json")


@dataclass(frozen=True)
class Job:
    """One request of a file. `error`: why it cannot be run, found before anything was run."""

    id: str
    task: str = ""
    prompt: str = ""
    media: tuple[Path | bytes, ...] = ()
    """Paths, or the content of files that were read already."""
    parameters: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def read_jobs(path: Path, task: str | None = None) -> list[Job]:
    """All requests of a file, in order; `task` for those that name none. Lines that are wrong are jobs with an error.

    Raises RequestError if the file cannot be read, is empty, or is JSON of another form, MissingExtra for parquet without pyarrow.
    """
    jobs = list(_from_parquet(path, task) if path.suffix.lower() == ".parquet" else _from_text(path, task))
    if not jobs:
        raise RequestError(f"{path} holds no requests: write one JSON object a line, e.g. {{'task': 't2i', 'prompt': 'a cat'}}")
    return jobs


def _from_text(path: Path, task: str | None) -> Iterator[Job]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path} ({error}): give a file of JSON lines in UTF-8") from error
    named = _named_requests(text, path.suffix.lower() == ".json")
    if named is not None:
        return _from_names(named, path, task)
    lines = ((number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip())
    return _from_rows(lines, _object, "line", path, task)


def _from_parquet(path: Path, task: str | None) -> Iterator[Job]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtra("pyarrow", "train") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except (OSError, pyarrow.ArrowException) as error:
        raise RequestError(f"cannot read {path} ({error}): give parquet with a column a key of a request") from error
    return _from_rows(enumerate(rows, 1), _given, "row", path, task)


def _given(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if value is not None}


def _named_requests(text: str, surely: bool) -> dict[str, Any] | None:
    """The content of a file in a format of the released model, None for lines of our own."""
    try:
        values = json.loads(text)
    except ValueError:
        return None
    if not isinstance(values, dict):
        return None
    ours = set(values) <= set(KEYS) and not surely
    foreign = all(isinstance(value, str) or (isinstance(value, dict) and set(value) >= INTERLEAVED) for value in values.values())
    return values if foreign and not ours else None


def _from_rows(
    rows: Iterable[tuple[int, T]], read: Callable[[T], dict[str, Any]], word: str, path: Path, task: str | None
) -> Iterator[Job]:
    """Jobs of numbered rows in our own format. `read` makes a row an object or raises RequestError; `word`: what a row is called."""
    seen: set[str] = set()
    for number, row in rows:
        name = f"{number:06d}"
        try:
            values = read(row)
            if str(values.get("id", name)) in seen:
                raise RequestError(f"the id '{values.get('id', name)}' is used by an earlier {word}: ids must be unique")
            name = str(values.get("id", name))
            seen.add(name)
            yield _job(name, values, path.parent, task)
        except RequestError as error:
            yield Job(name, error=f"{path.name}, {word} {number}: {error}")


def _object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise RequestError(f"it is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise RequestError(f"a request is a JSON object, not {type(values).__name__}")
    return values


def _job(name: str, values: dict[str, Any], folder: Path, task: str | None) -> Job:
    for key in values:
        if key not in KEYS:
            near = difflib.get_close_matches(key, KEYS, n=1)
            raise RequestError(f"unknown key '{key}': " + (f"did you mean '{near[0]}'?" if near else f"known are {', '.join(KEYS)}"))
    wanted = values.get("task", task)
    if not isinstance(wanted, str):
        raise RequestError("it names no task: add the key 'task', e.g. 't2i', or pass --task")
    prompt = values.get("prompt", "")
    if not isinstance(prompt, str):
        raise RequestError(f"prompt must be a string, not {prompt!r}")
    media = [*_paths(values, "images"), *_paths(values, "videos")]
    parameters = {key: PARAMETERS[key].check(value) for key, value in values.items() if key in PARAMETERS and value is not None}
    return Job(name, find_task(wanted).name, prompt, tuple(folder / path for path in media), parameters)


def _paths(values: dict[str, Any], key: str) -> list[str]:
    given = values.get(key) or []
    paths = [given] if isinstance(given, str) else given
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise RequestError(f"{key} must be a list of paths, not {given!r}")
    return paths


def _from_names(named: dict[str, Any], path: Path, task: str | None) -> Iterator[Job]:
    if task is None:
        raise RequestError(f"{path} is in a format of the released model, which names no task: pass --task, e.g. --task t2i")
    kind = find_task(task)
    for name, value in named.items():
        try:
            if isinstance(value, str):
                yield Job(name, kind.name, value)
            else:
                yield _interleaved(name, value, path.parent, kind.name)
        except RequestError as error:
            yield Job(name, error=f"{path.name}, '{name}': {error}")


def _interleaved(name: str, value: dict[str, Any], folder: Path, task: str) -> Job:
    """Texts and media of an interleaved entry. A (system, question, answer) triple gives SYSTEM and prompt; other targets are left out."""
    items, kinds, targets = (value[key] for key in ("interleave_array", "element_dtype_array", "istarget_in_interleave"))
    if not len(items) == len(kinds) == len(targets):
        raise RequestError(f"its three lists have {len(items)}, {len(kinds)} and {len(targets)} elements: they must be equally long")
    prompts: list[str] = []
    media: list[Path] = []
    parameters: dict[str, Any] = {}
    for item, kind, target in zip(items, kinds, targets, strict=True):
        if isinstance(item, list) and len(item) == 3 and all(isinstance(text, str) for text in item):
            parameters["system"], question, _ = item
            prompts.append(question)
        elif not target and isinstance(item, str):
            if kind == "text":
                prompts.append(item)
            else:
                media.append(folder / item)
        elif not target:
            raise RequestError(f"element {item!r} of kind '{kind}' is no text and no path")
    return Job(name, task, " ".join(prompts), tuple(media), parameters)


def file_names(jobs: list[Job]) -> dict[str, str]:
    """A safe, distinct file name (without suffix) for every id: what is not a word becomes a dash."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for job in jobs:
        stem = next((job.id[: -len(suffix)] for suffix in MEDIA_SUFFIXES if job.id.lower().endswith(suffix)), job.id)
        plain = slug(stem, "result")
        name, number = plain, 2
        while name in taken:
            name, number = f"{plain[: LONGEST_NAME - 8]}-{number}", number + 1
        taken.add(name)
        names[job.id] = name
    return names
