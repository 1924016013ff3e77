"""Writes the model card from the training runs' metrics and the reports of evaluations. No number in it is typed by hand.

python -m openlance.nano.card --run runs/nano/tasks --run runs/nano/rl-nft --report eval-nano --pairs pairs.jsonl
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.errors import LanceError
from openlance.eval.records import RecordFile, weights_digest
from openlance.eval.report import Report, Row
from openlance.eval.sheet import sheet
from openlance.eval.suite import SUITES
from openlance.files import write_text
from openlance.nano.card_curves import Panel, Points, curves_svg
from openlance.nano.card_pairs import HEAD, read_rows
from openlance.nano.card_stages import Stage

if TYPE_CHECKING:
    from openlance.pipeline import Lance

PICTURES = "card"
WORST_ROWS, STRIPS_A_ROW = 6, 2
WEAK = 0.8
UNITS = {"images": "dB PSNR, images", "clips": "dB PSNR, clips"}


def read_reports(folders: Sequence[Path], lance: "Lance") -> dict[Path, Report]:
    """The reports of evaluations of one model by their folders. A suite that several have is the last one's.

    Raises LanceError if one is missing, broken, or of another model or other weights, or if they are of different seeds.
    """
    found: dict[Path, Report] = {}
    mine = {"model": lance.config.name, "weights": weights_digest(lance)}
    for folder in folders:
        report = _read_report(folder)
        for name, value in mine.items():
            if report.run.get(name) != value:
                raise LanceError(f"{folder} is of the {name} '{report.run.get(name)}', the card is of '{value}': evaluate this model")
        suites = {row.suite for row in report.rows}
        found = {earlier: _without(other, suites) for earlier, other in found.items()} | {folder: report}
    seeds = {str(folder): report.run.get("seed") for folder, report in found.items()}
    if len(set(seeds.values())) > 1:
        listed = ", ".join(f"{folder} {seed}" for folder, seed in seeds.items())
        raise LanceError(f"the reports are of different seeds ({listed}): evaluate with one seed")
    return {folder: report for folder, report in found.items() if report.rows}


def _read_report(folder: Path) -> Report:
    path = folder / "report.json"
    remedy = f"run  openlance eval world --output {folder}"
    if not path.exists():
        raise LanceError(f"there is no {path}: {remedy}  first")
    try:
        return Report.from_dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise LanceError(f"{path} is not the report of an evaluation ({error!r}): {remedy}  again") from error


def _without(report: Report, suites: set[str]) -> Report:
    rows, means = (tuple(row for row in kept if row.suite not in suites) for kept in (report.rows, report.means))
    return replace(report, rows=rows, means=means)


def write_card(
    lance: "Lance",
    stages: Sequence[Stage],
    report_folders: Sequence[Path],
    output: Path,
    pairs: Path | None = None,
    earlier: Path | None = None,
) -> Path:
    """Write CARD.md and its pictures into `output`. Raises LanceError as `read_reports` does.

    `pairs`: scores before and after stage four, of tools/compare_words.py. `earlier`: Markdown about the weights that the first stage
    went on from, where their runs are no longer there: the section of the card that they had.
    """
    reports = read_reports(report_folders, lance)
    panels = _panels(stages)
    changed = [_changes(pairs)] if pairs else []
    before = [_read_earlier(earlier)] if earlier else []
    began = _began(stages, bool(before))
    training = [_training(stages, bool(panels), began), *changed, *before]
    again = _again(reports, stages, pairs is not None, began, earlier)
    pictures = output / PICTURES
    pictures.mkdir(parents=True, exist_ok=True)
    if panels:
        write_text(pictures / "curves.svg", curves_svg(panels))
    shown = _failures(reports, pictures)
    rows = [row for report in reports.values() for row in report.rows]
    parts = [_head(lance), _sizes(lance), *training, _scores(list(reports.values())), _limits(rows, shown), again]
    write_text(output / "CARD.md", "\n\n".join(parts) + "\n")
    return output / "CARD.md"


def _read_earlier(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise LanceError(f"{path} cannot be read ({error}): name a Markdown file, or leave --earlier out") from error


def _head(lance: "Lance") -> str:
    media = lance.config.media
    about = (
        "The embedded model of openlance: the architecture of Lance at another size, trained from nothing in a closed synthetic world of "
        "shapes, things, sceneries, words and motions. Inside that world it draws, films, edits, keeps subjects, answers and converses."
    )
    sizes = f"Images of {media.min_side} to {media.max_side} px a side in multiples of 16, clips of 1 to {media.max_frames} frames"
    return f"# {lance.config.name}\n\n{about}\n\n{sizes} at {media.fps:g} a second."


def _changes(pairs: Path) -> str:
    about = (
        "The same held-out prompts and noise, drawn before and after stage four; brackets: 95 % intervals of the paired differences. "
        "*exact*: nothing but the word was read; *value*: agreement of the letters; *unread*: nothing was read, so less is better."
    )
    return f"### What stage four changed\n\n{about}\n\n{_table(HEAD, read_rows(pairs))}"


def _sizes(lance: "Lance") -> str:
    counts: dict[str, int] = {}
    for name, parameter in lance.model.named_parameters():
        counts[_part(name)] = counts.get(_part(name), 0) + parameter.numel()
    rows = [(part, f"{count / 1e6:.2f} M") for part, count in counts.items()]
    rows.append(("**all**", f"**{sum(counts.values()) / 1e6:.2f} M**"))
    sizes = lance.config.transformer
    config = lance.config
    shape = (
        f"{sizes.num_hidden_layers} layers of width {sizes.hidden_size}, {sizes.num_attention_heads} heads "
        f"({sizes.num_key_value_heads} for keys and values), {sizes.vocab_size} tokens; latents of {config.latent_channels} channels at "
        f"1/{config.spatial_stride} of the side and 1/{config.temporal_stride} of the frames."
    )
    return f"## Sizes\n\n{_table(('part', 'parameters'), rows)}\n\n{shape}"


def _part(name: str) -> str:
    """Where a parameter belongs: an expert, an encoder, or what the experts share with the outside."""
    known = {
        "vision": "vision encoder",
        "autoencoder": "autoencoder",
        "embedding": "token embedding and head",
        "head": "token embedding and head",
    }
    if name.startswith("latent."):
        return "latent codec"
    return next(
        (f"{expert} expert" for expert in ("understanding", "generation") if f".{expert}." in name), known.get(name.split(".")[0], "other")
    )


def _began(stages: Sequence[Stage], told: bool) -> str:
    """What to say where the first run went on from weights that no listed run made; `told`: whether the card tells of those too."""
    first = stages[0] if stages else None
    if first is None or first.began_from is None:
        return ""
    where = 'see "Earlier training"' if told else "whose curves are not kept; LOG.md tells of them"
    return f"`{first.name}` went on from weights of earlier runs (`{first.began_from}`), {where}."


def _training(stages: Sequence[Stage], curves: bool, began: str) -> str:
    rows = []
    for stage in stages:
        last = stage.lines[-1] if stage.lines else {}
        if stage.average:
            mixed = " and ".join(f"{share:.2g} of `{name}`" for name, share in stage.average)
            rows.append((stage.name, "", "", "", f"an average: {mixed}"))
            continue
        hours = "not recorded" if stage.hours is None else f"{stage.hours:.1f}"
        figures = [f"loss {last['loss']:.4g}"] if "loss" in last else []
        figures += [f"{last[key]:.1f} {unit}" for key, unit in UNITS.items() if key in last]
        if stage.rewarded:
            figures += [f"{name} {points[0][1]:.3g} to {points[-1][1]:.3g}" for name, points in stage.score_series().items()]
        tokens = f"{last['tokens'] / 1e6:.1f} M" if "tokens" in last else ""
        rows.append((stage.name, f"{int(last.get('step', 0)):,}", tokens, hours, ", ".join(figures)))
    picture = f"![Losses and scores over the training steps]({PICTURES}/curves.svg)" if curves else ""
    parts = ["## Training", _table(("stage", "steps", "tokens", "hours", "at its end"), rows), began, picture]
    return "\n\n".join(part for part in parts if part)


def _panels(stages: Sequence[Stage]) -> list[Panel]:
    panels = []
    for stage in stages:
        keys = dict.fromkeys(key for line in stage.lines for key in line if key in ("loss", "ce") or key.startswith(("ce/", "mse/")))
        losses: dict[str, Points] = {key: stage.series(key) for key in keys}
        quality: dict[str, Points] = {key: stage.series(key) for key in UNITS}
        panels += [Panel(f"{stage.name}: loss", "steps", losses), Panel(f"{stage.name}: dB PSNR", "steps", quality)]
        panels.append(Panel(f"{stage.name}: scores", "steps", stage.score_series()))
    return [panel for panel in panels if any(len(points) > 1 for points in panel.series.values())]


def _command(report: Report, several: bool) -> str:
    """How a report was made; with its suites where others have the rest."""
    suites = "".join(f" --suite {suite}" for suite in dict.fromkeys(row.suite for row in report.rows)) if several else ""
    return f"openlance eval world{suites} --n {report.run['n']} --seed {report.run['seed']}"


def _scores(reports: Sequence[Report]) -> str:
    commands = ", ".join(f"`{_command(report, len(reports) > 1)}`" for report in reports)
    about = (
        f"On held-out seeds ({commands}); *n*: scores; brackets: their 95 % intervals. *truth* and *autoencoder*: what "
        "the judge gives the right answers, as they are and through the autoencoder. "
        "*Seen*: new scenes of the kinds that training had; the unseen conditions were held out of it."
    )
    blocks = [f"## Scores\n\n{about}"]
    found = {row.suite: report for report in reports for row in report.rows}
    for suite in (name for name in SUITES if name in found):
        report = found[suite]
        rows = [row for row in (*report.rows, *report.means) if row.suite == suite]
        title = SUITES[suite].title + (f" (twin of {SUITES[suite].twin})" if SUITES[suite].twin else "")
        cells = [_score_cells(row, row in report.means) for row in sorted(rows, key=lambda row: (row.condition, row in report.means))]
        head = ("condition", "category", "score", "n", "truth", "autoencoder", "beside it")
        blocks.append(f"### {title[0].upper()}{title[1:]}\n\n{_table(head, cells)}")
    return "\n\n".join(blocks)


def _score_cells(row: Row, mean: bool) -> tuple[str, ...]:
    score = f"{row.score.mean:.3f} [{row.score.low:.3f}, {row.score.high:.3f}]"
    bounds = ("-" if value is None else f"{value:.3f}" for value in (row.truth, row.reconstruction))
    beside = ", ".join(f"{name} {value:.3g}" for name, value in row.measures.items())
    return (
        row.condition,
        f"**{row.category}**" if mean else row.category,
        f"**{score}**" if mean else score,
        str(row.score.scores),
        *bounds,
        beside,
    )


def _limits(rows: Sequence[Row], shown: bool) -> str:
    worst = sorted((row for row in rows if row.score.mean < WEAK), key=lambda row: row.score.mean)
    text = [
        "## What it cannot do",
        "It knows no photographs, no people and no word outside its vocabulary: anything else gives a picture from its own world. "
        "Its words are 3 to 5 capital letters, its clips a few seconds.",
    ]
    if worst:
        listed = "\n".join(f"- {SUITES[row.suite].title}, {row.category} ({row.condition}): {row.score.mean:.2f}" for row in worst)
        text.append(f"Categories under {WEAK:g}, the worst first:\n\n{listed}")
    else:
        text.append(f"No category is under {WEAK:g}.")
    if shown:
        text.append(f"![Failures with what was asked and what is wrong]({PICTURES}/failures.webp)")
    return "\n\n".join(text)


def _failures(reports: dict[Path, Report], pictures: Path) -> bool:
    """A sheet of kept failures, the worst categories first. False when none were kept."""
    from openlance.media.read import read_image

    strips, labels = [], []
    rows = [(row, folder) for folder, report in reports.items() for row in report.rows]
    for row, folder in sorted(rows, key=lambda found: found[0].score.mean)[: 4 * WORST_ROWS]:
        prefix = f"{row.suite}/{row.condition}/"
        kept = [r for r in RecordFile(folder / "records" / f"{row.suite}.jsonl").records.values() if r.strip and r.key.startswith(prefix)]
        mine = [r for r in kept if any(mark.label == row.category for mark in r.marks)][:STRIPS_A_ROW]
        strips += [read_image(folder / str(record.strip)).frames[0] for record in mine]
        labels += [record.label or "" for record in mine]
    if not strips:
        return False
    most = WORST_ROWS * STRIPS_A_ROW
    sheet(strips[:most], labels[:most]).save(pictures / "failures.webp", quality=80)
    return True


def _again(reports: dict[Path, Report], stages: Sequence[Stage], compared: bool, began: str, earlier: Path | None) -> str:
    order = ", ".join(stage.name for stage in stages)
    commands = ["make nano                                          # every stage of recipes/nano, in order"]
    outputs = ["eval-nano", *(f"eval-nano-{number}" for number in range(2, len(reports) + 1))][: len(reports)]
    card = ["python -m openlance.nano.card", *(f"--report {output}" for output in outputs)]
    card += [f"--run runs/nano/{stage.name}" for stage in stages]
    if compared:
        commands.append("python tools/compare_words.py BEFORE AFTER --jsonl pairs.jsonl   # models before and after stage four")
        card.append("--pairs pairs.jsonl")
    if earlier:
        card.append(f"--earlier {earlier}")
    several = len(reports) > 1
    commands += [f"{_command(report, several)} --output {output}" for report, output in zip(reports.values(), outputs, strict=True)]
    commands.append(" ".join(card))
    block = "\n".join(commands)
    digest = next((report.run["weights"] for report in reports.values()), "unknown")
    weights = f"Weights digest `{digest}`"
    about = f"Stages in order: {order}. LOG.md tells of those that recipes/nano does not have. {began} {weights}."
    return f"## How to make it again\n\n{about}\n\n```bash\n{block}\n```"


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line of the generator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--run", action="append", type=Path, default=[], metavar="DIR", help="a training run or an average, in order")
    parser.add_argument(
        "--report",
        action="append",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of openlance eval world; of several, a later one's suites count",
    )
    parser.add_argument("--pairs", type=Path, metavar="FILE", help="scores before and after stage four, of tools/compare_words.py --jsonl")
    parser.add_argument("--earlier", type=Path, metavar="FILE", help="Markdown about the weights that the first run went on from")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, metavar="DIR")
    args = parser.parse_args(arguments)
    from openlance.pipeline import Lance

    try:
        stages = [Stage.read(folder) for folder in args.run]
        print(write_card(Lance.from_pretrained(args.model), stages, args.report, args.output, args.pairs, args.earlier))
    except LanceError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
