"""Outputs of any model in a folder: scored as the suites score them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from openlance.apps.cli import main
from openlance.errors import LanceError
from openlance.eval.answerers import Truth
from openlance.eval.outputs import judge_outputs, read_examples
from openlance.eval.rounds import items_of, play
from openlance.eval.scores import marks
from openlance.eval.suite import SUITES, Cell
from openlance.media.clip import Clip
from openlance.world.draw import Setting
from openlance.world.examples import Example
from openlance.world.export import export, write_png
from openlance.world.tasks import CATEGORIES, make_example

CHOSEN = [
    ("t2i", "position"), ("t2i", "word"), ("t2v", "free"), ("i2v", "free"), ("image_edit", "colour"), ("video_edit", "remove"),
    ("subject_image", "free"), ("understand", "count"), ("understand", "caption full"), ("understand", "video direction"),
    ("story", "four turns"),
]  # fmt: skip


def write_truth(examples: list[Example], world: Path, made: Path) -> None:
    """The right outputs under the names that outputs have."""
    export(examples, world)
    made.mkdir()
    answers = []
    for example in examples:
        for name, turn in zip(example.names, example.turns, strict=True):
            if turn.target:
                shutil.copy(world / "media" / f"{name}_out.png", made / f"{name}.png")
            else:
                answers.append({"id": name, "task": turn.task, "text": turn.answer, "error": None})
    (made / "results.jsonl").write_text("".join(json.dumps(answer) + "\n" for answer in answers))


@pytest.fixture
def examples() -> list[Example]:
    return [make_example(task, category, 7, Setting(split="test")) for task, category in CHOSEN]


def test_right_outputs_are_right(tmp_path: Path, examples: list[Example]) -> None:
    write_truth(examples, tmp_path / "world", tmp_path / "made")
    found = list(judge_outputs(read_examples(tmp_path / "world" / "examples.jsonl"), tmp_path / "made"))
    assert [judged.example for judged in found] == examples
    for judged in found:
        assert judged.missing is None
        assert [mark.score for mark in judged.marks] == pytest.approx([1.0] * len(judged.example.turns), abs=0.02), judged.example.names
    assert [mark.label for mark in found[-1].marks] == ["after turn 1", "after turn 2", "after turn 3", "then asked"]


class Wrong(Truth):
    """Pixels shifted by a fifth of the width."""

    def answer(self, asks):  # type: ignore[no-untyped-def]
        return [a if isinstance(a, str) else Clip(np.roll(a.frames, a.width // 5, 2), a.fps) for a in super().answer(asks)]


@pytest.mark.parametrize("name", ["edit", "videoedit", "generate", "word", "multiturn"])
def test_scores_are_those_of_the_suites(tmp_path: Path, name: str) -> None:
    suite = SUITES[name]
    category = suite.categories[0]
    cell = Cell(suite, suite.settings[0], (category,))
    played = play(items_of(cell, 3, 0, 1), Wrong())
    export([one.example for one in played], tmp_path / "world")
    (tmp_path / "made").mkdir()
    for one in played:
        for turn, answer in zip(one.example.names, one.answers, strict=True):
            if isinstance(answer, str):
                (tmp_path / "made" / f"{turn}.txt").write_text(answer)
            else:
                write_png(answer.frames, answer.fps, tmp_path / "made" / f"{turn}.png")
    found = list(judge_outputs(read_examples(tmp_path / "world" / "examples.jsonl"), tmp_path / "made"))
    assert [[mark.score for mark in judged.marks] for judged in found] == [[mark.score for mark in marks(one)] for one in played]


def test_what_is_not_there_is_named_and_in_no_mean(tmp_path: Path, examples: list[Example], capsys: pytest.CaptureFixture[str]) -> None:
    chosen = [examples[0], make_example("t2i", "position", 8, Setting(split="test")), examples[4]]
    write_truth(chosen, tmp_path / "world", tmp_path / "made")
    command = ["world", "judge", str(tmp_path / "made"), "--examples", str(tmp_path / "world" / "examples.jsonl")]
    assert main(command) == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["id"], line["score"], line["wrong"]) for line in told] == [(example.names[0], 1.0, []) for example in chosen]
    Clip(np.zeros((1, 128, 128, 3), np.uint8), 1.0).save(tmp_path / "made" / f"{chosen[1].names[0]}.png")
    (tmp_path / "made" / f"{chosen[2].names[0]}.png").unlink()
    assert main(command) == 1
    shown = capsys.readouterr()
    right, wrong = (json.loads(line) for line in shown.out.splitlines())
    assert (right["score"], wrong["score"]) == (1.0, 0.0)
    assert wrong["wrong"]
    assert "0.500" in shown.err
    assert f"1 of 3 examples have no output and are in no mean, such as {chosen[2].names[0]}" in shown.err
    for file in (tmp_path / "made").glob("*.png"):
        file.unlink()
    assert main(command) == 2
    assert f"has no output of any of the 3 examples: name files by their ids, such as {chosen[0].names[0]}.png" in capsys.readouterr().err
    assert main([*command[:3], *command[2:]]) == 2
    assert "judges one folder of outputs, 2 were given" in capsys.readouterr().err


def test_outputs_that_are_none_are_refused(tmp_path: Path, examples: list[Example]) -> None:
    edit, question, clip = examples[4], examples[7], examples[2]
    write_truth([edit, question, clip], tmp_path / "world", tmp_path / "made")
    made = tmp_path / "made"

    def judge(example: Example) -> None:
        list(judge_outputs([example], made))

    Clip(np.zeros((1, 64, 64, 3), np.uint8), 1.0).save(made / f"{edit.names[0]}.png")
    with pytest.raises(LanceError, match=r"is 64x64 of 1 frames and what it changes 128x128 of 1 frames: an edit keeps the size"):
        judge(edit)
    (made / f"{edit.names[0]}.png").unlink()
    (made / f"{edit.names[0]}.txt").write_text("done")
    with pytest.raises(LanceError, match="asks for pixels and has a text"):
        judge(edit)
    shutil.copy(tmp_path / "world" / "media" / f"{question.names[0]}_in0.png", made / f"{clip.names[0]}.png")
    with pytest.raises(LanceError, match="still"):
        judge(clip)
    (made / "results.jsonl").write_text("{\n")
    with pytest.raises(LanceError, match=r"results\.jsonl, line 1 is no result of openlance batch"):
        judge(question)
    (made / "results.jsonl").unlink()
    shutil.copy(made / f"{clip.names[0]}.png", made / f"{question.names[0]}.png")
    with pytest.raises(LanceError, match="should be the text of an answer"):
        judge(question)
    with pytest.raises(LanceError, match="is no folder"):
        list(judge_outputs([edit], tmp_path / "none"))


@pytest.mark.parametrize(
    "change",
    [
        {"task": "../t2i"}, {"task": ["t2i"]}, {"category": "none"}, {"split": "../../etc"}, {"seed": "../1"},
        {"turns": []}, {"turns": 3}, {"turns": [{}]},
    ],
)  # fmt: skip
def test_examples_of_strangers_are_checked(tmp_path: Path, change: dict[str, object]) -> None:
    good = make_example("t2i", "single", 1).to_dict()
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(good) + "\n")
    assert len(read_examples(path)) == 1
    path.write_text(json.dumps(good) + "\n" + json.dumps(good | change) + "\n")
    with pytest.raises(LanceError, match=r"examples\.jsonl, line 2"):
        read_examples(path)


@pytest.mark.parametrize("size", [{"height": 10**6}, {"width": 100}, {"num_frames": 10**9}, {"num_frames": 0}, {"fps": 0}, {"fps": 1e9}])
def test_sizes_are_checked_before_pixels_are_drawn(tmp_path: Path, size: dict[str, float]) -> None:
    edit = make_example("image_edit", "colour", 1).to_dict()
    edit["turns"][0]["inputs"][0] |= size
    path = tmp_path / "examples.jsonl"
    path.write_text(json.dumps(edit) + "\n")
    with pytest.raises(LanceError, match=r"line 1: .*(canvas|a clip of)"):
        read_examples(path)


def test_every_category_of_the_world_can_be_judged() -> None:
    from openlance.eval.outputs import _suite

    for task, categories in CATEGORIES.items():
        for category in categories:
            assert _suite(make_example(task, category, 1, Setting(256, 256))).score in ("verdict", "word", "edit", "kept", "state")
