"""A report as a table for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from openlance.verify.check import Check
from openlance.verify.run import CaseReport

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {"pass": "green", "fail": "bold red", "intended": "yellow"}


@dataclass(frozen=True)
class Line:
    """All checks of one kind of quantity in one case: how many, the worst of them, and what they amount to."""

    label: str
    count: int
    worst: Check
    status: str


def lines_of(checks: Iterable[Check]) -> Iterator[Line]:
    """One line a kind of quantity, in the order of their first check."""
    groups: dict[str, list[Check]] = {}
    for check in checks:
        groups.setdefault(check.label, []).append(check)
    for label, group in groups.items():
        worst = max(group, key=lambda check: (check.status == "fail", check.status == "intended", check.error - check.tolerance))
        yield Line(label, len(group), worst, worst.status)


def table_of(report: CaseReport) -> Table:
    """The table of one case."""
    from rich.table import Table

    table = Table(title=f"{report.name}  ({report.seconds:.1f} s)", title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name, justify in (("quantity", "left"), ("compared", "right"), ("largest error", "right"), ("tolerance", "right"), ("", "left")):
        table.add_column(name, justify="left" if justify == "left" else "right")
    for line in lines_of(report.checks):
        tolerance = "exact" if line.worst.tolerance == 0 else f"{line.worst.tolerance:.0e}"
        verdict = f"[{STYLES[line.status]}]{line.status}[/]"
        table.add_row(f"  {line.label}", str(line.count), f"{line.worst.error:.1e}", tolerance, verdict)
    return table


def print_case(console: Console, report: CaseReport) -> None:
    """The table of a case, then every check that did not pass, by name."""
    from rich.markup import escape

    console.print(table_of(report))
    for check in report.checks:
        if check.status == "fail":
            console.print(f"  [bold red]fail[/] {escape(check.name)}: {check.error:.3e} > {check.tolerance:.0e}  {escape(check.note)}")
    intended = [check.name for check in report.checks if check.status == "intended"]
    if intended:
        console.print(f"  [yellow]intended differences[/]: {escape(', '.join(intended))}")
    if report.error:
        console.print(f"  [bold red]error[/] {escape(report.error)}")
    console.print()


def print_summary(console: Console, reports: list[CaseReport]) -> None:
    """What was not compared, by name, and the verdict."""
    rest: dict[str, list[str]] = {}
    for report in reports:
        for name in report.rest:
            rest.setdefault(name, []).append(report.name)
    if rest:
        console.print("not compared (no number of ours stands for it):")
        for name, cases in sorted(rest.items()):
            console.print(f"  {name}: {', '.join(cases)}", markup=False)
    statuses = Counter(check.status for report in reports for check in report.checks)
    failed = [report.name for report in reports if not report.passed]
    words = {"pass": "passed", "fail": "failed", "intended": "differ on purpose"}
    counts = ", ".join(f"{statuses[status]} {word}" for status, word in words.items())
    verdict = "[bold green]all cases pass[/]"
    if failed:
        verdict = f"[bold red]{len(failed)} of {len(reports)} cases failed[/]: {', '.join(failed)}"
    console.print(f"{len(reports)} cases, {counts}: {verdict}")
