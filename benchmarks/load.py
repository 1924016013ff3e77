"""Start-up: how long a cold process takes until the embedded model is loaded, until a first result, until the server's first page.

    python benchmarks/load.py                      # 7 rounds
    python benchmarks/load.py --repeats 3 --no-serve

Every line is a process of its own, from its start to its end (the server: to the first answer of its page). A round runs each line
once, so that other work on the machine falls on all of them; medians over rounds. The ratio is to `import torch` of the same rounds,
which no model can do without. Seconds of processor count user and system time of the process and its threads.
"""

import argparse
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from machine import describe_machine, print_table

OPENLANCE = (sys.executable, "-W", "ignore", "-m", "openlance.apps.cli")
SIZE = ("--height", "128", "--width", "128")
PAGE_SECONDS = 120.0
"""When to give up waiting for a page."""


@dataclass(frozen=True)
class Took:
    """Seconds on the clock and of processor."""

    wall: float
    processor: float


def python(code: str) -> tuple[str, ...]:
    return sys.executable, "-W", "ignore", "-c", code


def time_to_end(command: tuple[str, ...]) -> Took:
    """Of a process that must end well."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{output.read().decode()}")
    return Took(wall, usage.ru_utime + usage.ru_stime)


def time_to_page(folder: Path) -> Took:
    """Of a server until its page answers; it is stopped then, and the seconds of processor are those until the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    process = subprocess.Popen(
        (*OPENLANCE, "serve", "--port", str(port), "--data-dir", str(folder)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while True:
            try:
                # The server listens before it answers: this waits for the answer.
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=PAGE_SECONDS) as page:
                    page.read()
                break
            except (ConnectionError, urllib.error.URLError):
                if time.perf_counter() - began > PAGE_SECONDS or process.poll() is not None:
                    raise SystemExit("the server gave no page: run `openlance serve` to see why") from None
                time.sleep(0.02)
        wall = time.perf_counter() - began
    finally:
        process.send_signal(signal.SIGTERM)
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
    return Took(wall, usage.ru_utime + usage.ru_stime)


def lines(folder: Path, serve: bool) -> dict[str, tuple[Callable[[], Took], str]]:
    """What is timed, with its goal in seconds."""
    picture = str(folder / "picture.png")
    draw = (*OPENLANCE, "generate-image", "a red circle", *SIZE, "--overwrite", "-q", "-o", picture)
    timed = {
        "import torch": (python("import torch"), ""),
        "import openlance": (python("import openlance"), "0.3"),
        "openlance --help": ((*OPENLANCE, "--help"), "0.5"),
        "load the embedded model": (python("from openlance import Lance; Lance.from_pretrained('nano')"), "1.5"),
        "openlance generate-image": (draw, ""),
        "openlance ask, about a picture": ((*OPENLANCE, "ask", picture, "what colour is the circle?", "-q"), ""),
    }
    found: dict[str, tuple[Callable[[], Took], str]] = {
        name: (lambda command=command: time_to_end(command), goal)  # type: ignore[misc]
        for name, (command, goal) in timed.items()
    }
    if serve:
        found["openlance serve, to its first page"] = (lambda: time_to_page(folder), "6")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--no-serve", action="store_true", help="leave the server out")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        timed = lines(Path(folder), not args.no_serve)
        for run, _ in timed.values():  # once for the disk's cache
            run()
        rounds = [{name: run() for name, (run, _) in timed.items()} for _ in range(args.repeats)]
    rows: list[tuple[str, ...]] = [("process", "seconds", "of processor", "to import torch", "goal")]
    for name, (_, goal) in timed.items():
        wall = statistics.median(one[name].wall for one in rounds)
        processor = statistics.median(one[name].processor for one in rounds)
        ratio = statistics.median(one[name].wall / one["import torch"].wall for one in rounds)
        rows.append((name, f"{wall:.2f}", f"{processor:.2f}", f"{ratio:.2f}x", f"{goal} s" if goal else ""))
    print_table(
        f"cold processes, medians of {args.repeats}", rows, describe_machine(int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)))
    )


if __name__ == "__main__":
    main()
