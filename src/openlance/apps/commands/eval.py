"""Score a model on held-out examples, judged by pixels.

Every score comes with its 95 % interval and with what the judge gives the right answers and their reconstructions by the autoencoder.
Everything is kept in the output folder: interrupt it at any time, the same command goes on where it was; a larger --n adds to it.

examples:
  openlance eval world --list
  openlance eval world --suite generate --suite edit --n 40
  openlance eval world --n 200 --output eval-nano --json > report.json
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.apps.console import add_model_arguments, add_output_arguments, load_model, stderr_console, tell

if TYPE_CHECKING:
    from rich.console import Console

    from openlance.eval.run import Evaluation
    from openlance.pipeline import Lance

SAMPLING = {"num_inference_steps": int, "guidance_scale": float, "timestep_shift": float, "solver": str}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("benchmark", choices=["world"], help="world: the synthetic world")
    parser.add_argument("--suite", action="append", metavar="NAME", help="a suite; several times for several (default: all)")
    parser.add_argument("--list", action="store_true", help="list the suites and stop")
    parser.add_argument("--n", type=int, default=40, help="prompts a category (default: 40)")
    parser.add_argument("--seed", type=int, default=0, help="which stretch of the held-out seeds (default: 0)")
    parser.add_argument("--output", type=Path, default=Path("eval-world"), metavar="DIR", help="folder of results (default: eval-world)")
    parser.add_argument("--no-bounds", action="store_true", help="leave out truth and reconstructions")
    for name, kind in SAMPLING.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, help="instead of the model's default")
    add_model_arguments(parser, "evaluate")
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from openlance.apps.cli import INTERRUPTED, OK
    from openlance.errors import LanceError
    from openlance.eval.records import claim, fingerprint
    from openlance.eval.report import make_report, print_report, write_report
    from openlance.eval.run import Evaluation
    from openlance.eval.suite import find_suites

    suites = find_suites(args.suite)
    if args.list:
        for suite in suites:
            print(f"{suite.name:13} {suite.title}: {', '.join(suite.categories)}{f' (twin of {suite.twin})' if suite.twin else ''}")
        return OK
    if args.n < 1 or args.seed < 0:
        raise LanceError(f"--n {args.n} must be at least 1 and --seed {args.seed} at least 0")
    console = stderr_console(args.quiet)
    lance = load_model(args, console)
    parameters = {name: getattr(args, name) for name in SAMPLING if getattr(args, name) is not None}
    mine = fingerprint(lance, parameters, args.seed)
    claim(args.output, mine)
    evaluation = Evaluation(suites, args.n, args.seed, args.output)
    finished = _evaluate(evaluation, lance, parameters, args, console)
    report = make_report(evaluation, {**mine, "n": args.n})
    files = write_report(report, evaluation)
    if args.json:
        tell(report.to_dict())
    else:
        print_report(report)
    for path in files:
        console.print(f"wrote {path}", highlight=False)
    return OK if finished else INTERRUPTED


def _evaluate(evaluation: Evaluation, lance: Lance, parameters: dict[str, object], args: argparse.Namespace, console: Console) -> bool:
    """Run what is missing behind a bar for each suite and answerer. False when interrupted."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

    from openlance.eval.answerers import Answerer, ModelAnswerer, Reconstruction, Truth
    from openlance.eval.run import run as evaluate

    bounds: list[Answerer] = [] if args.no_bounds else [Truth(), Reconstruction(lance.model.autoencoder)]
    bars: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=console.quiet or not console.is_terminal) as progress:

        def show(what: str, done: int, total: int) -> None:
            if what not in bars:
                bars[what] = progress.add_task(what, total=total)
            progress.update(bars[what], completed=done)

        try:
            evaluate(evaluation, ModelAnswerer(lance, parameters), bounds, show)
        except KeyboardInterrupt:
            print("interrupted: the same command goes on from here", file=sys.stderr)
            return False
    return True
