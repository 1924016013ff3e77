"""generate-image, generate-video, edit, ask: files, names, JSON, and equality with the Python API."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from openlance.apps.console import StepBar
from openlance.apps.output import LONGEST_NAME, Destination, slug
from openlance.apps.parameters import EVERYTHING
from openlance.engine.request import ImageSampling, TextSampling
from openlance.errors import RequestError
from openlance.pipeline import OTHER_FIELDS, Lance
from tests.apps.conftest import SMALL, Cli


@pytest.fixture(scope="module")
def lance(checkpoint: Path) -> Lance:
    return Lance.from_pretrained(checkpoint, device="cpu", dtype="float32")


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 52, 3), np.uint8)).save(path)
    return path


def test_options_cover_every_sampling_parameter() -> None:
    fields = set(ImageSampling.__dataclass_fields__) | set(TextSampling.__dataclass_fields__) | OTHER_FIELDS
    callbacks = {"on_progress", "on_text", "preview_every"}
    assert {parameter.name for parameter in EVERYTHING} == fields - callbacks


def test_generate_image_equals_the_api(tiny: Cli, lance: Lance, tmp_path: Path) -> None:
    run = tiny("generate-image", "A red boat!", "-n", "2", "--seed", "7", *SMALL, "--json")
    assert run.code == 0
    assert [result["files"] for result in run.results] == [["a-red-boat-7.png"], ["a-red-boat-8.png"]]
    assert [(result["task"], result["seed"], result["height"]) for result in run.results] == [("t2i", 7, 32), ("t2i", 8, 32)]
    for seed in (7, 8):
        expected = lance.generate_image("A red boat!", seed=seed, height=32, width=32, num_inference_steps=2)
        written = Image.open(tmp_path / f"a-red-boat-{seed}.png")
        assert np.abs(np.asarray(written, int) - np.asarray(expected, int)).max() <= 1


def test_nothing_is_overwritten_unless_asked(tiny: Cli, tmp_path: Path) -> None:
    names = [tiny("generate-image", "x", *SMALL, *more).out.strip() for more in ([], [], ["--overwrite"])]
    assert names == ["x-42.png", "x-42-2.png", "x-42.png"]
    (tmp_path / "kept.png").write_bytes(b"mine")
    refused = tiny("generate-image", "x", *SMALL, "--output", "kept.png")
    assert refused.code == 2
    assert "kept.png exists" in refused.err
    assert (tmp_path / "kept.png").read_bytes() == b"mine"
    assert tiny("generate-image", "x", *SMALL, "--output", "kept.png", "-n", "2").code == 2


def test_sizes_are_rounded_with_a_notice(tiny: Cli) -> None:
    run = tiny("generate-image", "x", "--height", "40", "--width", "32", "--num-inference-steps", "1", "--json")
    assert run.results[0]["notices"] == ["height 40 is not a multiple of 16: 32 is used"]
    assert "height 40" in run.err


def test_video_from_an_image_into_a_new_folder(tiny: Cli, photo: Path, tmp_path: Path) -> None:
    run = tiny(
        "generate-video", "go", "--image", photo, "--num-frames", "5", "--num-inference-steps", "1", "--resolution", "64", "112",
        "--output", "clips/here", "--format", "gif", "--json",
    )  # fmt: skip
    assert run.code == 0, run.err
    assert run.results[0]["files"] == ["clips/here/go-42.gif"]
    assert (run.results[0]["task"], run.results[0]["num_frames"]) == ("i2v", 5)
    assert Image.open(tmp_path / "clips" / "here" / "go-42.gif").n_frames == 5


def test_edit_keeps_the_kind(tiny: Cli, photo: Path, tmp_path: Path) -> None:
    run = tiny("edit", photo, "make it blue", "--num-inference-steps", "1", "--resolution", "64", "112", "-o", "blue.webp")
    assert (run.code, run.out.strip()) == (0, "blue.webp"), run.err
    assert Image.open(tmp_path / "blue.webp").size == (64, 48)


def test_ask_streams_or_gives_json(tiny: Cli, lance: Lance, photo: Path) -> None:
    options = ("--max-new-tokens", "6", "--resolution", "64", "112")
    streamed = tiny("ask", photo, "what?", *options)
    told = tiny("ask", photo, "what?", *options, "--json").results
    expected = lance.ask([photo], "what?", max_new_tokens=6, resolution=(64, 112))
    assert streamed.out == f"{expected}\n"
    assert [(result["task"], result["text"]) for result in told] == [("understand", expected)]
    assert tiny("ask", "hello", "--max-new-tokens", "2").code == 0


def test_prompt_from_a_file(tiny: Cli, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_text("a boat\n", encoding="utf-8")
    assert tiny("generate-image", "@prompt.txt", *SMALL, "--json").results[0]["prompt"] == "a boat"


def test_interrupted_generation_leaves_nothing(tiny: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(bar: StepBar, index: int) -> object:
        def report(progress: object) -> None:
            raise KeyboardInterrupt

        return report

    monkeypatch.setattr(StepBar, "watch", stop)
    run = tiny("generate-image", "x", *SMALL)
    assert (run.code, run.err) == (130, "openlance: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_unwritable_output_fails_with_one(tiny: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("openlance.files.os.replace", full)
    run = tiny("generate-image", "x", *SMALL)
    assert run.code == 1
    assert "No space left on device" in run.err
    assert list(tmp_path.iterdir()) == []


@given(st.text())
def test_slug_is_a_plain_name(text: str) -> None:
    name = slug(text)
    assert name
    assert len(name) <= LONGEST_NAME
    assert not set(name) & set("/\\. \n\0:")
    assert not name.startswith("-")


def test_destination_refuses_what_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is a file"):
        Destination(str(tmp_path / "file"), ".png", 1, overwrite=False)
