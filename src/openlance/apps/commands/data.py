"""Training data: check a file of records before a run does.

`check` reads every record, decodes its media, counts and names what fails, and draws a contact sheet of the first ones.

examples:
  openlance data check train.jsonl
  openlance data check train.jsonl --limit 200 --sheet sheet.png
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

SHOWN = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser("check", help="read and decode every record of a JSONL or parquet file")
    check.add_argument("file", type=Path)
    check.add_argument("--limit", type=int, help="only the first so many records")
    check.add_argument("--sheet", type=Path, help="write a contact sheet of the first media here")


def run(args: argparse.Namespace) -> int:
    from openlance.apps.cli import FAILED, OK
    from openlance.data.check import check_records
    from openlance.media import Clip, contact_sheet

    report = check_records(args.file, args.limit)
    for line in report.failures[:SHOWN]:
        print(f"failed: {line}")
    if len(report.failures) > SHOWN:
        print(f"... and {len(report.failures) - SHOWN} more")
    print(f"{report.good} good, {len(report.failures)} failed; tasks: {_counts(report.tasks)}")
    if args.sheet and report.media:
        clips, labels = zip(*report.media[:SHOWN], strict=True)
        Clip.from_image(contact_sheet(clips, labels, 6)).save(args.sheet)
        print(args.sheet)
    return FAILED if report.failures else OK


def _counts(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
