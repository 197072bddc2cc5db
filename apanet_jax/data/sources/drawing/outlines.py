"""Outlines to fill: polygons from ellipses, splines and strokes.

The plane is an object's own: x to the right, y down, an object being about two units long.
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

Points = Float[np.ndarray, "points 2"]


def ellipse(
    x: float,
    y: float,
    rx: float,
    ry: float | None = None,
    turn: float = 0.0,
    start: float = 0.0,
    stop: float = 360.0,
    points: int = 24,
) -> Points:
    """An ellipse, or the segment of it between two angles (degrees, clockwise from the right)."""
    outline = _arc(start, stop, points) * (rx, rx if ry is None else ry)
    return turned(outline, turn) + (x, y)


@functools.lru_cache(maxsize=256)
def _arc(start: float, stop: float, points: int) -> Points:
    angles = np.radians(np.linspace(start, stop, points))
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def box(left: float, top: float, right: float, bottom: float, corner: float = 0.0) -> Points:
    """A rectangle, its corners cut round with the radius `corner`."""
    if not corner:
        return np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    corners = (
        (right - corner, bottom - corner, 0),
        (left + corner, bottom - corner, 90),
        (left + corner, top + corner, 180),
        (right - corner, top + corner, 270),
    )
    arcs = [ellipse(x, y, corner, None, 0, a, a + 90, 5) for x, y, a in corners]
    return np.concatenate(arcs)


def turned(points: Points, degrees: float) -> Points:
    """The points turned clockwise about the origin."""
    if not degrees:
        return points
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return points @ np.array([(cos, sin), (-sin, cos)])


def mirrored(points: Points) -> Points:
    """The points with left and right exchanged."""
    return points * (-1, 1)


def symmetric(right: Sequence[tuple[float, float]]) -> Points:
    """Closes the right half of an outline, given from top to bottom, with its mirror image."""
    half = np.asarray(right, float)
    return np.concatenate([half, mirrored(half[half[:, 0] > 1e-6])[::-1]])


@functools.cache
def _catmull_rom(steps: int) -> Float[np.ndarray, "steps 4"]:
    """Weights of four neighbouring points along the span between the middle two."""
    t = np.arange(steps)[:, None] / steps
    powers = np.concatenate([np.ones_like(t), t, t**2, t**3], 1)
    basis = np.array([(0, 2, 0, 0), (-1, 0, 1, 0), (2, -5, 4, -1), (-1, 3, -3, 1)]) / 2
    return powers @ basis


def spline(points: Sequence[tuple[float, float]] | Points, steps: int = 5) -> Points:
    """A smooth closed outline through the points (Catmull-Rom)."""
    knots = np.asarray(points, float)
    near = np.stack([np.roll(knots, shift, 0) for shift in (1, 0, -1, -2)], 1)
    return np.einsum("sk,nkd->nsd", _catmull_rom(steps), near).reshape(-1, 2)


def curve(points: Sequence[tuple[float, float]] | Points, steps: int = 5) -> Points:
    """A smooth open line through the points."""
    knots = np.asarray(points, float)
    first, last = 2 * knots[0] - knots[1], 2 * knots[-1] - knots[-2]
    padded = np.concatenate([first[None], knots, last[None]])
    near = np.stack([padded[i : i + len(knots) - 1] for i in range(4)], 1)
    line = np.einsum("sk,nkd->nsd", _catmull_rom(steps), near).reshape(-1, 2)
    return np.concatenate([line, knots[-1:]])


def stroke(
    points: Sequence[tuple[float, float]] | Points, width: float | Sequence[float]
) -> Points:
    """The outline of a line with a width, or with widths given at even steps along it."""
    line = np.asarray(points, float)
    along = np.empty_like(line)
    along[1:-1] = line[2:] - line[:-2]
    along[0], along[-1] = line[1] - line[0], line[-1] - line[-2]
    half = np.asarray(width, float) / 2
    if np.ndim(width):
        half = np.interp(
            np.arange(len(line)) * ((len(width) - 1) / (len(line) - 1)),
            np.arange(len(width)),
            half,
        )
    half = half / np.maximum(np.sqrt(along[:, 0] ** 2 + along[:, 1] ** 2), 1e-9)
    normal = np.empty_like(line)
    normal[:, 0], normal[:, 1] = -along[:, 1] * half, along[:, 0] * half
    return np.concatenate([line + normal, (line - normal)[::-1]])
