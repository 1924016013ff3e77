"""What a person sees while a command works: notices, spinners, progress; all on stderr."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from openlance.engine.request import Progress
    from openlance.pipeline import Lance


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    """How results are told."""
    group = parser.add_argument_group("output")
    group.add_argument("--json", action="store_true", help="one JSON object a result on stdout, for machines")
    group.add_argument("-q", "--quiet", action="store_true", help="no progress, no notices")


def add_model_arguments(parser: argparse.ArgumentParser, verb: str = "use") -> None:
    """Which model, where and how."""
    group = parser.add_argument_group("model")
    about = f"model to {verb}: nano (embedded, default), a folder, or bytedance-research/Lance"
    group.add_argument("-m", "--model", default="nano", metavar="NAME", help=about)
    group.add_argument("--variant", choices=("image", "video"), help="which of the published weights")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    group.add_argument(
        "--dtype", default="auto", help="auto (bfloat16, or float32 on a processor without it), float32, bfloat16 or float16"
    )
    group.add_argument("--templates", metavar="FILE", help="templates.json instead of the model's")


def stderr_console(quiet: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=True, quiet=quiet)


def load_model(args: argparse.Namespace, console: Console) -> Lance:
    """The model that the arguments name."""
    with console.status(f"loading {args.model} ..."):
        from openlance.pipeline import Lance

        return Lance.from_pretrained(args.model, variant=args.variant, device=args.device, dtype=args.dtype, templates=args.templates)


def notice(console: Console, message: str) -> None:
    """One line a person should know of."""
    console.print(f"note: {message}", style="yellow", markup=False, highlight=False, soft_wrap=True)


def tell(value: dict[str, Any]) -> None:
    """One JSON object on stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


class StepBar:
    """One bar over the steps of several requests that are computed together."""

    def __init__(self, bar: Any, requests: int) -> None:
        self._bar = bar
        self._requests = requests
        self._task = bar.add_task("preparing", total=None)
        self._done: dict[int, int] = {}

    def watch(self, index: int) -> Any:
        """The progress callback of request `index`."""

        def report(progress: Progress) -> None:
            self._done[index] = progress.step
            self._bar.update(self._task, description="denoising", total=progress.total * self._requests, completed=sum(self._done.values()))

        return report


@contextmanager
def step_bar(console: Console, requests: int) -> Iterator[StepBar]:
    """A progress bar over denoising steps."""
    with _bar(console, "steps") as bar:
        yield StepBar(bar, requests)


@contextmanager
def count_bar(console: Console, total: int, unit: str) -> Iterator[Callable[[], None]]:
    """A progress bar over `total` things; yields what is to be called after each."""
    with _bar(console, unit) as bar:
        task = bar.add_task("working", total=total)
        yield lambda: bar.advance(task)


def _bar(console: Console, unit: str) -> Any:
    """Count, elapsed and remaining time; silent where stderr is no terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    counted = (MofNCompleteColumn(), TextColumn(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *counted, TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=console.quiet or not console.is_terminal)
