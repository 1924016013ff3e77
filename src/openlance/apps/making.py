"""What the generating commands share: requests out of arguments, run together, files and lines out of results."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openlance.apps.console import load_model, notice, stderr_console, step_bar, tell
from openlance.apps.output import Destination, slug, suffix_of
from openlance.apps.parameters import given_parameters
from openlance.errors import RequestError

if TYPE_CHECKING:
    from openlance.engine.engine import Result
    from openlance.engine.request import Request
    from openlance.pipeline import Lance

DEFAULT_SEED = 42


def add_file_arguments(parser: argparse.ArgumentParser, what: str) -> None:
    """Where results go and how many are made."""
    group = parser.add_argument_group("files")
    group.add_argument("-o", "--output", metavar="PATH", help="a file, or a folder (default: here, named after prompt and seed)")
    group.add_argument("--format", help=f"suffix of {what}, where --output names no file")
    group.add_argument("--overwrite", action="store_true", help="replace files that exist")
    group.add_argument("-n", "--num-images", type=int, default=1, metavar="N", help=f"{what} of each prompt, with seeds SEED, SEED+1, ...")


def make(args: argparse.Namespace, prompts: Sequence[str], video: bool, media: Sequence[str] = (), **choice: bool) -> int:
    """Make `-n` results of every prompt, in one batch. `choice`: what `infer_task` needs to tell tasks apart."""
    from openlance.media import read_media
    from openlance.sequence.tasks import infer_task

    if args.num_images < 1:
        raise RequestError(f"-n {args.num_images} must be at least 1")
    count = len(prompts) * args.num_images
    clips = [read_media(path) for path in media]
    kinds = tuple("image" if clip.is_image else "video" for clip in clips)
    task = infer_task("video" if video else "image", kinds, **choice)
    destination = Destination(args.output, suffix_of(video, args.format), count, args.overwrite)
    console = stderr_console(args.quiet)
    lance = load_model(args, console)
    parameters = given_parameters(args)
    first = parameters.pop("seed", DEFAULT_SEED)
    requests = [
        lance.request(task, prompt, clips, seed=first + index, **parameters) for prompt in prompts for index in range(args.num_images)
    ]
    results = run_together(lance, requests, console)
    for request, result in zip(requests, results, strict=True):
        _deliver(args, request, result, destination)
    return 0


def run_together(lance: Lance, requests: Sequence[Request], console: Any) -> list[Result]:
    """Results of all requests, computed in one batch behind one progress bar; what was adjusted is told."""
    with step_bar(console, len(requests)) as bar:
        watched = [dataclasses.replace(request, on_progress=bar.watch(index)) for index, request in enumerate(requests)]
        results = lance.engine.run(watched)
    for text in dict.fromkeys(text for result in results for text in result.notices):
        notice(console, text)
    return results


def _deliver(args: argparse.Namespace, request: Request, result: Result, destination: Destination) -> None:
    assert result.clip is not None
    path = destination.write(result.clip, f"{slug(request.prompt)}-{request.seed}")
    if not args.json:
        print(path, flush=True)
        return
    tell(
        {
            "task": request.task.name,
            "files": [str(path)],
            "prompt": request.prompt,
            "seed": request.seed,
            "height": result.clip.height,
            "width": result.clip.width,
            "num_frames": result.clip.num_frames,
            "seconds": round(result.seconds, 3),
            "notices": list(result.notices),
        }
    )


def read_prompt(text: str) -> str:
    """A prompt argument: `-` is standard input, `@FILE` the text of a file."""
    import sys

    if text == "-":
        return sys.stdin.read().strip()
    if text.startswith("@") and len(text) > 1:
        path = Path(text[1:])
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"cannot read the prompt from {path} ({error}); a prompt that starts with @ names a file") from error
    return text
