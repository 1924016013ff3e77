"""What a run says of itself: one line for people and one for machines every few steps."""

from __future__ import annotations

import json
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openlance.train.losses import LossSums
from openlance.train.tracking import Tracker, track


class Meter:
    """Collects between two reports; writes `metrics.jsonl` and tells the trackers the same numbers."""

    def __init__(self, path: Path, tokens: int = 0, seconds: float = 0.0, trackers: Sequence[Tracker] = ()) -> None:
        self.path = path
        self.trackers = trackers
        self.tokens = tokens
        self._before = seconds
        self._started = time.monotonic()
        self._reset()

    def _reset(self) -> None:
        self.sums = LossSums()
        self._since = time.monotonic()
        self._tokens = self._steps = 0
        self._waited = self._loss = self._norm = 0.0
        self._samples: Counter[str] = Counter()

    @property
    def seconds(self) -> float:
        """Time spent in this run, over all its starts."""
        return self._before + time.monotonic() - self._started

    def add(self, loss: float, norm: float, tokens: int, waited: float, samples: Counter[str]) -> None:
        """One step: its loss and gradient norm, tokens computed, seconds spent on waiting for data, samples of each task."""
        self._loss += loss
        self._norm += norm
        self._tokens += tokens
        self._waited += waited
        self._steps += 1
        self._samples.update(samples)
        self.tokens += tokens

    def report(self, step: int, rate: float) -> dict[str, Any]:
        """Print and record what happened since the last report; `rate`: share of the full learning rate."""
        elapsed = max(time.monotonic() - self._since, 1e-9)
        steps = max(self._steps, 1)
        values: dict[str, Any] = {
            "minutes": round(self.seconds / 60, 2),
            "tokens": self.tokens,
            "loss": round(self._loss / steps, 5),
            "gradient_norm": round(self._norm / steps, 4),
            "rate": round(rate, 4),
            "tokens_per_second": round(self._tokens / elapsed),
            "waiting": round(self._waited / elapsed, 4),
            "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
            **{key: round(value, 4) for key, value in sorted(self.sums.means().items())},
            "samples": dict(self._samples),
        }
        entry = {"step": step, **values}
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        track(self.trackers, step, values)
        shown = {key: value for key, value in entry.items() if key not in ("samples", "memory_gb")}
        print("  ".join(f"{key} {value}" for key, value in shown.items()), flush=True)
        self._reset()
        return entry
