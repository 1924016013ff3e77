"""Files of records, by what their names say they are."""

from collections.abc import Sequence
from pathlib import Path

from openlance.data.jsonl import read_jsonl
from openlance.data.parquet import ParquetRecords
from openlance.data.records import Record


def open_records(path: Path) -> Sequence[Record]:
    """The records of a `.parquet` file, read as they are needed, or of a JSONL file. Raises RecordError."""
    return ParquetRecords(path) if path.suffix == ".parquet" else list(read_jsonl(path))
