"""The model card says what was recorded, and nothing else."""

import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

from openlance.errors import LanceError
from openlance.eval.answerers import Answer, Ask, Truth
from openlance.eval.records import weights_digest
from openlance.eval.report import make_report, write_report
from openlance.eval.run import Evaluation, run
from openlance.eval.suite import SUITES
from openlance.nano.card import main, write_card
from openlance.nano.card_curves import Panel, curves_svg
from openlance.nano.card_stages import Stage
from tests.serve.tiny import tiny_lance


class Dumb:
    name = "dumb"

    def answer(self, asks: Sequence[Ask]) -> list[Answer]:
        return [answer if ask.seed % 4 == 0 else "nothing" for answer, ask in zip(Truth().answer(asks), asks, strict=True)]


def evaluate(folder: Path, suites: Sequence[str], n: int, seed: int = 0) -> Path:
    job = Evaluation([SUITES[name] for name in suites], n, seed, folder)
    run(job, Dumb(), [Truth()])
    write_report(make_report(job, {"model": "tiny", "weights": weights_digest(tiny_lance()), "seed": seed, "n": n}), job)
    return folder


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(tmp_path_factory.mktemp("report"), ("ocr", "grounding"), 10)


def stage(folder: Path) -> Stage:
    folder.mkdir()
    lines = [{"step": s, "minutes": s * 0.6, "tokens": s * 1000, "loss": 1 / s, "mse/t2i": 2 / s} for s in (100, 200, 300)]
    lines.insert(2, {**lines[1], "loss": 9.0})  # a resumed run says step 200 again, before its last word on it
    lines.insert(3, lines[1])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "scores.jsonl").write_text("".join(json.dumps({"step": s, "seconds": 9, "ask": s / 400}) + "\n" for s in (100, 300)))
    return Stage.read(folder)


def test_the_card_holds_every_recorded_number(tmp_path: Path, report: Path) -> None:
    lance = tiny_lance()
    text = write_card(lance, [stage(tmp_path / "tasks")], [report], tmp_path / "out").read_text()
    for row in json.loads((report / "report.json").read_text())["rows"]:
        score = row["score"]
        assert f"{score['mean']:.3f} [{score['low']:.3f}, {score['high']:.3f}] | {score['scores']} | 1.000" in text
    assert "| tasks | 300 | 0.3 M | 3.0 | loss 0.003333 |" in text
    millions = [float(value) for value in re.findall(r"\| ([\d.]+) M \|", text)]
    total = sum(parameter.numel() for parameter in lance.model.parameters()) / 1e6
    assert sum(millions[:-1]) == pytest.approx(total, abs=0.05)
    for picture in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text):
        assert (tmp_path / "out" / picture).stat().st_size > 1000
    assert Image.open(tmp_path / "out/card/failures.webp").width > 200
    assert "Reading words, ocr" in text or "reading words, ocr" in text


def test_a_run_that_went_on_from_others_says_so(tmp_path: Path, report: Path) -> None:
    stage(tmp_path / "tasks")
    text = write_card(tiny_lance(), [Stage.read(tmp_path / "tasks")], [report], tmp_path / "new").read_text()
    assert "went on from" not in text
    (tmp_path / "tasks" / "recipe.json").write_text(json.dumps({"model": {"checkpoint": "runs/before/model"}}))
    text = write_card(tiny_lance(), [Stage.read(tmp_path / "tasks")], [report], tmp_path / "more").read_text()
    assert text.count("`tasks` went on from weights of earlier runs (`runs/before/model`), whose curves are not kept") == 2
    (tmp_path / "earlier.md").write_text("### Earlier training\n\n| words | 0.5 to 0.75 |\n")
    text = write_card(
        tiny_lance(), [Stage.read(tmp_path / "tasks")], [report], tmp_path / "told", earlier=tmp_path / "earlier.md"
    ).read_text()
    assert text.count('went on from weights of earlier runs (`runs/before/model`), see "Earlier training".') == 2
    assert f"--run runs/nano/tasks --earlier {tmp_path / 'earlier.md'}\n" in text
    with pytest.raises(LanceError, match=r"none\.md cannot be read .*name a Markdown file"):
        write_card(tiny_lance(), [], [report], tmp_path / "untold", earlier=tmp_path / "none.md")
    assert not (tmp_path / "untold").exists()
    assert text.index("## Training") < text.index("### Earlier training\n\n| words | 0.5 to 0.75 |") < text.index("## Scores")


def test_stage_four_counts_iterations_and_shows_its_evaluations(tmp_path: Path, report: Path) -> None:
    lines = [{"iteration": i, "loss": 3.0, "seconds": {"draw": 1000.0, "learn": 800.0}} for i in (1, 2, 2, 3, 4)]
    (tmp_path / "rl").mkdir()
    (tmp_path / "rl" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = [
        {"iteration": i, "evaluation": name, "exact": i / 8 + extra} for i in (0, 4) for name, extra in (("words", 0.25), ("others", 0.5))
    ]
    (tmp_path / "rl" / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in found))
    (tmp_path / "rl" / "recipe.json").write_text(json.dumps({"model": {"checkpoint": "runs/nano/tasks/model"}, "rewards": {"ocr": 1}}))
    stages = [stage(tmp_path / "tasks"), Stage.read(tmp_path / "rl")]
    text = write_card(tiny_lance(), stages, [report], tmp_path / "out").read_text()
    assert "| rl | 4 |  | 2.0 | loss 3, words exact 0.25 to 0.75, others exact 0.5 to 1 |" in text
    assert "Stages in order: tasks, rl." in text
    assert "words exact 0.75" in (tmp_path / "out/card/curves.svg").read_text()
    assert "What stage four changed" not in text
    pairs = [{"kind": "words", "prompt": "a word", "measure": "ocr.exact", "scores": scores} for scores in ([0, 1], [0, 1], [1, 0], [1, 1])]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    text = write_card(tiny_lance(), stages, [report], tmp_path / "out", file).read_text()
    assert "| unseen words | PP-OCR, which it was not trained on | exact | 0.500 | 0.750 | +0.250 [" in text
    assert " | 2 / 1 / 4 |" in text
    assert "--run runs/nano/rl --pairs pairs.jsonl\n" in text
    for content in ("", "{}\n", '{"kind": "words", "measure": "a", "scores": [1]}\n'):
        file.write_text(content)
        with pytest.raises(LanceError, match=r"pairs\.jsonl.*compare_words"):
            write_card(tiny_lance(), stages, [report], tmp_path / "out", file)


def test_a_card_is_of_one_model(tmp_path: Path, report: Path) -> None:
    lance = tiny_lance()
    object.__setattr__(lance.model.config, "name", "another")
    with pytest.raises(LanceError, match="is of the model 'tiny', the card is of 'another'"):
        write_card(lance, [], [report], tmp_path)
    lance = tiny_lance()
    with torch.no_grad():
        next(lance.model.parameters()).view(-1)[0] += 1
    with pytest.raises(LanceError, match=f"is of the weights '{weights_digest(tiny_lance())}', the card is of '{weights_digest(lance)}'"):
        write_card(lance, [], [report], tmp_path)
    with pytest.raises(LanceError, match="run  openlance eval world"):
        write_card(lance, [], [tmp_path], tmp_path)
    for content in ("", "[]", "{}", '{"run": {}, "rows": [{}], "means": []}', '{"run": 1, "rows": [], "means": []}'):
        (tmp_path / "report.json").write_text(content)
        with pytest.raises(LanceError, match=r"report\.json is not the report of an evaluation .*eval world --output"):
            write_card(lance, [], [tmp_path], tmp_path)
    with pytest.raises(LanceError, match=r"has none of metrics\.jsonl"):
        Stage.read(tmp_path)


def test_a_later_report_has_the_last_word_on_its_suites(tmp_path: Path, report: Path) -> None:
    more = evaluate(tmp_path / "more", ("ocr",), 14)
    text = write_card(tiny_lance(), [], [report, more], tmp_path / "out").read_text()
    rows = {name: json.loads((folder / "report.json").read_text())["rows"] for name, folder in (("few", report), ("many", more))}
    numbers = {name: [row["score"]["scores"] for row in found if row["suite"] == "ocr"] for name, found in rows.items()}
    assert numbers["few"] != numbers["many"]
    section = text.partition("### Reading words")[2].partition("###")[0]
    assert [int(n) for n in re.findall(r"\] \| (\d+) \| 1\.000", section)] == numbers["many"]
    assert text.count("openlance eval world --suite grounding --n 10 --seed 0") == 2
    assert text.count("openlance eval world --suite ocr --n 14 --seed 0") == 2
    assert "card --report eval-nano --report eval-nano-2" in text
    other = evaluate(tmp_path / "other", ("grounding",), 10, seed=1)
    with pytest.raises(LanceError, match=r"different seeds .*0.*1"):
        write_card(tiny_lance(), [], [report, other], tmp_path / "out")


def test_weights_are_known_again_in_another_precision() -> None:
    one, other = tiny_lance(torch.bfloat16), tiny_lance(torch.bfloat16)
    other.model.float()
    assert next(other.model.parameters()).dtype == torch.float32
    assert weights_digest(one) == weights_digest(other)


def test_an_average_is_a_stage(tmp_path: Path, report: Path) -> None:
    values = {"average": ["runs/old", "runs/nano/tasks/model"], "share": 0.6}
    (tmp_path / "between").mkdir()
    (tmp_path / "between" / "recipe.json").write_text(json.dumps(values))
    stages = [stage(tmp_path / "tasks"), Stage.read(tmp_path / "between"), Stage("more", [], [])]
    text = write_card(tiny_lance(), stages, [report], tmp_path / "out").read_text()
    assert "| between |  |  |  | an average: 0.4 of `runs/old` and 0.6 of `tasks` |" in text
    assert "Stages in order: tasks, between, more." in text
    assert "--run runs/nano/tasks --run runs/nano/between --run runs/nano/more\n" in text


def test_what_is_missing_is_said_in_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--report", "eval", "--run", str(tmp_path), "--output", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"error: {tmp_path} has none of metrics.jsonl" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_hours_that_were_not_written_down_are_not_made_up(tmp_path: Path, report: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 5, "loss": 1.0, "images": 34.25, "clips": 31.5}\n')
    text = write_card(tiny_lance(), [Stage.read(tmp_path)], [report], tmp_path / "out").read_text()
    assert "| 5 |  | not recorded | loss 1, 34.2 dB PSNR, images, 31.5 dB PSNR, clips |" in text
    assert "curves.svg" not in text


def test_curves_are_drawn_to_scale() -> None:
    svg = curves_svg([Panel("a < b", "steps", {"loss": [(0, 4.0), (50, 2.0), (100, 1.0)], "flat": [(0, 2.0), (100, 2.0)]})])
    root = ElementTree.fromstring(svg)
    lines = [path.get("d", "") for path in root.iter("{http://www.w3.org/2000/svg}path") if path.get("fill") == "none"]
    (x0, y0), (x1, y1), (x2, y2) = (tuple(map(float, point.split())) for point in lines[0].lstrip("M").split("L"))
    assert (x1 - x0) == pytest.approx(x2 - x1, abs=0.2)
    assert (y1 - y0) / (y2 - y0) == pytest.approx(2 / 3, abs=0.01)
    assert "a < b" in [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    with pytest.raises(ValueError, match="nothing to draw"):
        curves_svg([Panel("empty", "steps", {"loss": [(0, 1.0)]})])


def test_labels_of_many_series_stay_apart_and_in_their_panel() -> None:
    names = [
        "loss",
        "ce/understand",
        *(f"mse/{task}" for task in ("i2v", "image_edit", "subject_image", "subject_video", "t2i", "t2v", "video_edit")),
    ]
    series = {name: [(20, 0.3), (1150, 0.1 if i else 0.28)] for i, name in enumerate(names)}
    root = ElementTree.fromstring(curves_svg([Panel("many", "steps", series)]))
    _, _, width, height = map(float, root.get("viewBox", "").split())
    texts = list(root.iter("{http://www.w3.org/2000/svg}text"))
    labels = [text for text in texts if (text.text or "").rsplit(" ", 1)[0] in names]
    levels = sorted(float(label.get("y", "")) for label in labels)
    assert len(levels) == len({label.get("fill") for label in labels}) == 9
    assert min(b - a for a, b in itertools.pairwise(levels)) >= 10
    assert levels[-1] < height
    assert all(float(label.get("x", "")) + 5.6 * len(label.text or "") < width for label in labels)
    assert "1,150 steps" in [text.text for text in texts]


def test_long_runs_are_thinned_to_their_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(10_000)]
    svg = curves_svg([Panel("long", "steps", {"loss": points})])
    assert len(svg) < 10_000
