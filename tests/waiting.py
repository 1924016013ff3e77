"""Waiting for what another thread or process does."""

import time
from collections.abc import Callable
from typing import Any


def wait_until(condition: Callable[[], Any], seconds: float = 20.0, explain: Callable[[], str] = str) -> Any:
    """What `condition` gives as soon as it is true; fails after so many seconds."""
    until = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        assert time.monotonic() < until, f"not so after {seconds} s: {explain()}"
        time.sleep(0.005)
