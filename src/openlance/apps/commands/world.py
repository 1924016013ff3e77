"""The synthetic world: look at its examples, export them, judge pictures.

`sheet` draws examples with their texts and facts; `sample` writes them as JSON lines with media files; `judge` says what a judge sees in
pictures, and with --examples scores one output an example, named as its id in the folder.

examples:
  openlance world list
  openlance world sheet image_edit --category add -n 12 -o sheet.png
  openlance world sample t2i -n 100 -o world-t2i
  openlance world judge pictures/*.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openlance.world.examples import Example


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    actions.add_parser("list", help="tasks and their categories")
    for name, text, default in (("sheet", "a contact sheet", "sheet.png"), ("sample", "JSON lines with media", "world")):
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
    judged = actions.add_parser("judge", help="what a judge sees in pictures and clips")
    judged.add_argument("media", type=Path, nargs="+")


def run(args: argparse.Namespace) -> int:
    from openlance.apps.cli import OK
    from openlance.world.tasks import CATEGORIES

    if args.action == "list":
        for task, categories in CATEGORIES.items():
            print(f"{task:15} {', '.join(categories)}")
    elif args.action == "judge":
        for path in args.media:
            print(json.dumps({"file": str(path), **seen_in(path)}))
    else:
        from openlance.media.clip import Clip
        from openlance.world.sheet import contact_sheet, export

        examples = make_examples(args)
        if args.action == "sheet":
            Clip.from_image(contact_sheet(examples)).save(args.output)
        else:
            export(examples, args.output)
        print(args.output)
    return OK


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
