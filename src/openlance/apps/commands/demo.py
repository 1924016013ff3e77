"""Every task once, timed and judged, on a page to look at.

Draws, films, edits, keeps subjects, answers questions and converses on held-out examples of the synthetic world, reading its inputs
from image and video files that it writes first. Prints what it does; DIR/index.html shows it, with the media beside it.

examples:
  openlance demo --output demo
  openlance demo --output demo --model my-model
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.apps.console import add_model_arguments, load_model, stderr_console

if TYPE_CHECKING:
    from rich.console import Console

    from openlance.apps.demo import Shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output", type=Path, default=Path("demo"), metavar="DIR", help="folder of the page (default: demo)")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import time

    from rich.console import Console

    from openlance.apps.demo import run_demo
    from openlance.apps.demo_page import About, demo_page
    from openlance.files import write_text

    started = time.perf_counter()
    lance = load_model(args, stderr_console())
    loaded = time.perf_counter() - started
    console = Console(highlight=False)
    console.print(f"[bold]{lance.config.name}[/bold] loaded in {loaded:.1f} s")
    shown: list[Shown] = []
    for one in run_demo(lance, args.output):
        if not shown or shown[-1].section != one.section:
            console.print(f"\n[bold]{one.section.title}[/bold]  [dim]{one.section.about}[/dim]")
        shown.append(one)
        _tell(one, console)
    parameters = sum(parameter.numel() for parameter in lance.model.parameters())
    total = time.perf_counter() - started
    page = args.output / "index.html"
    write_text(page, demo_page(shown, About(lance.config.name, parameters, _machine(), loaded, total)))
    console.print(f"\n{sum(len(one.steps) for one in shown)} requests in {total:.0f} s. Open [bold]{page}[/bold]")
    return 0


def _tell(shown: Shown, console: Console) -> None:
    from rich.markup import escape

    for k, step in enumerate(shown.steps):
        sign = "[green]✓[/green]" if step.mark.score >= 0.9 else "[yellow]~[/yellow]" if step.mark.score >= 0.5 else "[red]✗[/red]"
        answer = f" → [italic]{escape(step.answer)}[/italic]" if isinstance(step.answer, str) else f" → [dim]{step.output}[/dim]"
        wrong = f"  [dim]not: {escape(', '.join(step.mark.wrong))}[/dim]" if step.mark.wrong and step.output else ""
        indent = "    " if k else "  "
        console.print(f"{indent}{sign} {step.seconds:5.2f} s  {escape(step.turn.text)}{answer}{wrong}", soft_wrap=True)


def _machine() -> str:
    import os
    import platform

    import torch

    where = torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{os.cpu_count()} CPU cores, {platform.machine()}"
    return f"{where}, torch {torch.__version__.split('+')[0]}"
