"""Examples as files: lossless, to learn from and to ask of any model."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from openlance.errors import LanceError
from openlance.world.draw import Setting
from openlance.world.examples import Example
from openlance.world.export import export
from openlance.world.tasks import CATEGORIES, make_example
from tests.disk import no_file_larger_than

EXAMPLES = [
    make_example(task, category, 3, Setting(64, 64, num_frames=5))
    for task, category in (("t2i", "colour"), ("t2v", "free"), ("understand", "what"), ("i2v", "free"), ("video_edit", "background"))
]


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_export_is_lossless(tmp_path: Path) -> None:
    assert export(EXAMPLES, tmp_path) == len(EXAMPLES)
    records = [json.loads(line) for line in (tmp_path / "examples.jsonl").read_text().splitlines()]
    for record, example in zip(records, EXAMPLES, strict=True):
        target = record["turns"][0]["target"]
        if target is None:
            continue
        with Image.open(tmp_path / target.pop("path")) as picture:
            assert getattr(picture, "n_frames", 1) == target["num_frames"]
            picture.seek(target["num_frames"] - 1)
            shown = np.asarray(picture.convert("RGB"))
        assert example.target is not None
        assert np.array_equal(shown, example.target.pixels()[-1])
    assert Example.from_dict(records[0]) == EXAMPLES[0]
    assert not list(tmp_path.rglob("*.tmp"))


def test_every_turn_is_a_record_and_what_has_one_turn_is_a_request(tmp_path: Path) -> None:
    story = make_example("story", "three turns", 5, Setting(96, 96))
    export([*EXAMPLES, story], tmp_path)
    records, requests = lines(tmp_path / "records.jsonl"), lines(tmp_path / "requests.jsonl")
    names = [name for example in (*EXAMPLES, story) for name in example.names]
    assert [record["id"] for record in records] == names
    assert len(set(names)) == len(names) == len(EXAMPLES) + 3
    assert [request["id"] for request in requests] == names[: len(EXAMPLES)]
    assert [(request["prompt"], request["seed"]) for request in requests] == [(example.text, example.seed) for example in EXAMPLES]
    assert requests[1] | {"height": 64, "width": 64, "num_frames": 5} == requests[1]
    assert "height" not in requests[2]
    assert requests[3]["images"] == ["media/i2v_free_train_3_in0.png"]
    assert requests[4]["videos"] == ["media/video_edit_background_train_3_in0.png"]


def test_names_are_those_of_no_other_example() -> None:
    found = [
        name
        for task, categories in CATEGORIES.items()
        for category in categories
        for index in range(2)
        for name in make_example(task, category, index, Setting(256, 256)).names
    ]
    assert len(set(found)) == len(found)
    assert all(name.replace("_", "").replace("-", "").isalnum() for name in found)


def test_a_full_disk_leaves_no_list(tmp_path: Path) -> None:
    with no_file_larger_than(3000), pytest.raises(LanceError, match="free some space"):
        export(EXAMPLES * 20, tmp_path)
    assert not list(tmp_path.glob("*.jsonl"))
    assert not list(tmp_path.rglob("*.tmp"))
