"""Parquet with the reference's columns."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from openlance.data.check import check_records
from openlance.data.files import open_records
from openlance.data.parquet import ROW_GROUP, ParquetRecords, write_parquet
from openlance.data.records import IMAGE, VIDEO, Medium, Record, RecordError
from openlance.media.clip import Clip

parquet = pytest.importorskip("pyarrow.parquet")


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((64, 80, 3), value, np.uint8)).save(buffer, "png")
    return buffer.getvalue()


def mp4(folder: Path) -> bytes:
    frames = np.random.default_rng(0).integers(0, 255, (5, 64, 64, 3), dtype=np.uint8)
    Clip(frames, 8.0).save(folder / "clip.mp4")
    return (folder / "clip.mp4").read_bytes()


def write(path: Path, rows: list[dict[str, Any]], group: int = 2) -> Path:
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=group)
    return path


@pytest.mark.parametrize(
    ("columns", "task"),
    [
        (("caption", "image_bytes"), "t2i"),
        (("caption", "video_bytes"), "t2v"),
        (("caption", "input_image_bytes", "output_image_bytes"), "image_edit"),
        (("caption", "input_video_bytes", "output_video_bytes"), "video_edit"),
        (("image_bytes", "caption_i", "caption_q", "caption_a"), "understand"),
        (("video_bytes", "caption_i", "caption_q", "caption_a"), "understand"),
    ],
)
def test_columns_say_the_task(tmp_path: Path, columns: tuple[str, ...], task: str) -> None:
    values = {column: mp4(tmp_path) if "video" in column else png(90) if "image" in column else f"the {column}" for column in columns}
    (record,) = open_records(write(tmp_path / "data.parquet", [values]))
    assert record.task == task
    assert record.text == ("the caption_q" if task == "understand" else "the caption")
    assert (record.answer, record.system) == (("the caption_a", "the caption_i") if task == "understand" else (None, None))
    for medium in (*record.media, *([record.target] if record.target else [])):
        assert medium.clip().is_image == (medium.kind == "image")


def test_row_groups_are_read_in_any_order(tmp_path: Path) -> None:
    rows = [{"caption": f"number {i}", "image_bytes": png(i)} for i in range(7)]
    records = ParquetRecords(write(tmp_path / "data.parquet", rows, group=3))
    assert len(records) == 7
    for i in (6, 0, 3, 2, 5, 1, 4):
        target = records[i].target
        assert records[i].text == f"number {i}"
        assert target is not None
        assert target.clip().frames.flat[0] == i
    with pytest.raises(IndexError, match="record 7"):
        records[7]


def test_what_is_not_a_record_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="which are those of no task"):
        open_records(write(tmp_path / "odd.parquet", [{"words": "x"}]))
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(RecordError, match=r"torn\.parquet is not a readable parquet file"):
        open_records(tmp_path / "torn.parquet")
    with pytest.raises(RecordError, match="no file"):
        open_records(tmp_path / "absent.parquet")
    rows = [{"caption": caption, "image_bytes": data} for caption, data in (("good", png(1)), (None, png(1)), ("bad", b"no png"))]
    report = check_records(write(tmp_path / "mixed.parquet", rows))
    assert report.good == 1
    assert [line.split(":")[0] for line in report.failures] == ["record 1", "record 2"]
    assert "caption holds NoneType, not str" in report.failures[0]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    one, other, film = png(1), png(2), mp4(tmp_path)
    (tmp_path / "clip.mp4").unlink()
    records = [
        Record("t2i", "a", target=Medium(IMAGE, one), id="0"),
        Record("image_edit", "b", (Medium(IMAGE, one),), Medium(IMAGE, other), id="1"),
        Record("understand", "c", (Medium(IMAGE, other),), answer="yes", system="Look.", id="2"),
        Record("understand", "d", (Medium(VIDEO, film),), answer="no", id="3"),
        Record("t2v", "e", target=Medium(VIDEO, film), id="4"),
        Record("video_edit", "f", (Medium(VIDEO, film),), Medium(VIDEO, film), id="5"),
        *(Record("t2i", f"g{i}", target=Medium(IMAGE, png(i)), id=f"6-{i}") for i in range(2 * ROW_GROUP)),
    ]
    paths = write_parquet(records, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    again = {path.stem: list(open_records(path)) for path in paths}
    assert set(again) == {"image", "image-to-image", "image-to-text", "video-to-text", "video", "video-to-video"}
    assert [record.text for record in again["image"]] == ["a", *(f"g{i}" for i in range(2 * ROW_GROUP))]
    found = sorted((record for records in again.values() for record in records), key=lambda record: record.text)
    wanted = sorted(records, key=lambda record: record.text)
    assert [replace(record, id="") for record in found] == [replace(record, id="") for record in wanted]


def test_what_parquet_has_no_columns_for_is_named(tmp_path: Path) -> None:
    first, film = Medium(IMAGE, png(1)), Medium(VIDEO, mp4(tmp_path))
    (tmp_path / "clip.mp4").unlink()
    good = Record("t2i", "a", target=first, id="good")
    for odd in (
        Record("i2v", "a", (first,), film, id="odd"),
        Record("subject_image", "a", (first,), first, id="odd"),
        Record("image_edit", "a", (first, first), first, id="odd"),
        Record("understand", "a", (first, film), answer="b", id="odd"),
        Record("text", "a", answer="b", id="odd"),
    ):
        with pytest.raises(RecordError, match=r"record 'odd': parquet has no columns for .*use JSON lines.*image_edit, t2i, t2v"):
            write_parquet([good, odd], tmp_path)
    with pytest.raises(RecordError, match="have no bytes"):
        write_parquet([Record("t2i", "a", target=Medium(IMAGE, first.clip()))], tmp_path)
    with pytest.raises(RecordError, match=r"gone\.png cannot be read"):
        write_parquet([good, Record("t2i", "a", target=Medium(IMAGE, tmp_path / "gone.png"))], tmp_path)
    assert not list(tmp_path.iterdir())
    assert write_parquet([], tmp_path) == []
