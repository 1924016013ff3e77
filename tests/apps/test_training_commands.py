"""`openlance train`, `data check` and `world`: plans, refusals, and what they leave on disk."""

import json
from pathlib import Path

import numpy as np
import pytest

from openlance.apps.cli import main
from openlance.media import Clip
from tests.disk import no_file_larger_than

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize("folder", ["recipes/nano", "recipes/nano-cuda"])
def test_plans_of_the_embedded_model(folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every recipe that is listed can be read, and its plan says what it will do without doing it."""
    monkeypatch.chdir(ROOT)
    assert main(["train", folder, "--plan"]) == 0
    said = capsys.readouterr().out
    for name in (ROOT / folder / "order.txt").read_text().split("\n")[1:]:
        assert name in said
    assert "M tokens in all" in said
    assert "% of the samples" in said
    assert ("(stage four)" in said) == (folder == "recipes/nano")


def test_unknown_keys_and_missing_recipes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none.yaml")]) != 0
    assert "none.yaml" in capsys.readouterr().err
    assert main(["train", str(tmp_path)]) != 0
    assert "order.txt" in capsys.readouterr().err
    assert main(["train", str(ROOT / "recipes/nano/t2i.yaml"), "stepz=3", "--plan"]) != 0
    assert "stepz" in capsys.readouterr().err


def test_data_check_counts_and_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Clip.from_image(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "broken.png").write_bytes(b"not a picture")
    lines = [
        {"task": "t2i", "text": "black", "target": {"image": "a.png"}},
        {"task": "t2i", "text": "broken", "target": {"image": "broken.png"}},
        {"task": "t2i", "txt": "typo", "target": {"image": "a.png"}},
        {"task": "t2i", "text": "outside", "target": {"image": "../a.png"}},
    ]
    file = tmp_path / "data.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    assert main(["data", "check", str(file), "--sheet", str(tmp_path / "sheet.png")]) == 1
    said = capsys.readouterr().out
    assert "1 good, 3 failed; tasks: t2i 1" in said
    assert "line 3" in said
    assert "txt" in said
    assert (tmp_path / "sheet.png").stat().st_size > 100


def test_world_examples_on_a_lattice_in_reading_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = {}
    for name, options in (("free", []), ("arranged", ["--lattice", "16", "--arranged"])):
        assert main(["world", "sheet", "t2i", "--category", "single", "-n", "2", "-o", str(tmp_path / f"{name}.png"), *options]) == 0
        drawn[name] = (tmp_path / f"{name}.png").read_bytes()
    assert drawn["free"] != drawn["arranged"]
    for name, options in (("on", []), ("off", ["--given-anywhere"])):
        given = ["world", "sheet", "subject_image", "-n", "2", "-o", str(tmp_path / f"{name}.png"), "--lattice", "16", *options]
        assert main(given) == 0
        drawn[name] = (tmp_path / f"{name}.png").read_bytes()
    assert drawn["on"] != drawn["off"]
    assert main(["world", "sheet", "t2i", "--lattice", "-1", "-o", str(tmp_path / "no.png")]) == 2
    assert "--lattice -1" in capsys.readouterr().err
    assert not (tmp_path / "no.png").exists()


def test_world_sheet_sample_and_judge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["world", "sheet", "t2i", "-n", "4", "-o", str(tmp_path / "sheet.png")]) == 0
    assert (tmp_path / "sheet.png").stat().st_size > 1000
    assert main(["world", "sample", "t2i", "--category", "single", "-n", "2", "-o", str(tmp_path / "out")]) == 0
    lines = (tmp_path / "out" / "examples.jsonl").read_text().splitlines()
    assert len(lines) == 2
    capsys.readouterr()
    pictures = sorted((tmp_path / "out" / "media").glob("*.png"))
    assert main(["world", "judge", *map(str, pictures)]) == 0
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    truth = [json.loads(line)["turns"][0]["target"]["scene"] for line in lines]
    assert sorted(o["kind"] for s in seen for o in s["objects"]) == sorted(o["kind"] for s in truth for o in s["objects"])
    assert main(["world", "sheet", "paint"]) != 0
    assert "no task 'paint'" in capsys.readouterr().err


def test_a_sheet_on_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with no_file_larger_than(1000):
        assert main(["world", "sheet", "t2i", "-n", "4", "-o", str(tmp_path / "sheet.png")]) == 2
    assert "sheet.png': File too large; free some space" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
