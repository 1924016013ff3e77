"""The synthetic world: look at its examples, export them, judge pictures.

`sheet` draws examples with their texts and facts. `sample` writes them with media files: examples.jsonl with all there is to know,
records.jsonl to train on (or parquet), requests.jsonl for `openlance batch` or any other model. `judge` says what a judge sees in pictures
and clips; with --examples it scores what a model made of such examples, in a folder of files named by their ids (ID.png, ID.mp4, answers
in ID.txt or in the results.jsonl of `openlance batch`).

examples:
  openlance world list
  openlance world sheet image_edit --category add -n 12 -o sheet.png
  openlance world sample t2i -n 100 -o world-t2i
  openlance world judge pictures/*.png

  openlance world sample image_edit --split test -n 200 -o edits
  openlance batch edits/requests.jsonl --output made
  openlance world judge made --examples edits/examples.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openlance.eval.outputs import Judged
    from openlance.world.examples import Example


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="tasks and their categories")
    for name, text, default in (("sheet", "a contact sheet", "sheet.png"), ("sample", "JSON lines or parquet with media", "world")):
        action = actions.add_parser(name, help=text)
        action.add_argument("task", help="a task, see `list`")
        action.add_argument("--category", help="one category (default: all in turn)")
        action.add_argument("-n", "--number", type=int, default=16, help="how many (default: 16)")
        action.add_argument("--seed", type=int, default=0, help="seed of the first (default: 0)")
        action.add_argument("--split", default="train", help="train, test, or a held-out split (default: train)")
        action.add_argument("--ring", type=int, choices=(1, 2), default=1, help="2 adds things, tints and sceneries")
        action.add_argument("--size", type=int, nargs=2, default=(128, 128), metavar=("HEIGHT", "WIDTH"))
        action.add_argument("--lattice", type=int, default=0, metavar="PX", help="objects on multiples of PX (default: anywhere)")
        action.add_argument("--arranged", action="store_true", help="objects whose places are left open stand in reading order")
        action.add_argument("--given-anywhere", action="store_true", help="what is given lies on no lattice")
        action.add_argument("-o", "--output", type=Path, default=Path(default))
        if name == "sample":
            action.add_argument("--parquet", action="store_true", help="write the records to train on as parquet too, media inside")
    judged = actions.add_parser("judge", help="what a judge sees in pictures and clips, or scores of a folder of them")
    judged.add_argument("media", type=Path, nargs="+", help="pictures and clips; with --examples the folder with the outputs")
    judged.add_argument("--examples", type=Path, metavar="FILE", help="examples.jsonl of `sample`: what the outputs should be")


def run(args: argparse.Namespace) -> int:
    from openlance.apps.cli import OK
    from openlance.world.tasks import CATEGORIES

    if args.action == "list":
        for task, categories in CATEGORIES.items():
            print(f"{task:15} {', '.join(categories)}")
    elif args.action == "judge" and args.examples:
        return judge(args.media, args.examples)
    elif args.action == "judge":
        for path in args.media:
            print(json.dumps({"file": str(path), **seen_in(path)}))
    elif args.action == "sheet":
        from openlance.media.clip import Clip
        from openlance.world.sheet import contact_sheet

        Clip.from_image(contact_sheet(make_examples(args))).save(args.output)
        print(args.output)
    else:
        sample(args)
        print(args.output)
    return OK


def sample(args: argparse.Namespace) -> None:
    """Write examples, and as parquet what can be trained on."""
    from openlance.data.jsonl import read_jsonl
    from openlance.data.parquet import write_parquet
    from openlance.world.export import RECORDS, export

    export(make_examples(args), args.output)
    if args.parquet:
        write_parquet(read_jsonl(args.output / RECORDS), args.output)


def judge(folders: list[Path], examples: Path) -> int:
    """Scores of outputs: a line of JSON each on stdout, means of the categories on stderr. Fails where outputs are missing."""
    from openlance.apps.cli import FAILED, OK
    from openlance.errors import LanceError
    from openlance.eval.outputs import judge_outputs, read_examples

    if len(folders) != 1:
        raise LanceError(f"--examples judges one folder of outputs, {len(folders)} were given")
    found = []
    for judged in judge_outputs(read_examples(examples), folders[0]):
        found.append(judged)
        for name, mark in zip(judged.example.names, judged.marks, strict=False):
            print(json.dumps({"id": name, "category": mark.label, "score": round(mark.score, 4), "wrong": mark.wrong}, ensure_ascii=False))
    if not any(judged.marks for judged in found):
        wanted = next((judged.missing for judged in found), "ID")
        raise LanceError(f"{folders[0]} has no output of any of the {len(found)} examples: name files by their ids, such as {wanted}.png")
    print_means(found)
    return FAILED if any(judged.missing for judged in found) else OK


def print_means(found: list[Judged]) -> None:
    """A table on stderr, and how many outputs are not there."""
    from rich.table import Table

    from openlance.apps.console import notice, stderr_console
    from openlance.eval.statistics import estimate

    scores: dict[tuple[str, str], list[list[float]]] = {}
    for judged in found:
        for mark in judged.marks:
            scores.setdefault((judged.example.task, mark.label), []).append([mark.score])
    table = Table()
    for name in ("task", "category", "score", "95 %", "n"):
        table.add_column(name, justify="left" if name in ("task", "category") else "right")
    for (task, category), groups in scores.items():
        mean = estimate(groups)
        table.add_row(task, category, f"{mean.mean:.3f}", f"{mean.low:.3f}-{mean.high:.3f}", str(mean.scores))
    console = stderr_console()
    console.print(table)
    if missing := [judged.missing for judged in found if judged.missing]:
        notice(console, f"{len(missing)} of {len(found)} examples have no output and are in no mean, such as {missing[0]}")


def make_examples(args: argparse.Namespace) -> list[Example]:
    """Examples of the asked task, its categories in turn. Raises LanceError for unknown names."""
    from openlance.errors import LanceError
    from openlance.world.draw import Setting
    from openlance.world.splits import SPLITS
    from openlance.world.tasks import CATEGORIES, make_example

    if args.task not in CATEGORIES:
        raise LanceError(f"no task '{args.task}' in the world: choose one of {', '.join(CATEGORIES)}")
    if args.split not in SPLITS:
        raise LanceError(f"no split '{args.split}': choose one of {', '.join(SPLITS)}")
    categories = list(CATEGORIES[args.task])
    if args.category and args.category not in categories:
        raise LanceError(f"no category '{args.category}' of {args.task}: choose one of {', '.join(categories)}")
    chosen = [args.category] if args.category else categories
    if args.lattice < 0:
        raise LanceError(f"--lattice {args.lattice}: a number of px, or 0 for none")
    height, width = args.size
    setting = Setting(
        height,
        width,
        ring=args.ring,
        split=args.split,
        lattice=args.lattice,
        arranged=args.arranged,
        given_anywhere=args.given_anywhere,
    )
    return [make_example(args.task, chosen[i % len(chosen)], args.seed + i, setting) for i in range(args.number)]


def seen_in(path: Path) -> dict[str, object]:
    """Background, objects and word that the judge reads in the first frame of a picture or clip, in plain values."""
    from openlance.media import read_media
    from openlance.world.judge.view import look

    view = look(read_media(path).frames[0])
    shown = ("kind", "colour", "texture", "x", "y", "diameter", "known")
    return {
        "background": view.background,
        "objects": [{name: _plain(getattr(seen, name)) for name in shown} for seen in view.objects],
        "word": None if view.word is None else {"text": view.word.text, "colour": view.word.colour, "place": view.word.place},
    }


def _plain(value: object) -> object:
    return round(float(value), 3) if isinstance(value, float) else value
