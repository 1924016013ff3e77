"""Records in parquet files with the reference's columns, media as bytes, read and written a row group at a time.

Source: the columns of the released recipe's local data (SPEC section 9). Which columns are there says what task a file is for.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from openlance.data.records import IMAGE, VIDEO, Medium, Record, RecordError, from_items
from openlance.files import whole_file
from openlance.sequence.tasks import infer_task

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

QUESTION = ("caption_i", "caption_q", "caption_a")
"""System text, question and answer of understanding."""
ROW_GROUP = 64
"""Rows that are written, and read again, at once."""
Layout = tuple[str, tuple[str, ...], str | None]
"""Kind of the media, columns that are given, column that is learned (None: the answer)."""
LAYOUTS: tuple[Layout, ...] = tuple(
    layout
    for kind in (IMAGE, VIDEO)
    for layout in (
        (kind, (f"input_{kind}_bytes",), f"output_{kind}_bytes"),
        (kind, (f"{kind}_bytes",), None),
        (kind, (), f"{kind}_bytes"),
    )
)


class ParquetRecords(Sequence[Record]):
    """The records of a parquet file. One row group is in memory at a time, so neighbours in order are cheap and jumps are not.

    Raises RecordError for a file that is not there, is not parquet, or has the columns of no task.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        self._layout = _find_layout(self._file.schema_arrow.names, path)
        metadata = self._file.metadata
        self._ends = list(accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))
        self._group: tuple[int, list[dict[str, Any]]] = (-1, [])

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | Sequence[Record]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of {self.path}, which has {len(self)}")
        group = bisect_right(self._ends, index)
        if self._group[0] != group:
            _, given, target = self._layout
            columns = [*given, *([target] if target else []), *(QUESTION if target is None else ("caption",))]
            self._group = (group, self._file.read_row_group(group, columns=columns).to_pylist())
        before = self._ends[group - 1] if group else 0
        return _record(self._group[1][index - before], self._layout, f"{self.path.name}:{index}")


def write_parquet(records: Iterable[Record], folder: Path) -> list[Path]:
    """Write records whose media are files or bytes into `folder`, a file for each set of columns (image.parquet, video-to-video.parquet).

    Returns the files; they appear when all are complete. Raises RecordError naming a record that the columns have no place for, such as
    an animation of a first frame.
    """
    try:
        import pyarrow
        from pyarrow.parquet import ParquetWriter
    except ImportError as error:
        raise RecordError("parquet needs pyarrow: pip install 'openlance[train]'") from error
    rows: dict[Layout, list[dict[str, Any]]] = {}
    writers: dict[Layout, ParquetWriter] = {}
    paths: list[Path] = []

    def flush(layout: Layout) -> None:
        table = pyarrow.Table.from_pylist(rows[layout])
        if layout not in writers:
            paths.append(folder / f"{_name_of(layout)}.parquet")
            writers[layout] = stack.enter_context(ParquetWriter(stack.enter_context(whole_file(paths[-1])), table.schema))
        writers[layout].write_table(table)
        rows[layout] = []

    with ExitStack() as stack:
        for record in records:
            layout = _layout_of(record)
            rows.setdefault(layout, []).append(_row(record, layout))
            if len(rows[layout]) == ROW_GROUP:
                flush(layout)
        for layout, left in rows.items():
            if left:
                flush(layout)
    return paths


def _name_of(layout: Layout) -> str:
    kind, given, target = layout
    return f"{kind}-to-text" if target is None else f"{kind}-to-{kind}" if given else kind


def _layout_of(record: Record) -> Layout:
    kinds = {medium.kind for medium in (*record.media, *([record.target] if record.target else []))}
    for layout in LAYOUTS:
        kind, given, _ = layout
        if kinds == {kind} and len(record.media) == len(given) and record.definition.name == _task_of(layout):
            return layout
    raise RecordError(
        f"record '{record.id}': parquet has no columns for {record.definition.name} of {len(record.media)} media, use JSON lines; "
        f"it has them for {', '.join(sorted({_task_of(layout) for layout in LAYOUTS}))}"
    )


def _task_of(layout: Layout) -> str:
    kind, given, target = layout
    return infer_task("text" if target is None else kind, (kind,) * len(given)).name


def _row(record: Record, layout: Layout) -> dict[str, Any]:
    _, given, target = layout
    row: dict[str, Any] = {column: _bytes(medium) for column, medium in zip(given, record.media, strict=True)}
    if target is None:
        return row | dict(zip(QUESTION, (record.system or "", record.text, record.answer), strict=True))
    assert record.target is not None
    return row | {"caption": record.text, target: _bytes(record.target)}


def _bytes(medium: Medium) -> bytes:
    if isinstance(medium.source, Path):
        try:
            return medium.source.read_bytes()
        except OSError as error:
            raise RecordError(f"{medium.source} cannot be read ({error.strerror}): bring it back, or leave its record out") from error
    if isinstance(medium.source, bytes):
        return medium.source
    raise RecordError("media that are drawn or decoded have no bytes: write them to files first")


def _open(path: Path) -> ParquetFile:
    if not path.exists():
        raise RecordError(f"no file {path}")
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise RecordError(f"{path} is parquet, which needs pyarrow: pip install 'openlance[train]'") from error
    try:
        return ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise RecordError(f"{path} is not a readable parquet file: {error}") from error


def _find_layout(columns: Iterable[str], path: Path) -> Layout:
    there = set(columns)
    for kind, given, target in LAYOUTS:
        words = QUESTION if target is None else ("caption",)
        if {*given, *words, *([target] if target else [])} <= there:
            return kind, given, target
    raise RecordError(
        f"{path} has the columns {sorted(there)}, which are those of no task: caption with image_bytes, video_bytes, or with "
        "input_image_bytes and output_image_bytes (or the same of video); or image_bytes or video_bytes with " + ", ".join(QUESTION)
    )


def _record(row: Mapping[str, Any], layout: Layout, name: str) -> Record:
    kind, given, target = layout
    for column, value in row.items():
        wanted = bytes if column.endswith("_bytes") else str
        if not isinstance(value, wanted):
            raise RecordError(f"record '{name}': {column} holds {type(value).__name__}, not {wanted.__name__}")
    media = [(Medium(kind, row[column]), False) for column in given]
    if target is None:
        return from_items([*media, (row["caption_q"], False), (row["caption_a"], True)], id=name, system=row["caption_i"] or None)
    return from_items([*media, (row["caption"], False), (Medium(kind, row[target]), True)], id=name)
