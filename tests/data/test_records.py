"""Records of every form, and what is wrong with bad ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from openlance.data.jsonl import read_jsonl
from openlance.data.records import Medium, Record, RecordError, from_items
from openlance.media.clip import Clip

IMAGE = Medium("image", Clip(np.zeros((1, 16, 16, 3), np.uint8), 1.0))
VIDEO = Medium("video", Clip(np.zeros((5, 16, 16, 3), np.uint8), 8.0))


@pytest.mark.parametrize(
    ("items", "task"),
    [
        ([("a cat", False), (IMAGE, True)], "t2i"),
        ([("a cat", False), (VIDEO, True)], "t2v"),
        ([(IMAGE, False), ("it runs", False), (VIDEO, True)], "i2v"),
        ([(IMAGE, False), ("make it red", False), (IMAGE, True)], "image_edit"),
        ([(IMAGE, False), (IMAGE, False), ("both", False), (IMAGE, True)], "image_edit"),
        ([(VIDEO, False), ("make it red", False), (VIDEO, True)], "video_edit"),
        ([(VIDEO, False), ("what?", False), ("a cat", True)], "understand"),
        ([("hi", False), ("hello", True)], "text"),
    ],
)
def test_an_interleaved_list_finds_its_task(items: list[Any], task: str) -> None:
    record = from_items(items)
    assert record.task == task
    assert len(record.media) == sum(isinstance(item, Medium) for item, target in items if not target)


def test_a_subject_is_told_from_a_source() -> None:
    assert from_items([(IMAGE, False), ("on a beach", False), (IMAGE, True)], subject=True).task == "subject_image"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "t2i"}, "needs target"),
        ({"task": "t2i", "target": IMAGE, "answer": "x"}, "needs target"),
        ({"task": "understand", "answer": "x"}, "1 to 8 media"),
        ({"task": "fly", "target": IMAGE}, "no task 'fly'"),
    ],
)
def test_records_that_do_not_fit_their_task(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Record(**arguments)


def lines(folder: Path, *values: Any) -> Path:
    path = folder / "data.jsonl"
    path.write_text("\n".join(value if isinstance(value, str) else json.dumps(value) for value in values))
    return path


def test_jsonl_is_read_with_paths_beside_it(tmp_path: Path) -> None:
    path = lines(
        tmp_path,
        {"task": "image_edit", "text": "red", "media": [{"image": "a.png"}], "target": {"image": "b.png"}},
        "",
        {"id": 7, "items": [{"video": "c.mp4"}, {"text": "what?"}, {"text": "a cat", "target": True}], "system": "Look."},
    )
    edit, ask = read_jsonl(path)
    assert (edit.id, edit.media[0].source, edit.target and edit.target.source) == ("data.jsonl:1", tmp_path / "a.png", tmp_path / "b.png")
    assert (ask.id, ask.task, ask.text, ask.answer, ask.system) == ("7", "understand", "what?", "a cat", "Look.")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "line 1"),
        ({"task": "t2i", "txt": "x"}, "txt"),
        ({"task": "t2i", "target": {"image": "../../etc/passwd"}}, "outside the folder"),
        ({"task": "t2i", "target": {"picture": "a"}}, "picture"),
        ({"items": [{"text": "a"}]}, "one item marked as target"),
        ({"text": "no task"}, "task"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message) as error:
        list(read_jsonl(lines(tmp_path, value)))
    assert "line 1" in str(error.value)
