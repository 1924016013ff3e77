"""Follows objects through a clip and names what they do."""

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from openlance.world.judge.recognise import Seen
from openlance.world.judge.segment import square_crop
from openlance.world.judge.view import View, look
from openlance.world.scene import hop

JUMP = 0.22
"""Longest way of a centre from one visible frame to the next, in shares of the canvas."""
WAY = 0.11
"""Shortest way that counts as moving; clips of the world go 0.16 or more."""
TURNED = 0.88
"""Overlap with the first frame under which an object that stayed the same size has turned."""


@dataclass
class Track:
    """One object over time: what is seen of it in each frame, None where it is hidden."""

    seen: list[Seen | None] = field(default_factory=list)

    @property
    def shown(self) -> list[int]:
        """Frames in which it is visible."""
        return [i for i, s in enumerate(self.seen) if s is not None]

    @property
    def first(self) -> Seen:
        """What it is: the first sight of the look that its first three sights agree on."""
        sights = self.sights[:3]
        look_, _ = Counter((s.kind, s.colour, s.texture) for s in sights).most_common(1)[0]
        return next(s for s in sights if (s.kind, s.colour, s.texture) == look_)

    @property
    def sights(self) -> list[Seen]:
        """Every visible frame's object."""
        return [s for s in self.seen if s is not None]

    @property
    def last_colour(self) -> str:
        """The colour its last three sights agree on."""
        return Counter(s.colour for s in self.sights[-3:]).most_common(1)[0][0]


def track(frames: NDArray[np.uint8]) -> tuple[list[Track], list[View]]:
    """Tracks and views of a clip (F, H, W, 3). Pieces go to the nearest track; a place where something vanished stays its place."""
    views = [look(frame, words=len(frames) == 1) for frame in frames]
    tracks: list[Track] = []
    for index, view in enumerate(views):
        free = [t for t in tracks if t.sights]
        pairs = sorted(((_gap(t.sights[-1], s), i, j) for i, t in enumerate(free) for j, s in enumerate(view.objects)), key=lambda p: p[0])
        taken_tracks: set[int] = set()
        taken: set[int] = set()
        for gap, i, j in pairs:
            if gap <= JUMP and i not in taken_tracks and j not in taken:
                free[i].seen.append(view.objects[j])
                taken_tracks.add(i)
                taken.add(j)
        for j, seen in enumerate(view.objects):
            if j not in taken:
                tracks.append(Track([None] * index + [seen]))
        for t in tracks:
            if len(t.seen) == index:
                t.seen.append(None)
    return [t for t in tracks if len(t.shown) >= min(3, len(frames))], views


def _gap(a: Seen, b: Seen) -> float:
    """Distance of the centres, a little more between different looks so that near neighbours keep their names."""
    same = (a.kind == b.kind) + (a.colour == b.colour)
    return float(np.hypot(a.x - b.x, a.y - b.y)) + 0.03 * (2 - same)


def event_of(t: Track) -> str | None:
    """ "appear", "disappear", "recolour", "stop" or None."""
    shown, count = t.shown, len(t.seen)
    whole = shown[-1] - shown[0] + 1 <= len(shown) + 1
    if whole and shown[0] >= max(1, count // 8) and shown[-1] >= count - 2:
        return "appear"
    if whole and shown[0] <= 1 and shown[-1] < count - max(1, count // 8):
        return "disappear"
    if t.first.colour != t.last_colour and t.first.kind == t.sights[-1].kind:
        return "recolour"
    return "stop" if _stops(t) else None


def _stops(t: Track) -> bool:
    """Moves in the first half, rests in the last third."""
    xs, ys = np.array([s.x for s in t.sights]), np.array([s.y for s in t.sights])
    half, rest = len(xs) // 2, max(2, len(xs) // 3)
    moved = float(np.hypot(xs[half] - xs[0], ys[half] - ys[0]))
    return moved > 0.8 * WAY and float(np.hypot(np.ptp(xs[-rest:]), np.ptp(ys[-rest:]))) < 0.25 * moved


def motion_of(t: Track) -> str:
    """One of the world's motions."""
    sights = t.sights
    if _gaps(t) >= 1 and len(t.shown) <= 0.85 * len(t.seen):
        return "blink"
    xs, ys = np.array([s.x for s in sights]), np.array([s.y for s in sights])
    sizes = np.array([s.diameter for s in sights])
    ratio = float(np.median(sizes[-2:]) / np.median(sizes[:2]))
    dx, dy = float(xs[-1] - xs[0]), float(ys[-1] - ys[0])
    if max(abs(dx), abs(dy)) >= WAY and 0.75 < ratio < 1.33:
        return ("left" if dx < 0 else "right") if abs(dx) > abs(dy) else ("up" if dy < 0 else "down")
    if ratio >= 1.25:
        return "grow"
    if ratio <= 0.8:
        return "shrink"
    if _hops(t):
        return "bounce"
    if _turning(sights):
        return "spin"
    return "bounce" if float(np.ptp(ys)) >= 0.8 * WAY and float(np.ptp(xs)) < WAY else "still"


def _hops(t: Track) -> bool:
    """True when it goes straight up and down twice as bouncing objects of the world do, whatever its outline does meanwhile: what spins
    stays where it is, but what moves fast is drawn unevenly and may look turned."""
    xs, ys = np.array([s.x for s in t.sights]), np.array([s.y for s in t.sights])
    heights = np.array([hop(frame / max(1, len(t.seen) - 1)) for frame in t.shown])
    heights, away = heights - heights.mean(), ys.mean() - ys
    rise = float(heights @ away) / max(float(heights @ heights), 1e-9)
    unexplained = float(np.square(away - rise * heights).sum()) / max(float(away @ away), 1e-9)
    return rise >= 0.8 * WAY and unexplained <= 0.25 and float(np.ptp(xs)) < WAY


def _gaps(t: Track) -> int:
    """How often it comes back after having gone."""
    shown = [s is not None for s in t.seen]
    return sum(a and not b and any(shown[i + 1 :]) for i, (a, b) in enumerate(pairwise(shown)))


def _turning(sights: list[Seen]) -> bool:
    """True when its outline, brought to one size, leaves that of its first frame in at least a third of the frames."""
    cuts = [_outline(s) for s in sights]
    overlaps = [float(np.minimum(cuts[0], c).sum() / np.maximum(cuts[0], c).sum()) for c in cuts[1:]]
    return bool(overlaps) and float(np.mean([o < TURNED for o in overlaps])) >= 1 / 3


def _outline(s: Seen) -> NDArray[np.float32]:
    height, width = s.piece.mask.shape
    return square_crop(s.piece.mask.astype(np.float32), (0, 0, width, height), 0.0, 32)
