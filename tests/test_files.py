"""Files are there whole or not at all."""

import json
from pathlib import Path

import pytest

from openlance.errors import CheckpointError, LanceError
from openlance.files import whole_file, write_json, write_text


def stopped(path: Path, error: BaseException) -> None:
    """Writing that gets halfway."""
    with whole_file(path, CheckpointError) as temporary:
        temporary.write_text("half")
        raise error


def test_a_file_takes_the_place_of_the_one_before_it_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with whole_file(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        temporary.write_text("new ü", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "new ü"
    write_json(path, {"a": [1]})
    assert json.loads(path.read_text()) == {"a": [1]}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_what_stops_the_writing_leaves_the_old_file_alone(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(type(error)):
        stopped(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_said_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot write '.*a\.json': No space left on device; free some space"):
        stopped(tmp_path / "a.json", OSError(28, "No space left on device"))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LanceError, match="No such file"):
        write_text(tmp_path / "none" / "a.json", "x")
