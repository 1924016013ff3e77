import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from openlance.errors import LanceError
from openlance.eval import quick
from openlance.eval.answerers import Answer, Ask, Reconstruction, Truth
from openlance.eval.quick import quick_scores
from openlance.eval.records import RecordFile, claim, fingerprint
from openlance.eval.report import Report, make_report, print_report, write_report
from openlance.eval.run import Evaluation, run
from openlance.eval.suite import PHRASINGS, SEEN, Suite
from tests.serve.tiny import tiny_lance

QUESTIONS = Suite("questions", "questions", "understand", ("colour", "exists"), (SEEN,), (PHRASINGS,))


class Fickle:
    """Right about every second thing; gives up after so many answers."""

    name = "fickle"

    def __init__(self, patience: int = 10_000) -> None:
        self.patience = patience
        self.answered = 0

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        self.patience -= len(asks)
        if self.patience < 0:
            raise KeyboardInterrupt
        self.answered += len(asks)
        right = Truth().answer(asks)
        return [answer if ask.seed % 2 else "no idea" for answer, ask in zip(right, asks, strict=True)]


def evaluation(folder: Path, n: int = 40) -> Evaluation:
    return Evaluation([QUESTIONS], n, 0, folder)


def test_an_interrupted_run_goes_on_where_it_was(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run(evaluation(whole), Fickle())
    with pytest.raises(KeyboardInterrupt):
        run(evaluation(parts), Fickle(70))
    written = parts / "records" / "questions.jsonl"
    with written.open("ab") as file:
        file.write(b'{"answerer": "model", "key": "cut o')
    second = Fickle()
    run(evaluation(parts), second)
    assert second.answered == 120 - 64
    assert written.read_bytes() == (whole / "records" / "questions.jsonl").read_bytes()


def test_more_prompts_add_to_what_is_there(tmp_path: Path) -> None:
    run(evaluation(tmp_path, 4), Fickle())
    more = Fickle()
    run(evaluation(tmp_path, 6), more)
    assert more.answered == 3 * 2
    assert make_report(evaluation(tmp_path, 4), {}).rows[0].score.scores == 4


def test_the_report_counts_what_was_answered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[tuple[str, int, int]] = []
    job = evaluation(tmp_path, 30)
    run(job, Fickle(), [Truth()], lambda *told: seen.append(told))
    report = make_report(job, {"model": "fickle"})
    assert [(row.condition, row.category) for row in report.rows] == [
        ("ring 1, seen", "colour"), ("ring 1, seen", "exists"), ("ring 1, unseen phrasings", "all"),
    ]  # fmt: skip
    expected = sum(item.noise % 2 for item in job.items(QUESTIONS)[:30]) / 30
    row = report.rows[0]
    assert row.score.mean == pytest.approx(expected)
    assert row.score.low < expected < row.score.high
    assert (row.truth, row.reconstruction) == (1.0, None)
    assert report.mean("questions").score.mean == pytest.approx((report.rows[0].score.mean + report.rows[1].score.mean) / 2)
    assert seen[-1] == ("questions, truth", 90, 90)
    assert Report.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    print_report(report)
    assert "mean of 2" in capsys.readouterr().out
    files = write_report(report, job)
    assert [path.name for path in files] == ["report.json", "failures-questions.png"]
    assert Image.open(files[1]).width > 300
    kept = [record for record in job.file(QUESTIONS).records.values() if record.strip]
    assert len(kept) == 3 * 4
    assert all(record.marks[0].score == 0 and "no idea" in record.label for record in kept)


def test_results_of_two_models_do_not_mix(tmp_path: Path) -> None:
    lance = tiny_lance()
    mine = fingerprint(lance, {"guidance_scale": 2.0}, 0)
    claim(tmp_path, mine)
    claim(tmp_path, mine)
    lance.model.head.weight.data[0, 0] += 1
    assert fingerprint(lance, {"guidance_scale": 2.0}, 0)["weights"] != mine["weights"]
    with pytest.raises(LanceError, match=r"another run \(parameters differ\): choose another folder"):
        claim(tmp_path, mine | {"parameters": {}})


def test_records_of_nobody_knows_whom_are_refused(tmp_path: Path) -> None:
    """A folder whose run.json is gone must not lend its records to another model's scores."""
    run(evaluation(tmp_path, 2), Fickle())
    with pytest.raises(LanceError, match=r"records without the run\.json .*choose another folder"):
        claim(tmp_path, {"model": "other"})


def test_a_torn_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"answerer": "model", "key": "a", "category": "b", "marks": [], "media": false}\n{"ans')
    assert list(RecordFile(path).records) == [("model", "a")]
    assert path.read_bytes().endswith(b"false}\n")


def test_quick_scores_of_a_model_that_knows_nothing(tmp_path: Path) -> None:
    lance = tiny_lance()
    path = tmp_path / "sheet.png"
    scores = quick_scores(lance, 2, suites=["ask", "ocr", "edit"], sheet_path=path)
    assert scores == {"ask": 0.0, "ocr": 0.0, "edit": 0.0}
    assert Image.open(path).size > (400, 200)
    assert quick_scores(lance, 2, suites=["ask"]) == {"ask": 0.0}


def test_a_training_run_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without a vision encoder is asked only what it can do; every export adds a line."""
    lance = tiny_lance()
    lance.model.vision = None
    lance.model.config = replace(lance.config, vision={})
    lance.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(quick.quick_scores, "__defaults__", (2, quick.QUICK_SEED, ("dense", "ask", "multiturn"), None, quick.STEPS))
    for step in (100, 200):
        quick.watch(tmp_path / "model", step)
    lines = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [100, 200]
    assert set(lines[0]) == {"step", "seconds", "dense"}
    assert (tmp_path / "samples.png").is_file()


def test_reconstructions_keep_size_and_length() -> None:
    from openlance.eval.rounds import items_of
    from openlance.eval.suite import SUITES

    lance = tiny_lance()
    for name in ("generate", "video"):
        turn = items_of(SUITES[name].cells[0], 1, 0)[0].example().turns[0]
        ((right,), (made,)) = (one.answer([Ask(turn, (), 0)]) for one in (Truth(), Reconstruction(lance.model.autoencoder)))
        assert made.frames.shape == right.frames.shape
        assert made.fps == right.fps
