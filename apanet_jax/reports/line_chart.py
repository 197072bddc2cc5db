"""Line charts as inline SVG: numbers in, text out. Colours come from the page's style sheet."""

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import numpy as np

Points = Sequence[tuple[float, float]]

COLOURS = 8
"""How many colours the style sheet has; a ninth line has the first one's, and is dashed."""

_WIDTH, _HEIGHT = 380, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 12, 10, 40
_MOST_POINTS = 400


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
      name: what the legend says; lines of one name and colour have one entry, "" has none.
      points: (x, y); those that are not finite are left out.
      colour: from 0, see `COLOURS`.
      style: "line", "faint" for what lies behind another, or "dots" with a mark at each point.
    """

    name: str
    points: Points
    colour: int = 0
    style: str = "line"


def line_chart(
    title: str, lines: Sequence[Line], *, x_label: str, x_end: float | None = None
) -> str:
    """Returns a chart with its title and legend as a `<figure>`; "" where no point is finite.

    Args:
      title: says what is measured, and its unit.
      lines: drawn in their order, one above the other.
      x_label: below the axis.
      x_end: where the x axis ends at least; None: at the last point.
    """
    lines = [line._replace(points=_finite(line.points)) for line in lines]
    lines = [line for line in lines if line.points]
    if not lines:
        return ""
    xs, ys = zip(*(point for line in lines for point in line.points), strict=True)
    x_ticks = ticks(min(0, *xs), max(xs if x_end is None else (*xs, x_end)), 6, inside=True)
    y_ticks = ticks(min(ys), max(ys), 5)
    x_range = min(0, *xs), max(*xs, x_end or 0, x_ticks[-1])
    y_range = y_ticks[0], y_ticks[-1]

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_range[0]) / ((x_range[1] - x_range[0]) or 1)
        up = (y - y_range[0]) / (y_range[1] - y_range[0])
        return (
            _LEFT + across * (_WIDTH - _LEFT - _RIGHT),
            _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM),
        )

    parts = [_y_tick(place(x_range[0], y)[1], y, y_ticks) for y in y_ticks]
    parts += [_x_tick(place(x, y_range[0])[0], x, x_ticks) for x in x_ticks]
    parts.append(
        f'<text class="label" x="{(_LEFT + _WIDTH - _RIGHT) / 2:.0f}" y="{_HEIGHT - 4}" '
        f'text-anchor="middle">{escape(x_label)}</text>'
    )
    for line in lines:
        parts += _drawn(line, [place(*point) for point in thinned(line.points)])
    return (
        f'<figure class="chart"><figcaption>{escape(title)}</figcaption>'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
        + "".join(parts)
        + f"</svg>{_legend(lines)}</figure>"
    )


def ticks(low: float, high: float, count: int, *, inside: bool = False) -> list[float]:
    """Returns about `count` round numbers, 1, 2 or 5 times a power of ten apart.

    Args:
      low: the smallest value.
      high: the largest value; one that is hardly more than `low` is given some room.
      count: how many steps between ticks at most, give or take one.
      inside: whether they lie between the values, as far as the first is one; otherwise they
        enclose them.
    """
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) / 2 or 0.5
        low, high = (low, low + room) if inside else (low - room, high + room)
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = (math.ceil, math.floor) if inside else (math.floor, math.ceil)
    # What rounding adds to a whole number of steps makes no further tick.
    rounding = -1e-9 if inside else 1e-9
    numbers = range(first(low / step + rounding), last(high / step - rounding) + 1)
    digits = 1 - math.floor(math.log10(step))
    return [round(number * step, digits) for number in numbers]


def smoothed(points: Points, window: int) -> list[tuple[float, float]]:
    """Returns the mean over `window` points around each, over fewer at the ends."""
    points = _finite(points)
    if not points:
        return []
    xs, ys = np.array(points, float).T
    place = np.arange(len(ys))
    first = np.maximum(place - window // 2, 0)
    last = np.minimum(place + (window - 1) // 2, len(ys) - 1) + 1
    sums = np.concatenate([[0.0], np.cumsum(ys)])
    return list(
        zip(xs.tolist(), ((sums[last] - sums[first]) / (last - first)).tolist(), strict=True)
    )


def thinned(points: Points, most: int = _MOST_POINTS) -> Points:
    """Returns at most about `most` points, evenly chosen, the last one among them."""
    stride = -(-len(points) // most)
    return points[(len(points) - 1) % stride :: stride] if stride > 1 else points


def _finite(points: Points) -> Points:
    return [point for point in points if all(map(math.isfinite, point))]


def _drawn(line: Line, places: Points) -> list[str]:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    colour = _colour(line)
    parts = [f'<polyline class="{colour} {line.style}" points="{path}"/>']
    if line.style == "dots" or len(places) == 1:
        parts += [f'<circle class="{colour}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in places]
    return parts


def _y_tick(y: float, value: float, values: Sequence[float]) -> str:
    return (
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<text class="y" x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">'
        f"{_number(value, values)}</text>"
    )


def _x_tick(x: float, value: float, values: Sequence[float]) -> str:
    bottom = _HEIGHT - _BOTTOM
    return (
        f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>'
        f'<text class="x" x="{x:.1f}" y="{bottom + 17}" text-anchor="middle">'
        f"{_number(value, values)}</text>"
    )


def _number(value: float, values: Sequence[float]) -> str:
    """Returns a tick's number with the digits that tell it from its neighbours."""
    apart = values[1] - values[0] if len(values) > 1 else abs(value) or 1
    if max(map(abs, values)) >= 1e4 and apart >= 100:
        return f"{value / 1000:g}k" if value else "0"
    if apart < 1e-4:
        return f"{value:.3g}"
    return f"{value:.{max(0, -math.floor(math.log10(apart) + 1e-9))}f}"


def _legend(lines: Sequence[Line]) -> str:
    entries = dict.fromkeys((line.name, _colour(line)) for line in lines if line.name)
    keys = (f'<span class="key {colour}">{escape(name)}</span>' for name, colour in entries)
    return f'<p class="legend">{"".join(keys)}</p>' if entries else ""


def _colour(line: Line) -> str:
    return f"c{line.colour % COLOURS}" + " dashed" * (line.colour >= COLOURS)
