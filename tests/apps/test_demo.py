"""The demo with a model that knows nothing, and its page as a browser would take it."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from openlance.apps import demo
from openlance.apps.cli import main
from openlance.apps.demo import LEARNED, SECTIONS, Exhibit, Section, Shown, run_demo
from openlance.apps.demo_page import About, demo_page
from openlance.eval.suite import SEEN
from openlance.media import read_image, read_video
from tests.serve.tiny import tiny_lance

VOID = {"img", "meta", "br", "link"}
SMALL = (
    Section("Draw", "pictures <of> & words", (Exhibit("t2i", "single", 0, replace(SEEN, height=64, width=96)),)),
    Section("Film & change", "clips", (Exhibit("i2v", "free", 1, replace(SEEN, height=64, width=64, num_frames=5)),)),
    Section("Look", "answers", (Exhibit("understand", "grounding", 5), Exhibit("understand", "video direction", 1))),
)


class Page(HTMLParser):
    """Checks that elements nest; collects what they refer to and all text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.anchors: list[str] = []
        self.names: set[str] = set()
        self.text = ""
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.sources += [value for key, value in given.items() if key in ("src", "srcset", "poster", "data") and value]
        self.anchors += [value for key, value in given.items() if key == "href" and value]
        self.names |= {given["id"]} if given.get("id") else set()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Shown], Path]:
    folder = tmp_path_factory.mktemp("demo")
    return list(run_demo(tiny_lance(), folder, SMALL)), folder


def test_every_step_has_its_files_seconds_and_mark(shown: tuple[list[Shown], Path]) -> None:
    results, folder = shown
    assert [one.section.title for one in results] == ["Draw", "Film & change", "Look", "Look"]
    for one in results:
        for step in one.steps:
            for path in (*step.inputs, *([step.output] if step.output else [])):
                clip = read_image(folder / path) if path.suffix == ".png" else read_video(folder / path)
                assert clip.height >= 64
            assert step.seconds > 0
            assert 0 <= step.mark.score <= 1
            assert isinstance(step.answer, str) == (step.turn.answer is not None)
    film = results[1].steps[0]
    assert (film.inputs[0].suffix, film.output.suffix) == (".png", ".mp4")
    assert read_video(folder / film.output).num_frames == 5


def test_the_page_stands_alone(shown: tuple[list[Shown], Path]) -> None:
    results, folder = shown
    html = demo_page(results, About("tiny <b>", 1_234_567, "2 cores", 1.0, 2.0))
    page = Page(html)
    assert page.sources
    assert all((folder / source).is_file() for source in page.sources)
    assert all(anchor.startswith("#") and anchor[1:] in page.names for anchor in page.anchors)
    assert not re.search(r"https?:|@import|url\(", html)
    for one in results:
        for step in one.steps:
            assert step.turn.text in page.text
            assert f"seed {step.seed}" in page.text
    assert "tiny <b>" in page.text
    assert "pictures <of> & words" in page.text
    assert "1.2 M parameters" in " ".join(page.text.split())


def test_a_box_is_drawn_only_for_a_box(shown: tuple[list[Shown], Path]) -> None:
    results, _ = shown
    (step,) = results[2].steps

    def boxes(answer: str) -> list[str]:
        one = replace(results[2], steps=(replace(step, answer=answer),))
        return re.findall(r'class="box" style="([^"]*)"', demo_page([one], About("tiny", 1, "", 0, 0)))

    assert boxes("(10,20),(60,999)") == ["left:10%;top:20%;width:50%;height:80%"]
    assert boxes('(1,2),(3,4)"><script>') == []


def test_every_exhibit_exists_and_the_whole_shows_every_task() -> None:
    examples = [exhibit.example() for section in SECTIONS for exhibit in section.exhibits]
    shown = {turn.task for example in examples for turn in example.turns}
    assert shown == {"t2i", "t2v", "i2v", "image_edit", "video_edit", "subject_image", "subject_video", "understand"}
    assert all(example.split == "test" for example in examples)
    assert max(len(example.turns) for example in examples) == 4
    assert {exhibit.setting.ring for section in SECTIONS for exhibit in section.exhibits} == {LEARNED.ring}


def test_the_command_prints_and_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from openlance.apps.commands import demo as command

    monkeypatch.setattr(command, "load_model", lambda args, console: tiny_lance())
    monkeypatch.setattr(demo.run_demo, "__defaults__", (SMALL[2:],))
    assert main(["demo", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "index.html").read_text().startswith("<!doctype html>")
    printed = capsys.readouterr().out
    assert "2 requests in" in printed
    assert "Which way is the" in printed
