"""The server under load: many clients with mixed requests against one that sends them one after another.

    python benchmarks/serving.py                                  # embedded model, 16 clients, 60 s a phase
    python benchmarks/serving.py --model FOLDER --clients 8 --seconds 20

Starts `openlance serve` on a free port of the loopback, measures start-up, an idle server, one client, then many, and compares every
result with the one that the same request gave alone. Prints a table and stops the server. Nothing leaves the machine.
"""

import argparse
import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import torch

from machine import describe_machine, print_table
from openlance.media.read import read_media
from openlance.pipeline import Lance

PROMPTS = ("a red circle on a white background", "a blue star above a green square", "three yellow triangles", "two orange hearts")
QUESTIONS = ("how many objects are there?", "what colour is the object?")
KINDS = ("image", "question", "image", "edit", "question", "image", "question", "video")


@dataclass(frozen=True)
class Call:
    """One request of the mix: where it goes and what it brings."""

    kind: str
    path: str
    body: dict[str, object]


@dataclass
class Tally:
    """What a phase saw."""

    seconds: float = 0.0
    latencies: dict[str, list[float]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    equal: int = 0
    different: int = 0
    largest: int = 0

    def rate(self, *kinds: str) -> float:
        return sum(len(self.latencies.get(kind, ())) for kind in kinds) / self.seconds

    def percentile(self, kind: str, percent: float) -> float:
        return float(np.percentile(self.latencies.get(kind) or [float("nan")], percent))


def make_calls(picture: str, kinds: Sequence[str]) -> list[Call]:
    """A cycle of requests with fixed seeds, each kind as often as in `kinds`, pictures and clips never alike."""
    about = {"type": "image_url", "image_url": {"url": picture}}
    calls = []
    for i in range(2 * len(KINDS)):
        kind, prompt = kinds[i % len(kinds)], PROMPTS[i % len(PROMPTS)]
        chat: dict[str, object] = {"seed": i, "messages": [{"role": "user", "content": [about, {"type": "text", "text": prompt}]}]}
        if kind == "image":
            calls.append(Call(kind, "/v1/images/generations", {"prompt": prompt, "seed": i}))
        elif kind == "question":
            content = [about, {"type": "text", "text": QUESTIONS[i % 2]}]
            calls.append(Call(kind, "/v1/chat/completions", {"messages": [{"role": "user", "content": content}], "max_tokens": 16}))
        elif kind == "edit":
            calls.append(Call(kind, "/v1/chat/completions", {**chat, "modalities": ["image"]}))
        else:
            messages = [{"role": "user", "content": prompt}]
            calls.append(Call(kind, "/v1/chat/completions", {"messages": messages, "seed": i, "modalities": ["video"], "num_frames": 9}))
    return calls


def result_of(response: httpx.Response) -> str:
    """What a response brought, as one string: text, or the file in base64."""
    response.raise_for_status()
    values = response.json()
    if "data" in values:
        return str(values["data"][0]["b64_json"])
    message = values["choices"][0]["message"]
    if "images" not in message:
        return str(message["content"])
    part = message["images"][0]
    return str(part[part["type"]]["url"].partition(",")[2])


def difference(kind: str, one: str, other: str) -> int:
    """0 when equal; else the largest difference of a pixel, or 255 for texts."""
    if one == other or kind == "question":
        return 0 if one == other else 255
    frames = [read_media(base64.b64decode(data)).frames.astype(int) for data in (one, other)]
    return int(np.abs(frames[0] - frames[1]).max()) if frames[0].shape == frames[1].shape else 255


def run_clients(url: str, calls: list[Call], alone: dict[int, str], clients: int, seconds: float) -> Tally:
    """`clients` threads that go through `calls`, each from a place of its own, until the time is up."""
    tally, lock = Tally(), threading.Lock()
    started = time.perf_counter()

    def client(number: int) -> None:
        place = number
        with httpx.Client(base_url=url, timeout=300) as http:
            while time.perf_counter() - started < seconds:
                index = place % len(calls)
                call, place = calls[index], place + 1
                began = time.perf_counter()
                try:
                    given = result_of(http.post(call.path, json=call.body))
                except (httpx.HTTPError, KeyError, ValueError) as error:
                    with lock:
                        tally.errors.append(f"{call.kind}: {error!r}")
                    continue
                took = time.perf_counter() - began
                with lock:
                    tally.latencies.setdefault(call.kind, []).append(took)
                    apart = difference(call.kind, alone.setdefault(index, given), given)
                    tally.largest = max(tally.largest, apart)
                    tally.equal, tally.different = tally.equal + (apart == 0), tally.different + (apart != 0)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tally.seconds = time.perf_counter() - started
    return tally


@contextmanager
def running_server(model: str, processes: int) -> Iterator[tuple[str, float]]:
    """(address, seconds from the command until the page is served) of `openlance serve`; it is stopped afterwards."""
    environment = {**os.environ, "GRADIO_ANALYTICS_ENABLED": "False"}
    command = [sys.executable, "-m", "openlance.apps.cli", "serve", "--port", "0", "--model", model, "--processes", str(processes)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        process = subprocess.Popen([*command, "--data-dir", folder], stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1].rstrip("/")
            httpx.get(f"{url}/ui/config", timeout=60).raise_for_status()
            yield url, time.perf_counter() - started
        finally:
            process.terminate()
            process.wait(60)


def median_seconds(repeat: int, call: Callable[[], object]) -> float:
    times = []
    for _ in range(repeat):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def first_token(http: httpx.Client, call: Call) -> None:
    """Read a streamed answer up to its first words."""
    with http.stream("POST", call.path, json={**call.body, "stream": True}) as stream:
        for line in stream.iter_lines():
            if line.startswith("data: {") and json.loads(line[6:])["choices"][0]["delta"].get("content"):
                return


def measure_idle(url: str, lance: Lance, calls: list[Call], repeat: int) -> dict[str, float]:
    """Seconds of an idle server: first token, a question, a picture over HTTP and by a Python call, alternating."""
    (question,) = calls
    with httpx.Client(base_url=url, timeout=300) as http:
        first = median_seconds(repeat, lambda: first_token(http, question))
        asked = median_seconds(repeat, lambda: http.post(question.path, json=question.body).raise_for_status())
        over_http, by_call = [], []
        for i in range(repeat):
            body = {"prompt": PROMPTS[0], "seed": i}
            by_call.append(median_seconds(1, lambda i=i: lance.generate_image(PROMPTS[0], seed=i)))  # type: ignore[misc]
            over_http.append(median_seconds(1, lambda b=body: http.post("/v1/images/generations", json=b).raise_for_status()))  # type: ignore[misc]
    added = statistics.median(a - b for a, b in zip(over_http, by_call, strict=True))
    return {"first": first, "question": asked, "http": statistics.median(over_http), "call": statistics.median(by_call), "added": added}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--processes", type=int, default=0, help="as of `openlance serve`")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of each of the two phases")
    parser.add_argument("--kinds", default=",".join(KINDS), help="the cycle of requests: image, question, edit, video")
    parser.add_argument("--repeat", type=int, default=15, help="measurements of the idle server")
    args = parser.parse_args()

    lance = Lance.from_pretrained(Path(args.model) if Path(args.model).exists() else args.model)
    picture = "data:image/png;base64," + base64.b64encode(lance.generate_image(PROMPTS[0], seed=1)._repr_png_()).decode()
    calls = make_calls(picture, args.kinds.split(","))
    alone: dict[int, str] = {}
    with running_server(args.model, args.processes) as (url, startup):
        run_clients(url, calls, alone, 1, 3.0)
        idle = measure_idle(url, lance, make_calls(picture, ["question"])[:1], args.repeat)
        with httpx.Client(base_url=url, timeout=300) as http:
            alone = {index: result_of(http.post(call.path, json=call.body)) for index, call in enumerate(calls)}
        one = run_clients(url, calls, alone, 1, args.seconds)
        many = run_clients(url, calls, alone, args.clients, args.seconds)
    report(args, startup, idle, one, many)
    return 1 if many.errors or many.different else 0


def report(args: argparse.Namespace, startup: float, idle: dict[str, float], one: Tally, many: Tally) -> None:
    """The table."""

    def both(name: str, value: Callable[[Tally], float], unit: str = "") -> tuple[str, ...]:
        return name, f"{value(one):.2f}{unit}", f"{value(many):.2f}{unit}", f"{value(many) / value(one):.2f}x" if value(one) else ""

    rows = [
        ("", "1 client", f"{args.clients} clients", "ratio"),
        both("images a second", lambda t: t.rate("image", "edit")),
        both("requests a second", lambda t: t.rate(*set(KINDS))),
        *(both(f"{kind}, median", lambda t, k=kind: t.percentile(k, 50), " s") for kind in sorted(many.latencies)),  # type: ignore[misc]
        both("question, p95", lambda t: t.percentile("question", 95), " s"),
        ("results equal to lone runs", str(one.equal), str(many.equal), ""),
        ("results that differ (largest)", f"{one.different} ({one.largest})", f"{many.different} ({many.largest})", ""),
        ("errors", str(len(one.errors)), str(len(many.errors)), ""),
    ]
    print_table(f"Serving {args.model}", rows, describe_machine(torch.get_num_threads()))
    p95 = many.percentile("question", 95)
    print(f"  page served {startup:.1f} s after the command")
    print(f"  idle: first token {idle['first'] * 1000:.0f} ms, question {idle['question'] * 1000:.0f} ms")
    print(f"  a question's p95 under load is {p95 / idle['question']:.1f}x the idle median")
    over, call, added = (idle[name] * 1000 for name in ("http", "call", "added"))
    print(f"  idle image: HTTP {over:.0f} ms, Python call {call:.0f} ms, median difference {added:+.0f} ms")
    for error in list(dict.fromkeys(one.errors + many.errors))[:5]:
        print(f"  error: {error}")


if __name__ == "__main__":
    sys.exit(main())
