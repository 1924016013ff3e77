"""Numbers about pixels that no prompt speaks of: how still what should be still is, how smooth what moves. Each is 1 at best."""

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from openlance.world.judge.track import Track, motion_of, track
from openlance.world.judge.view import View

Frames = NDArray[np.uint8]
JERK = 0.04
"""Second difference of a centre, in shares of the canvas, from which a motion jerks (a bounce of the world has 0.03)."""


def psnr(first: Frames, second: Frames) -> float:
    """Peak signal-to-noise ratio in dB of two pictures (H, W, 3) of the same size; 100 when they are equal, 0 when sizes differ."""
    if first.shape != second.shape:
        return 0.0
    error = float(np.square(first.astype(np.float32) - second.astype(np.float32)).mean())
    return 100.0 if error == 0 else min(100.0, 10 * float(np.log10(255**2 / error)))


def clip_measures(frames: Frames) -> dict[str, float]:
    """Consistency, flicker, smoothness and dynamics of a clip (F, H, W, 3), F > 1, after the dimensions of VBench.

    subject consistency: share of sights at which an object still is what it was first. background consistency: share of frames with the
    clip's background. steadiness: 1 minus the mean change (of 255) from frame to frame where nothing ever is. smoothness: share of steps
    without a jerk. dynamic: whether anything moves or changes.
    """
    tracks, views = track(frames)
    return {
        "subject consistency": _mean([_same_kind(t) for t in tracks]),
        "background consistency": _common([view.background for view in views]),
        "steadiness": 1 - _flicker(frames, views),
        "smoothness": _mean([s for t in tracks for s in _smooth(t)]),
        "dynamic": float(any(motion_of(t) != "still" or len(t.shown) < len(t.seen) for t in tracks)),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def _common(names: list[str]) -> float:
    return Counter(names).most_common(1)[0][1] / len(names)


def _same_kind(t: Track) -> float:
    return float(np.mean([seen.kind == t.first.kind for seen in t.sights]))


def _smooth(t: Track) -> list[float]:
    """For each three frames in a row in which an object is seen: 1 when its centre makes no jump."""
    found = []
    for a, b, c in zip(t.seen, t.seen[1:], t.seen[2:], strict=False):
        if a and b and c:
            found.append(float(np.hypot(a.x - 2 * b.x + c.x, a.y - 2 * b.y + c.y) < JERK))
    return found


def _flicker(frames: Frames, views: list[View]) -> float:
    """Mean change from frame to frame, 0 to 1, of the pixels that no object ever covers."""
    still = np.ones(frames.shape[1:3], np.bool_)
    for view in views:
        for seen in view.objects:
            left, top, right, bottom = seen.piece.box
            still[max(0, top - 2) : bottom + 2, max(0, left - 2) : right + 2] = False
    if not still.any():
        return 0.0
    changes = np.abs(np.diff(frames[:, still].astype(np.float32), axis=0))
    return float(changes.mean() / 255)
