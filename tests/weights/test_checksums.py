"""A damaged weight file is noticed even where every number in it is finite and every tensor fits."""

import shutil
import subprocess
from pathlib import Path

import pytest

from openlance.errors import CheckpointError
from openlance.weights.checksums import CHECKSUMS, check_weights
from openlance.weights.hub import resolve
from openlance.weights.load import load_pretrained


@pytest.fixture
def nano_copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(resolve("nano").folder, tmp_path / "nano", ignore=shutil.ignore_patterns("*.py", "__pycache__")))


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1001] ^= 1
    path.write_bytes(data)


def test_the_embedded_weights_have_their_sums() -> None:
    folder = resolve("nano").folder
    assert (folder / CHECKSUMS).is_file()
    check_weights(folder)


def test_one_flipped_bit_is_an_error(nano_copy: Path) -> None:
    load_pretrained(nano_copy)
    flip_a_bit(nano_copy / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not what was saved .* install it again"):
        load_pretrained(nano_copy)
    check_weights(nano_copy, limit=1000)
    (nano_copy / CHECKSUMS).unlink()
    load_pretrained(nano_copy)


def test_sums_are_those_of_sha256sum(nano_copy: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum here")
    command = ["sha256sum", "-c", CHECKSUMS]
    assert subprocess.run(command, cwd=nano_copy, check=True, capture_output=True, text=True).stdout == "model.safetensors: OK\n"
