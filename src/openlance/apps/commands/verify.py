"""Compare this installation with recorded numbers, quantity by quantity.

DIR is a checkpoint folder with case folders in it (case.json and tensors.safetensors). Every case is run through the engine
(or the training path) in float32, and the largest absolute error of each quantity is shown: token ids, segments, positions,
masks, sampled frames, preprocessed pixels, vision tokens, latents, velocities of each step, decoded pixels, logits, generated
ids, losses, gradient norms. Differences that are intended (`quirk_*` cases) do not count as failures. The exit code is 1 when
anything is beyond its tolerance.

examples:
  openlance verify ../golden
  openlance verify ../golden --case 't2i*' --json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openlance.apps.console import tell


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="DIR", help="checkpoint folder with cases")
    parser.add_argument("--case", default="*", metavar="PATTERN", help="only cases whose names match, e.g. 'x2t_*'")
    parser.add_argument("--device", default="cpu", help="where the model runs (default: cpu)")
    parser.add_argument("--json", action="store_true", help="the whole report as one JSON object on stdout")
    parser.add_argument("--failures", action="store_true", help="show only cases that fail")


def run(args: argparse.Namespace) -> int:
    from rich.console import Console

    from openlance.verify.report import print_case, print_summary
    from openlance.verify.run import Report, verify

    report = Report(args.folder)
    console = Console()
    for case in verify(args.folder, args.case, args.device):
        report.cases.append(case)
        if not args.json and not (args.failures and case.passed):
            print_case(console, case)
    if args.json:
        tell(report.to_dict())
    else:
        print_summary(console, report.cases)
    return 0 if report.passed else 1
