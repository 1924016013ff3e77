"""Memory of every task at the model's default sizes: what a fresh process held at most, beside the estimate of `openlance info`.

    python benchmarks/memory.py                                         # the embedded model
    python benchmarks/memory.py --side 288 --frames 33 --tasks t2v video_edit

`imports` is what the process held once torch and the package were imported, `peak` the most it held from there to the end of its
request, imports, weights and all; the estimate is `in_all` of `openlance info --json`.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from machine import describe_machine, print_table
from openlance import Clip, Lance
from openlance.apps.anatomy import needs_of, parts_of
from openlance.model.config import LanceConfig
from openlance.sequence.tasks import find_task
from openlance.weights.hub import resolve
from openlance.weights.load import read_config

GOAL = 1000
MB = 1e6


def status(key: str) -> int:
    """Bytes that the kernel counts for this process: `VmRSS` now, `VmHWM` at most."""
    found = re.search(key + r":\s+(\d+)", Path("/proc/self/status").read_text(encoding="utf-8"))
    assert found
    return int(found[1]) * 1024


def at_sizes(config: LanceConfig, side: int | None, frames: int | None) -> LanceConfig:
    """The configuration with other default sizes."""
    media = config.media
    if side:
        media = replace(media, image_size=(side, side), video_size=(side, side))
    return replace(config, media=replace(media, num_frames=frames or media.num_frames))


def measure(name: str, model: str, side: int | None, frames: int | None) -> dict[str, int]:
    """Run one request of a task in this process: bytes held once everything common is imported, and at most."""
    task = find_task(name)
    imports = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak counts from here
    lance = Lance.from_pretrained(model)
    lance.model.config = at_sizes(lance.config, side, frames)
    sizes = lance.config.media
    film = "video" in (task.output, task.medium)
    height, width = sizes.video_size if film else sizes.image_size
    pixels = np.random.default_rng(0).integers(0, 255, (sizes.num_frames if film and not task.clean_frames else 1, height, width, 3))
    media = [Clip(pixels.astype(np.uint8), sizes.fps)] if task.media[0] else []
    lance.run([lance.request(task, "a red circle left of a blue star", media, seed=1)])
    return {"imports": imports, "peak": status("VmHWM")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tasks", nargs="+", help="default: all that the model has the parts for")
    parser.add_argument("--side", type=int, help="height and width in pixels, instead of the model's defaults")
    parser.add_argument("--frames", type=int, help="of clips, instead of the model's default")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)  # one task in this very process, as JSON
    args = parser.parse_args()
    if args.alone:
        torch.set_num_threads(args.threads)
        print(json.dumps(measure(args.tasks[0], args.model, args.side, args.frames)))
        return
    files = resolve(args.model)
    config = at_sizes(read_config(files), args.side, args.frames)
    weights = sum(part.parameters for part in parts_of(files, config)) * torch.bfloat16.itemsize
    rows: list[tuple[str, ...]] = [("task", "at", "imports", "peak", "estimate", "off by", "goal")]
    for need in needs_of(config):
        if args.tasks and need.task not in args.tasks:
            continue
        command = [sys.executable, "-W", "ignore", *sys.argv, "--alone", "--tasks", need.task, "--threads", str(args.threads)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            raise SystemExit(f"{need.task} at {need.size} failed:\n{done.stderr}")
        held = json.loads(done.stdout.splitlines()[-1])
        estimate, peak = need.in_all(weights), held["peak"]
        figures = (f"{size / MB:.0f} MB" for size in (held["imports"], peak, estimate))
        rows.append((need.task, need.size, *figures, f"{(estimate - peak) / peak:+.0%}", f"{GOAL} MB"))
    print_table(f"{config.name}: memory of one request in a fresh process", rows, describe_machine(args.threads))


if __name__ == "__main__":
    main()
