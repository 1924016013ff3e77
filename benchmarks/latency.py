"""Seconds of every kind of request, warm, one at a time, through the public API; loading and peak memory in fresh processes.

    python benchmarks/latency.py                    # the embedded model, all cores
    python benchmarks/latency.py --model DIR --threads 1 --repeats 5

Medians over repeats with different seeds. The goals are those of two cores that multiply bfloat16 fast.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch

from machine import describe_machine, print_table
from openlance import Lance
from openlance.media.clip import Clip
from openlance.world.draw import Setting
from openlance.world.tasks import make_example

SIZE = {"height": 128, "width": 128}
STEPS = {"num_inference_steps": 20}
NEW_TOKENS = 48
GOALS = {
    "text to image 128x128": 0.5,
    "text to image 256x256": 1.5,
    "image edit 128x128": 1.0,
    "text to video 17 frames 128x128": 2.0,
    "video edit 17 frames 128x128": 4.0,
    "first token of an answer": 0.15,
}
LOADING = """
import json, resource, sys, time
import torch
torch.set_num_threads(int(sys.argv[2]))
began = time.perf_counter()
from openlance import Lance
lance = Lance.from_pretrained(sys.argv[1])
loaded = time.perf_counter() - began
lance.edit(lance.generate_video("a red circle", num_frames=17, height=128, width=128), "make it blue")
print(json.dumps({"load": loaded, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def source(task: str, category: str) -> tuple[Clip, str]:
    """A held-out medium of the world with what is asked of it."""
    example = make_example(task, category, 1, Setting(split="test"))
    (medium,) = example.inputs
    return Clip(medium.pixels().copy(), medium.fps), example.text


def requests(lance: Lance) -> dict[str, Callable[[int], Any]]:
    """What is timed, as functions of a seed."""
    image, change = source("image_edit", "colour")
    clip, change_clip = source("video_edit", "colour")
    prompt = "a red circle left of a blue star on a white background"
    film = "a red circle moving to the right on a white background"
    return {
        "text to image 128x128": lambda seed: lance.generate_image(prompt, seed=seed, **SIZE, **STEPS),
        "text to image 256x256": lambda seed: lance.generate_image(prompt, seed=seed, height=256, width=256, **STEPS),
        "image edit 128x128": lambda seed: lance.edit(image, change, seed=seed, **STEPS),
        "text to video 17 frames 128x128": lambda seed: lance.generate_video(film, seed=seed, num_frames=17, **SIZE, **STEPS),
        "video edit 17 frames 128x128": lambda seed: lance.edit(clip, change_clip, seed=seed, **STEPS),
    }


def median(run: Callable[[int], Any], repeats: int) -> float:
    """Seconds, after one run that warms caches."""
    run(0)
    taken = []
    for seed in range(1, repeats + 1):
        began = time.perf_counter()
        run(seed)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def answer_speed(lance: Lance, repeats: int) -> tuple[float, float]:
    """Seconds to the first token of an answer about an image, and tokens a second after it, with greedy decoding of a description."""
    image, _ = source("understand", "caption full")
    task = "understand"
    firsts, rates = [], []
    for repeat in range(repeats + 1):
        marks: list[float] = []

        def hear(_: str, marks: list[float] = marks) -> None:
            marks.append(time.perf_counter())

        request = lance.request(task, "Describe everything in the picture.", (image,), max_new_tokens=NEW_TOKENS, on_text=hear)
        began = time.perf_counter()
        (result,) = lance.engine.run([request])
        ended = time.perf_counter()
        if repeat and marks:
            firsts.append(marks[0] - began)
            rates.append((len(result.token_ids) - 1) / max(ended - marks[0], 1e-9))
    return statistics.median(firsts), statistics.median(rates)


def fresh_process(model: str, threads: int, repeats: int) -> tuple[float, float]:
    """Seconds from torch imported to model loaded, and peak MB of a process that then films and edits; medians."""
    runs = []
    for _ in range(repeats):
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", LOADING, model, str(threads)],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
        )
        runs.append(json.loads(done.stdout.splitlines()[-1]))
    return statistics.median(run["load"] for run in runs), statistics.median(run["memory"] for run in runs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lance = Lance.from_pretrained(args.model)
    rows: list[tuple[str, ...]] = [("request", "median", "goal")]
    for name, run in requests(lance).items():
        rows.append((name, f"{median(run, args.repeats):.2f} s", f"{GOALS[name]:g} s"))
    first, rate = answer_speed(lance, args.repeats)
    rows.append(("first token of an answer", f"{first:.3f} s", f"{GOALS['first token of an answer']:g} s"))
    rows.append(("tokens a second", f"{rate:.0f}", "60"))
    load, memory = fresh_process(args.model, args.threads, min(3, args.repeats))
    rows.append(("load", f"{load:.2f} s", "1.5 s"))
    rows.append(("peak memory, filming and editing a clip", f"{memory:.0f} MB", "1000 MB"))
    guidance = lance.config.sampling.guidance_scale
    print_table(
        f"{lance.config.name}: {STEPS['num_inference_steps']} steps with guidance {guidance:g}, {lance.model.dtype}",
        rows,
        describe_machine(args.threads),
    )


if __name__ == "__main__":
    main()
