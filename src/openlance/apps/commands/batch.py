"""Run a file of requests: several at a time through one engine, or on many machines; resumable at any moment.

IN is a file of JSON lines, a request a line, or parquet with such columns:

  {"id": "cat", "task": "t2i", "prompt": "a cat", "seed": 1, "height": 512, "width": 512}
  {"id": "snow", "task": "image_edit", "prompt": "make it snowy", "images": ["photo.jpg"]}
  {"id": "what", "task": "understand", "prompt": "what is this?", "videos": ["clip.mp4"], "max_new_tokens": 40}

Keys: id, task, prompt, images, videos, height, width, num_frames, seed and every sampling parameter of the other commands
(num_inference_steps, guidance_scale, ...). Paths are relative to the file. Tasks: t2i, t2v, i2v, image_edit, video_edit,
subject_image, subject_video, understand, text. The JSON formats of the released model ({"name": "prompt"}, and entries with
interleave_array) are read as well, with --task.

DIR gets the media files and results.jsonl: id, task, files or text, seconds, error. Started again, requests that are done
are skipped and those that failed are tried again. The exit code is 2 if lines of the file were wrong, 1 if requests failed.

With --ray the requests go in blocks of --batch-size to copies of the model on a Ray cluster. This command runs on one of its
machines, reads the media and writes DIR there; the others need openlance of the same version and the model (a folder under the
same path, or a hub name), nothing else. A block whose replica dies is tried again, and its requests one by one if it keeps dying.

examples:
  openlance batch requests.jsonl --output results
  openlance batch prompts.json --task t2i --output results --batch-size 8
  openlance batch requests.jsonl --output results --ray auto            the cluster that this machine is part of
  openlance batch requests.jsonl --output results --ray local --replicas 2
"""

from __future__ import annotations

import argparse
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.apps.cluster import add_cluster_arguments, check_cluster_arguments, chosen_model, connected, shared_out
from openlance.apps.console import add_model_arguments, add_output_arguments, count_bar, load_model, notice, stderr_console, tell
from openlance.apps.output import suffix_of, write_file
from openlance.apps.requests_file import Job, file_names, read_jobs
from openlance.apps.results_file import Outcome, ResultsFile
from openlance.errors import RequestError

if TYPE_CHECKING:
    from rich.console import Console

    from openlance.apps.batch import Finished, Suffixes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("requests", type=Path, metavar="IN", help="JSON lines, or JSON of the released model's formats")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder for media and results.jsonl")
    parser.add_argument("--task", help="task of requests that name none")
    parser.add_argument("--batch-size", type=int, default=4, metavar="N", help="requests that are active at a time (default: 4)")
    parser.add_argument("--image-format", help="suffix of images (default: png)")
    parser.add_argument("--video-format", help="suffix of clips (default: mp4)")
    parser.add_argument("--overwrite", action="store_true", help="forget earlier results and run everything")
    add_cluster_arguments(parser, "compute")
    add_model_arguments(parser)
    add_output_arguments(parser)


def run(args: argparse.Namespace) -> int:
    from openlance.apps.batch import Suffixes

    if args.batch_size < 1:
        raise RequestError(f"--batch-size {args.batch_size} must be at least 1")
    check_cluster_arguments(args)
    suffixes = Suffixes(suffix_of(False, args.image_format), suffix_of(True, args.video_format))
    jobs = read_jobs(args.requests, args.task)
    names = file_names(jobs)
    console = stderr_console(args.quiet)
    results = ResultsFile(args.output, fresh=args.overwrite)
    wrong = [job for job in jobs if job.error]
    for job in wrong:
        _finish(args, console, results, Outcome(job.id, job.task, error=job.error))
    todo = [job for job in jobs if not job.error and job.id not in results.done]
    skipped = len(jobs) - len(wrong) - len(todo)
    if skipped:
        notice(console, f"{skipped} of {len(jobs)} requests are done already (--overwrite runs them again)")
    failures = 0
    told: set[str] = set()
    if todo:
        work = _here if args.ray is None else _on_cluster
        with closing(work(args, console, todo, suffixes)) as finished, count_bar(console, len(todo), "requests") as advance:
            for each in finished:
                outcome = _outcome(each, args.output, names[each.id])
                failures += outcome.error is not None
                _finish(args, console, results, outcome)
                for text in each.notices:
                    if text not in told:  # what a model knows is a paragraph: once is enough, whoever asked beyond it
                        notice(console, f"{each.id}: {text}")
                    told.add(text)
                advance()
    if wrong:
        return 2
    return 1 if failures else 0


def _here(args: argparse.Namespace, console: Console, todo: list[Job], suffixes: Suffixes) -> Generator[Finished]:
    from openlance.apps.batch import finish_jobs

    yield from finish_jobs(load_model(args, console), todo, args.batch_size, suffixes)


def _on_cluster(args: argparse.Namespace, console: Console, todo: list[Job], suffixes: Suffixes) -> Generator[Finished]:
    from openlance.apps.cluster_batch import ClusterBatch

    model = chosen_model(args)
    with connected(args.ray):
        share = shared_out(args.replicas, args.device)
        notice(console, share.told())
        yield from ClusterBatch(model.load, share, args.batch_size, suffixes).run(todo)


def _outcome(finished: Finished, folder: Path, name: str) -> Outcome:
    """The outcome of a request, its file written."""
    files = None
    if finished.file is not None:
        files = (write_file(finished.file, folder / f"{name}{finished.suffix}").name,)
    return Outcome(finished.id, finished.task, files, finished.text, finished.seconds, finished.error)


def _finish(args: argparse.Namespace, console: Console, results: ResultsFile, outcome: Outcome) -> None:
    results.add(outcome)
    if outcome.error:
        console.print(f"error: {outcome.id}: {outcome.error}", style="red", markup=False, highlight=False, soft_wrap=True)
    if args.json:
        tell(outcome.values())
