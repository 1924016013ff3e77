"""Batch files: formats, errors, resuming, and that sharing an engine changes no result."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from openlance.apps.requests_file import Job, file_names, read_jobs
from openlance.apps.results_file import Outcome, ResultsFile
from openlance.errors import RequestError
from tests.apps.conftest import Cli

SIZE = {"height": 32, "width": 32, "num_inference_steps": 2}


def write_lines(path: Path, *lines: dict[str, Any] | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines), encoding="utf-8")
    return path


def results_of(folder: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len({line["id"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def test_a_notice_is_told_once(tiny: Cli, tmp_path: Path) -> None:
    odd = {"task": "t2i", "prompt": "a", **SIZE, "height": 40}
    path = write_lines(tmp_path / "in.jsonl", *({"id": name, **odd} for name in ("a", "b", "c")), {"id": "d", **odd, "width": 40})
    run = tiny("batch", path, "--output", "out", "--batch-size", "1")
    assert run.code == 0
    told = [line for line in run.err.splitlines() if line.startswith("note:")]
    assert told == [f"note: {name}: {side} 40 is not a multiple of 16: 32 is used" for name, side in (("a", "height"), ("d", "width"))]


def test_errors_of_one_line_stop_no_other(tiny: Cli, tmp_path: Path) -> None:
    photo = tmp_path / "in" / "photo.png"
    path = write_lines(
        tmp_path / "in" / "requests.jsonl",
        {"id": "../up", "task": "t2i", "prompt": "a", **SIZE},
        {"id": "typo", "task": "t2i", "promt": "a"},
        "this is no JSON",
        {"id": "../up", "task": "t2i", "prompt": "again"},
        {"id": "gone", "task": "understand", "prompt": "a", "images": ["gone.png"]},
        {"id": "ask", "task": "understand", "prompt": "a", "images": ["photo.png"], "max_new_tokens": 3, "resolution": [64, 112]},
        {"id": "clip", "task": "t2v", "prompt": "a", "num_frames": 5, **SIZE},
        {"id": "kind", "task": "t2i", "prompt": "a", "seed": "seven"},
        {"id": "size", "task": "t2i", "prompt": "a", "height": 5},
    )
    Image.fromarray(np.zeros((40, 52, 3), np.uint8)).save(photo)
    run = tiny("batch", path, "--output", "out", "--batch-size", "3", "--json")
    results = results_of(tmp_path / "out")
    assert run.code == 2
    assert {line["id"] for line in run.results} == set(results)
    assert results["../up"]["files"] == ["up.png"]
    assert results["clip"]["files"] == ["clip.mp4"]
    assert set(results["ask"]) == {"id", "task", "text", "seconds", "error"}
    assert "line 2: unknown key 'promt': did you mean 'prompt'?" in results["typo"]["error"]
    assert "line 3: it is no JSON" in results["000003"]["error"]
    assert "line 4: the id '../up' is used" in results["000004"]["error"]
    assert "there is no file" in results["gone"]["error"]
    assert "seed must be an integer" in results["kind"]["error"]
    assert "height 5" in results["size"]["error"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["clip.mp4", "results.jsonl", "up.png"]


def test_resuming_runs_only_what_is_missing(tiny: Cli, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", *({"id": name, "task": "t2i", "prompt": name, **SIZE} for name in ("a", "b", "c")))
    assert tiny("batch", path, "--output", "out").code == 0
    out = tmp_path / "out"
    stamps = {name: (out / f"{name}.png").stat().st_mtime_ns for name in ("a", "b", "c")}
    pixels = (out / "b.png").read_bytes()
    (out / "b.png").unlink()
    kept = [line for line in (out / "results.jsonl").read_text().splitlines() if json.loads(line)["id"] != "c"]
    (out / "results.jsonl").write_text("\n".join(kept) + '\n{"id": "c", "task": "t2i", "fi')
    assert tiny("batch", path, "--output", "out").code == 0
    assert set(results_of(out)) == {"a", "b", "c"}
    assert (out / "a.png").stat().st_mtime_ns == stamps["a"]
    assert (out / "c.png").stat().st_mtime_ns > stamps["c"]
    assert (out / "b.png").read_bytes() == pixels


def test_batch_size_changes_no_result(tiny: Cli, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", *({"id": str(n), "task": "t2i", "prompt": "p" * n, "seed": n, **SIZE} for n in (1, 2, 3)))
    assert tiny("batch", path, "--output", "alone", "--batch-size", "1").code == 0
    assert tiny("batch", path, "--output", "together", "--batch-size", "3").code == 0
    for n in (1, 2, 3):
        one, other = (np.asarray(Image.open(tmp_path / folder / f"{n}.png"), int) for folder in ("alone", "together"))
        assert np.abs(one - other).max() <= 1


def interleaved(items: list[Any], kinds: list[str], targets: list[int]) -> dict[str, Any]:
    return {"interleave_array": items, "element_dtype_array": kinds, "istarget_in_interleave": targets}


def test_formats_of_the_released_model(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps({"000000.png": "a boat", "000001.png": "a tree"}))
    assert [(job.id, job.task, job.prompt) for job in read_jobs(path, "t2i")] == [
        ("000000.png", "t2i", "a boat"),
        ("000001.png", "t2i", "a tree"),
    ]
    with pytest.raises(RequestError, match="pass --task"):
        read_jobs(path)
    triple = ["Look.", "What is it?", "A ball."]
    entries = {
        "edit": interleaved(["blue", "a.png", "b.png"], ["text", "image", "image"], [0, 0, 0]),
        "ask": interleaved(["a.png", triple], ["image", "text"], [0, 1]),
        "wrong": interleaved(["a.png"], ["image", "text"], [0]),
    }
    path.write_text(json.dumps(entries))
    edit, ask, wrong = read_jobs(path, "image_idip")
    assert (edit.task, edit.prompt, edit.media) == ("subject_image", "blue", (tmp_path / "a.png", tmp_path / "b.png"))
    assert (ask.prompt, ask.parameters, ask.media) == ("What is it?", {"system": "Look."}, (tmp_path / "a.png",))
    assert "equally long" in (wrong.error or "")


def test_a_single_request_is_not_taken_for_names(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "r.jsonl", {"id": "a", "task": "t2i", "prompt": "x"})
    (job,) = read_jobs(path)
    assert (job.id, job.task, job.prompt) == ("a", "t2i", "x")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_a_file_without_requests_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(RequestError, match="holds no requests"):
        read_jobs(path)


@pytest.mark.parametrize("line", ["{}", "[]", "3", '{"task": 3}', '{"task": "fly"}', '{"task": "t2i", "images": 3}', "{"])
def test_a_wrong_line_is_an_error_of_its_own(tmp_path: Path, line: str) -> None:
    jobs = read_jobs(write_lines(tmp_path / "r.jsonl", line, {"id": "good", "task": "t2i"}))
    assert [(job.id, job.error is None) for job in jobs] == [("000001", False), ("good", True)]
    assert "line 1: " in (jobs[0].error or "")


@given(st.lists(st.text(), unique=True, max_size=20))
def test_file_names_are_safe_and_distinct(ids: list[str]) -> None:
    names = file_names([Job(name) for name in ids])
    assert len({name.casefold() for name in names.values()}) == len(ids)
    for name in names.values():
        assert name
        assert not set(name) & set("/\\. \n\0:")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_results_file_cut_anywhere_keeps_its_whole_lines(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("results")
    results = ResultsFile(folder)
    for number in range(3):
        results.add(Outcome(f"é{number}", "text", text="größer\n"))
    content = results.path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    results.path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n") + (content[:cut].endswith(b"}"))
    again = ResultsFile(folder)
    assert again.done == {f"é{number}" for number in range(whole)}
    again.add(Outcome("last", "text", text=""))
    assert ResultsFile(folder).done == again.done | {"last"}
