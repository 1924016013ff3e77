"""Answer a question about images and videos, or about nothing.

Files come first, the question last. The answer appears on stdout as it is decoded.

examples:
  openlance ask photo.jpg "what colour is the suit?"
  openlance ask before.png after.png "what changed?"
  openlance ask clip.mp4 "describe the clip" --max-new-tokens 64 --temperature 0.7 --seed 1
  openlance ask "how many sides has a hexagon?"
"""

from __future__ import annotations

import argparse
import sys

from openlance.apps.console import add_model_arguments, add_output_arguments, load_model, notice, stderr_console, tell
from openlance.apps.making import read_prompt
from openlance.apps.parameters import SEED, SYSTEM, TEXT, add_parameters, given_parameters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("media", nargs="*", metavar="FILE", help="images and videos to look at")
    parser.add_argument("question", help="what to answer")
    add_parameters(parser, "answer", (*TEXT, *SYSTEM, *SEED))
    add_model_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    import dataclasses

    from openlance.media import read_media
    from openlance.sequence.tasks import infer_task

    clips = [read_media(path) for path in args.media]
    task = infer_task("text", tuple("image" if clip.is_image else "video" for clip in clips))
    console = stderr_console(args.quiet)
    lance = load_model(args, console)
    request = lance.request(task, read_prompt(args.question), clips, **given_parameters(args))
    if not args.json:
        request = dataclasses.replace(request, on_text=_show)
    (result,) = lance.engine.run([request])
    for text in result.notices:
        notice(console, text)
    if args.json:
        values = {"task": task.name, "text": result.text, "prompt": request.prompt, "tokens": len(result.token_ids)}
        tell(values | {"seed": request.seed, "seconds": round(result.seconds, 3), "notices": list(result.notices)})
    else:
        print(flush=True)
    return 0


def _show(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()
