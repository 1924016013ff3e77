"""Streamed reading and writing of tensor files against the libraries that hold everything at once."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from openlance.errors import CheckpointError
from openlance.weights import tensorfile
from openlance.weights.tensorfile import PickleFile, open_tensors, write_tensors

DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64])
SHAPES = st.lists(st.integers(0, 7), min_size=0, max_size=4)


def whole(file, name):
    out = torch.full(file.entries[name].shape, torch.nan, dtype=file.entries[name].dtype)
    for row, piece in file.rows(name):
        (out[row : row + len(piece)] if out.ndim else out).copy_(piece)
    return out


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(tensorfile, "CHUNK_BYTES", 32)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(SHAPES, DTYPES), min_size=1, max_size=4), st.integers(0, 99))
def test_both_ends_agree_with_the_library(tmp_path, small_chunks, kinds, seed):
    generator = torch.Generator().manual_seed(seed)
    tensors = {f"t{i}": torch.randn(shape, generator=generator).to(dtype) for i, (shape, dtype) in enumerate(kinds)}
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    write_tensors(ours, tensors)
    save_file(tensors, theirs)
    for name, tensor in load_file(ours).items():
        assert torch.equal(tensor, tensors[name])
        assert tensor.dtype == tensors[name].dtype
    for path in (ours, theirs):
        file = open_tensors(path)
        assert file.entries.keys() == tensors.keys()
        assert all(torch.equal(whole(file, name), tensor) for name, tensor in tensors.items())


def test_writing_converts_and_takes_views(tmp_path):
    rows = torch.arange(12.0).reshape(6, 2)
    write_tensors(tmp_path / "a.safetensors", {"upper": rows[:2], "lower": rows[2:], "turned": rows.T}, torch.bfloat16)
    back = load_file(tmp_path / "a.safetensors")
    assert torch.equal(back["upper"], rows[:2].bfloat16())
    assert torch.equal(back["lower"], rows[2:].bfloat16())
    assert torch.equal(back["turned"], rows.T.bfloat16())


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_only_the_rows_asked_for_are_read(tmp_path, small_chunks, kind):
    tensors = {"first": torch.randn(4, 2), "a": torch.randn(9, 5), "line": torch.randn(40), "number": torch.randn(())}
    path = tmp_path / f"a.{kind}"
    (save_file if kind == "safetensors" else torch.save)(tensors, path)
    file = open_tensors(path)
    for name in ("a", "line"):
        for start, stop in ((0, 0), (0, 1), (2, 7), (3, None), (5, 99), (50, 60)):
            expected, found = tensors[name][start:stop], start
            for row, piece in file.rows(name, start, stop):
                assert row == found
                assert torch.equal(piece, tensors[name][row : row + len(piece)])
                found += len(piece)
            assert found == start + len(expected)
    assert torch.equal(next(file.rows("number"))[1], tensors["number"])


def test_pickle_equals_torch_and_is_remapped(tmp_path, small_chunks, monkeypatch):
    monkeypatch.setattr(PickleFile, "REMAP_BYTES", 64)
    tensors = {"a": torch.randn(9, 5), "b": torch.randn(()), "c": torch.randn(3, 2, 2).bfloat16()}
    torch.save(tensors, tmp_path / "a.pth")
    file = open_tensors(tmp_path / "a.pth")
    maps, original = [], file._map
    monkeypatch.setattr(file, "_map", lambda: maps.append(1) or original())
    assert all(torch.equal(whole(file, name), tensor) for name, tensor in tensors.items())
    assert maps


def test_shards_read_as_one(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}))
    file = open_tensors(index)
    assert {name: entry.shape for name, entry in file.entries.items()} == {"a": (2,), "b": (3,)}
    (tmp_path / "two.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"lacks 1 of 2 shards: two\.safetensors; download"):
        open_tensors(index)
    save_file({"a": torch.ones(2)}, tmp_path / "two.safetensors")
    with pytest.raises(CheckpointError, match=r"'a' is in .*stale"):
        open_tensors(index)


MAPS = ['{"a": "../x.safetensors"}', '{"a": "/x.safetensors"}', '{"a": 3}', "{}"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", *(f'{{"weight_map": {weight_map}}}' for weight_map in MAPS)])
def test_hostile_index(tmp_path, content):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    with pytest.raises(CheckpointError, match=r"index\.json"):
        open_tensors(path)


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_truncated_safetensors_is_named(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(64, 64)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"model\.safetensors .*truncated or corrupt.*download it again"):
        open_tensors(path)


def test_file_that_shrinks_while_being_read(tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.randn(64, 64)}, path)
    file = open_tensors(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="ends too early"):
        list(file.rows("a"))


def test_integers_are_no_weights(tmp_path):
    save_file({"a": torch.ones(2, dtype=torch.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"'a' in .* is stored as I8"):
        open_tensors(tmp_path / "a.safetensors")


class Evil:
    def __reduce__(self):
        return (print, ("code in a weight file was run",))


REFUSED = [([1], "holds a list"), ({"a": 3}, "more than floating-point tensors: a"), (Evil(), "no readable pickle")]


@pytest.mark.parametrize(("content", "words"), REFUSED)
def test_pickles_of_anything_else_are_refused(tmp_path, capsys, content, words):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=words):
        open_tensors(tmp_path / "a.pth")
    assert "was run" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"not a pickle", None])
def test_broken_pickles_are_named(tmp_path, content):
    path = tmp_path / "Wan2.2_VAE.pth"
    torch.save({"a": torch.randn(100, 100)}, path)
    path.write_bytes(path.read_bytes()[:20_000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"Wan2\.2_VAE\.pth is no readable pickle.*download it again"):
        open_tensors(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_tensors(tmp_path / "model.safetensors")
    (tmp_path / "model.gguf").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no weight file"):
        open_tensors(tmp_path / "model.gguf")


def test_failed_writing_leaves_nothing(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"a": torch.ones(3)})
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openlance.files.os.replace", full)
    with pytest.raises(CheckpointError, match="No space left on device; free some space"):
        write_tensors(path, {"a": torch.zeros(3)})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_unwritable_folder_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot write .*nowhere.*No such file"):
        write_tensors(Path(tmp_path / "nowhere" / "a.safetensors"), {"a": torch.ones(1)})
