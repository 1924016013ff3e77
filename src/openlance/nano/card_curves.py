"""Line charts of training runs as one small SVG: a panel a chart, a line a series, labelled at its end."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

PLOT, HEIGHT = 282, 230
LEFT, TOP, BOTTOM = 46, 34, 34
COLOURS = ("#0d7d73", "#c2410c", "#4338ca", "#a16207", "#be185d", "#15803d", "#0369a1", "#6b21a8", "#475569", "#b91c1c")
MAX_POINTS = 160
LINE, CHARACTER = 12, 5.6


@dataclass(frozen=True)
class Panel:
    """One chart: (x, y) points of each series by its name."""

    title: str
    x: str
    series: dict[str, Points]


def curves_svg(panels: Sequence[Panel], columns: int = 2) -> str:
    """All panels on a white ground. Panels without two points anywhere are left out; raises ValueError when none is left."""
    shown = [panel for panel in panels if any(len(points) > 1 for points in panel.series.values())]
    if not shown:
        raise ValueError("there is nothing to draw: no series has two points")
    columns = min(columns, len(shown))
    longest = max(len(_label(name, points)) for panel in shown for name, points in panel.series.items() if len(points) > 1)
    across = LEFT + PLOT + round(CHARACTER * longest) + 12
    width, height = columns * across, -(-len(shown) // columns) * HEIGHT
    body = "".join(_panel(panel, place % columns * across, place // columns * HEIGHT) for place, panel in enumerate(shown))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="10">'
    return f'{head}<rect width="{width}" height="{height}" fill="#fff"/>{body}</svg>\n'


def _panel(panel: Panel, left: int, top: int) -> str:
    series = {name: _thinned(points) for name, points in panel.series.items() if len(points) > 1}
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    (x0, x1), (y0, y1) = _range(xs), _range(ys)
    start, end = left + LEFT, left + LEFT + PLOT

    def place(x: float, y: float) -> tuple[float, float]:
        return start + (x - x0) / (x1 - x0) * PLOT, top + TOP + (y1 - y) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<text x="{start}" y="{top + 20}" font-size="12" font-weight="600">{escape(panel.title)}</text>']
    for y in (y0, (y0 + y1) / 2, y1):
        _, level = place(x0, y)
        parts.append(f'<path d="M{start} {level:.1f}H{end}" stroke="#ddd"/>')
        parts.append(f'<text x="{start - 5}" y="{level + 3:.1f}" text-anchor="end" fill="#666">{y:.3g}</text>')
    floor = top + HEIGHT - BOTTOM + 14
    parts.append(f'<text x="{start}" y="{floor}" fill="#666">{_short(x0)}</text>')
    parts.append(f'<text x="{end}" y="{floor}" text-anchor="end" fill="#666">{_short(x1)} {escape(panel.x)}</text>')
    levels = _apart([place(*points[-1])[1] for points in series.values()], floor)
    for (name, points), level, colour in zip(series.items(), levels, (c for _ in series for c in COLOURS), strict=False):
        line = "L".join(f"{x:.1f} {y:.1f}" for x, y in (place(*point) for point in points))
        parts.append(f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
        parts.append(f'<text x="{end + 6}" y="{level + 3:.1f}" fill="{colour}">{escape(_label(name, points))}</text>')
    return "".join(parts)


def _thinned(points: Points) -> list[tuple[float, float]]:
    """At most MAX_POINTS: means of equal groups of neighbours, and the last point as it is."""
    group = -(-len(points) // MAX_POINTS)
    means = [points[i : i + group] for i in range(0, len(points), group)]
    thin = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in means]
    return thin if group == 1 else [*thin, points[-1]]


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _label(name: str, points: Points) -> str:
    return f"{name} {points[-1][1]:.3g}"


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _apart(levels: Sequence[float], lowest: float) -> list[float]:
    """The levels, moved down as far as labels need not to overlap, and up from below `lowest`."""
    order = sorted(range(len(levels)), key=lambda i: levels[i])
    moved = list(levels)
    for before, after in itertools.pairwise(order):
        moved[after] = max(moved[after], moved[before] + LINE)
    for place, i in enumerate(reversed(order)):
        moved[i] = min(moved[i], lowest - place * LINE)
    return moved
