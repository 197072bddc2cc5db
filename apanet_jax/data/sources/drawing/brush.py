"""Painting filled outlines with shading and texture.

An object is a list of `Part`s, polygons painted one over the other, in a plane of its own (x to
the right, y down, an object being about two units long). `paint` puts it into an image through
an affine map, antialiased, with light that makes each part look rounded.

Images under way are planar: `Float32[3, height, width]`, RGB, 0..255. NumPy is several
times faster on these than on interleaved channels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, Float32, Int32, UInt8

from apanet_jax.data.sources.drawing.colours import (
    Colour,
    Rng,
    chance,
    colour,
    pick,
    tinted,
)
from apanet_jax.data.sources.drawing.outlines import Points
from apanet_jax.data.sources.drawing.textures import ATLAS_SIZE, textured

Canvas = Float32[np.ndarray, "3 height width"]
_SUBPIXEL_BITS = 4
_SUBPIXELS = 2**_SUBPIXEL_BITS


class Paint(NamedTuple):
    """How a part is filled.

    Attributes:
        colour: RGB, 0..255.
        other: the texture's second colour.
        texture: a name of `atlas()`, or "" for none.
        texels: texture pixels a unit of the object's plane: larger is a finer texture.
        turn: direction of the texture, radians.
        phase: where in the texture a part lies, texture pixels.
        relief: how rounded it looks, 0 (flat paper) .. 1.
        gloss: strength of the highlight, 0..1.
    """

    colour: Colour
    other: Colour | None = None
    texture: str = ""
    texels: float = 80.0
    turn: float = 0.0
    phase: float = 0.0
    relief: float = 0.5
    gloss: float = 0.0


class Part(NamedTuple):
    """A filled polygon."""

    points: Points
    paint: Paint


def flat(rgb: Colour, relief: float = 0.3, gloss: float = 0.0) -> Paint:
    """A paint without texture."""
    return Paint(np.asarray(rgb, np.float32), relief=relief, gloss=gloss)


def surface(rng: Rng, rgb: Colour, *textures: str, relief: float = 0.6) -> Paint:
    """A paint of this colour with one of these textures ("" for none), the rest at random."""
    other = tinted(rgb, rng.uniform(-0.6, -0.25) if chance(rng, 0.5) else rng.uniform(0.3, 0.7))
    if chance(rng, 0.35):
        other = colour(rng)
    return Paint(
        colour=rgb,
        other=other,
        texture=pick(rng, textures) if textures else "",
        texels=rng.uniform(40, 110),
        turn=pick(rng, (0.0, np.pi / 2, rng.uniform(0, np.pi))),
        phase=rng.uniform(0, ATLAS_SIZE),
        relief=relief * rng.uniform(0.7, 1.3),
        gloss=rng.uniform(0.2, 0.9) if chance(rng, 0.4) else 0.0,
    )


Parts = list[Part]


def moved(parts: Parts, scale: float = 1.0, x: float = 0.0, y: float = 0.0) -> Parts:
    """The parts made larger, then shifted."""
    return [Part(part.points * scale + (x, y), part.paint) for part in parts]


def placed(points: Points, to_pixels: Float[np.ndarray, "2 3"]) -> Points:
    """The points under an affine map."""
    return points @ to_pixels[:, :2].T + to_pixels[:, 2]


def paint(
    image: Canvas,
    parts: Sequence[Part],
    to_pixels: Float[np.ndarray, "2 3"],
    *,
    light: tuple[float, float],
    relief: float = 1.0,
    outline: int = 0,
) -> UInt8[np.ndarray, "height width"]:
    """Paints parts over the image, in place.

    Args:
        image: RGB, 0..255.
        parts: what to paint, the lowest first.
        to_pixels: affine map from the parts' plane to pixels (x, y).
        light: unit vector towards the light, in pixels (x, y).
        relief: factor on every part's own.
        outline: width of a dark line round every part, pixels; 0 for none.

    Returns:
        How much of each pixel the parts cover, 0..255.
    """
    _, height, width = image.shape
    covered = np.zeros((height, width), np.uint8)
    to_units = np.linalg.inv(to_pixels[:, :2])
    pixels_per_unit = np.sqrt(abs(np.linalg.det(to_pixels[:, :2])))
    for part, points, (left, top, right, bottom), thickness in _located(
        parts, to_pixels, height, width
    ):
        inside = np.zeros((bottom - top, right - left), np.uint8)
        points -= (left * _SUBPIXELS, top * _SUBPIXELS)
        cv2.fillPoly(inside, [points], 255, cv2.LINE_AA, _SUBPIXEL_BITS)
        cover = covered[top:bottom, left:right]
        np.maximum(cover, inside, out=cover)
        alpha = inside.astype(np.float32)
        alpha *= np.float32(1 / 255)

        own = part.paint
        fill = own.colour[:, None, None]
        if own.texture and own.other is not None:
            # A texture finer than the pixels would only alias.
            texels = min(own.texels, 2.5 * pixels_per_unit)
            cos, sin = np.cos(own.turn) * texels, np.sin(own.turn) * texels
            linear = np.array([(cos, sin), (-sin, cos)]) @ to_units
            shift = linear @ (np.array([left, top]) - to_pixels[:, 2]) + own.phase
            mix = textured(own.texture, np.column_stack([linear, shift]), *inside.shape[::-1])
            fill = fill + (own.other - own.colour)[:, None, None] * mix
        strength = np.float32(own.relief * relief)
        if strength > 0.05 and thickness > 4:
            tone = _rounding(alpha, 0.5 * thickness, light)
            tone *= strength
            fill = fill * (1 + tone)
            if own.gloss:
                fill += np.maximum(tone - 0.25 * strength, 0) * np.float32(255 * own.gloss)
        patch = image[:, top:bottom, left:right]
        patch += (fill - patch) * alpha
        if outline:
            edge = np.zeros_like(inside)
            cv2.polylines(edge, [points], True, 255, outline, cv2.LINE_AA, _SUBPIXEL_BITS)
            patch *= 1 - edge.astype(np.float32) * np.float32(0.75 / 255)
    return covered


def _located(
    parts: Sequence[Part], to_pixels: Float[np.ndarray, "2 3"], height: int, width: int
) -> Iterator[tuple[Part, Int32[np.ndarray, "points 2"], list[int], float]]:
    """Where parts come to lie: those that touch the image.

    Yields:
        The part, its points (fixed point), the box of pixels it needs (left, top, right,
        bottom, within the image), and the shorter side of the box before it was cut.
    """
    starts = np.cumsum([0] + [len(part.points) for part in parts])
    points = placed(np.concatenate([part.points for part in parts]), to_pixels)
    low = np.minimum.reduceat(points, starts[:-1]) - 2
    high = np.maximum.reduceat(points, starts[:-1]) + 3
    corners = np.concatenate([np.maximum(low, 0), np.minimum(high, (width, height))], 1)
    boxes = corners.astype(int).tolist()
    thickness = (high - low).min(1).tolist()
    fixed = np.round(points * _SUBPIXELS).astype(np.int32)
    for i, part in enumerate(parts):
        left, top, right, bottom = boxes[i]
        if right > left and bottom > top:
            yield part, fixed[starts[i] : starts[i + 1]], boxes[i], thickness[i] - 5


def _rounding(
    alpha: Float32[np.ndarray, "height width"], thickness: float, light: tuple[float, float]
) -> Float32[np.ndarray, "height width"]:
    """Shading, about -1..1, of a cushion with this outline: minus its slope along the light."""
    side = max(3, int(thickness)) | 1
    cushion = cv2.blur(cv2.blur(alpha, (side, side)), (side, side))
    x, y = -0.4 * side * light[0], -0.4 * side * light[1]
    slope = np.array([(0, -y, 0), (-x, 0, x), (0, y, 0)], np.float32)
    return np.clip(cv2.filter2D(cushion, -1, slope), -1, 1)
