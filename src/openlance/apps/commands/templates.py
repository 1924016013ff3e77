"""Read the wording of released weights out of its source, without running it, and write templates.json.

FILE is the Python module of the released model's source that holds its SYSTEM texts. Only string constants are looked at. What
was found for which key is printed; a wrong guess is corrected with --set. Put the result beside the weights, or pass it as
--templates.

examples:
  openlance templates --from prompts.py
  openlance templates --from prompts.py --output lance/templates.json --set edit/image=EDIT_PROMPTS.image
"""

from __future__ import annotations

import argparse
from pathlib import Path

from openlance.apps.console import tell
from openlance.errors import RequestError
from openlance.files import whole_file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--from", dest="source", type=Path, required=True, metavar="FILE", help="Python source with the texts")
    parser.add_argument("-o", "--output", type=Path, default=Path("templates.json"), metavar="FILE", help="default: templates.json")
    parser.add_argument("--set", dest="chosen", action="append", default=[], metavar="KEY=NAME", help="the constant for a key, by name")
    parser.add_argument("--overwrite", action="store_true", help="replace the output")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")


def run(args: argparse.Namespace) -> int:
    from openlance.weights.templates import read_templates

    chosen = {}
    for pair in args.chosen:
        key, equals, name = pair.partition("=")
        if not equals or not key or not name:
            raise RequestError(f"--set {pair} must be KEY=NAME, e.g. t2i/image=T2I_PROMPT")
        chosen[key] = name
    if args.output.exists() and not args.overwrite:
        raise RequestError(f"{args.output} exists: choose another --output, or pass --overwrite")
    reading = read_templates(args.source, chosen)
    try:
        args.output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"cannot make {args.output.parent}: {error.strerror or error}; choose another --output") from error
    with whole_file(args.output, RequestError) as temporary:
        reading.templates.save(temporary)
    if args.json:
        tell({"file": str(args.output), "systems": reading.templates.systems, "names": dict(reading.names)})
        return 0
    for key, text in sorted(reading.templates.systems.items()):
        print(f"{key:16} {reading.names[key] or '(not in the file: our own wording)'}\n{'':16} {text}")
    print(args.output)
    return 0
