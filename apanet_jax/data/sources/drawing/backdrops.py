"""Backgrounds: landscapes, rooms, foliage, surfaces seen from above, and blurred lights."""

import cv2
import numpy as np
from jaxtyping import Float32

from apanet_jax.data.sources.drawing.brush import Canvas
from apanet_jax.data.sources.drawing.colours import Colour, Rng, chance, colour, pick, tinted
from apanet_jax.data.sources.drawing.textures import ATLAS_SIZE, textured

Field = Float32[np.ndarray, "height width"]

# Texture pixels across an image, whatever its size.
_TEXELS_ACROSS = 240


def field(
    rng: Rng,
    size: int,
    name: str,
    scale: tuple[float, float] = (0.6, 1.8),
    turn: float | None = None,
    squeeze: float = 1.0,
) -> Field:
    """A texture at a random place over a whole image, 0..1.

    Args:
        rng: randomness.
        size: side of the image, pixels.
        name: of the texture.
        scale: range of its fineness; 1 lays the 256 texture pixels once over the image.
        turn: its direction, radians; None for any.
        squeeze: factor on its fineness down the image, as on ground seen from the side.
    """
    per_pixel = rng.uniform(*scale) * _TEXELS_ACROSS / size
    angle = rng.uniform(0, 2 * np.pi) if turn is None else turn
    cos, sin = per_pixel * np.cos(angle), per_pixel * np.sin(angle)
    x, y = rng.uniform(0, ATLAS_SIZE, 2)
    to_texels = np.array([(cos, sin * squeeze, x), (-sin, cos * squeeze, y)])
    return textured(name, to_texels, size, size)


def slope(size: int, angle: float) -> Field:
    """A linear ramp over the image, from -1 to 1 along this direction (radians)."""
    line = np.linspace(-1, 1, size, dtype=np.float32)
    return np.float32(np.cos(angle)) * line + np.float32(np.sin(angle)) * line[:, None]


def mixed(first: Colour | Canvas, second: Colour | Canvas, share: Field) -> Canvas:
    """From the first colour (or image) at share 0 to the second at 1."""
    first, second = (c[:, None, None] if c.ndim == 1 else c for c in (first, second))
    return first + (second - first) * share


def _material(rng: Rng, size: int, shade: Colour, *names: str, squeeze: float = 1.0) -> Canvas:
    other = tinted(shade, rng.uniform(-0.55, -0.2) if chance(rng, 0.6) else rng.uniform(0.2, 0.5))
    turn = None if squeeze == 1.0 else 0.0
    pattern = field(rng, size, pick(rng, names), (0.5, 2.2), turn=turn, squeeze=squeeze)
    detail = field(rng, size, pick(rng, ("mottle", "grain", "cloud")), (0.5, 2.0), squeeze=squeeze)
    image = mixed(shade, other, pattern * np.float32(rng.uniform(0.5, 1.0)))
    image *= 1 + np.float32(rng.uniform(0.15, 0.5)) * (detail - 0.5)
    return image


def _landscape(rng: Rng, size: int) -> Canvas:
    zenith = colour(rng, "blue", "blue", "grey", "violet", "orange", free=0.1)
    clouds = np.clip(3 * field(rng, size, "cloud", (0.3, 0.9), turn=0.0) - 1.5, 0, 1)
    haze = np.linspace(0, 1, size, dtype=np.float32)[:, None] * np.float32(0.8)
    sky = mixed(zenith, tinted(zenith, 0.75), np.maximum(haze, clouds * rng.random()))
    ground_colour = colour(rng, "green", "lime", "beige", "brown", "teal", "blue", free=0.1)
    names = ("grass", "grass", "mottle", "sand", "waves", "cells", "patches")
    ground = _material(rng, size, ground_colour, *names, squeeze=rng.uniform(1.0, 2.5))
    level = rng.uniform(0.25, 0.8) * size
    x = np.arange(size) / size
    rows = np.arange(size, dtype=np.float32)[:, None]
    for step in range(pick(rng, (1, 2, 3))):
        phases, height = rng.uniform(0, 2 * np.pi, 3), size * rng.uniform(0.0, 0.08)
        waves = sum(np.sin((2 + 3 * k) * x * np.pi + phases[k]) / (k + 1) for k in range(3))
        edge = level + step * 0.12 * size + height * waves
        share = np.clip(rows - edge.astype(np.float32), 0, 1)
        tone = ground * np.float32(rng.uniform(0.6, 1.15))
        sky = mixed(sky, tone, share)
    return sky


def _room(rng: Rng, size: int) -> Canvas:
    names = ("mottle", "cloud", "stripes", "bricks", "tiles", "dots", "plaid", "planks", "grain")
    wall = _material(rng, size, colour(rng, "beige", "white", "grey", "green", free=0.5), *names)
    names = ("planks", "wood", "tiles", "mottle", "checker", "plaid")
    shade = colour(rng, "brown", "beige", "grey", free=0.4)
    table = _material(rng, size, shade, *names, squeeze=rng.uniform(1.5, 3.0))
    level = rng.uniform(0.4, 0.9) * size + rng.normal(0, 0.06) * np.linspace(-1, 1, size) * size
    rows = np.arange(size, dtype=np.float32)[:, None]
    below = rows - level.astype(np.float32)
    image = mixed(wall, table, np.clip(below, 0, 1))
    image *= 1 - np.float32(0.45) * np.exp(
        -np.abs(below) / np.float32(rng.uniform(0.01, 0.05) * size)
    )
    if chance(rng, 0.5):
        # A window, poster or cupboard on the wall.
        left, top = rng.uniform(0, 0.6, 2) * size
        right, low = left + rng.uniform(0.2, 0.5) * size, top + rng.uniform(0.2, 0.5) * size
        low = min(low, float(level.min()) - 0.05 * size)
        if low > top + 4:
            area = (slice(None), slice(int(top), int(low)), slice(int(left), int(right)))
            image[area] *= np.float32(0.5)
            inner = tuple(slice(s.start + 3, s.stop - 3) for s in area[1:])
            scene = _surface(rng, size)
            image[(slice(None), *inner)] = scene[(slice(None), *inner)]
    return image


def _surface(rng: Rng, size: int) -> Canvas:
    names = ("planks", "wood", "tiles", "bricks", "grass", "sand", "mottle", "plaid", "checker")
    return _material(
        rng, size, colour(rng), *names, "cells", "waves", "patches", "cloud", "speckle"
    )


def _foliage(rng: Rng, size: int) -> Canvas:
    dark, light = colour(rng, "green", "brown", "black"), colour(rng, "green", "lime", "orange")
    image = mixed(tinted(dark, -0.4), dark, field(rng, size, "mottle", (0.8, 2.5)))
    for _ in range(2):
        leaves = np.clip(2.5 * field(rng, size, pick(rng, ("grass", "cells", "grain"))) - 1, 0, 1)
        where = np.clip(3 * field(rng, size, "cloud") - 1, 0, 1)
        image = mixed(image, light * np.float32(rng.uniform(0.5, 1.1)), leaves * where)
    return image


def _lights(rng: Rng, size: int) -> Canvas:
    first, second = colour(rng), colour(rng)
    base = mixed(first * np.float32(0.6), second, field(rng, size, "cloud", (0.3, 0.8)))
    image = np.ascontiguousarray(base.transpose(1, 2, 0))
    for _ in range(int(rng.integers(6, 22))):
        x, y = rng.integers(0, size, 2)
        radius = int(rng.uniform(0.02, 0.13) * size)
        cv2.circle(image, (int(x), int(y)), radius, colour(rng).tolist(), -1, cv2.LINE_AA)
    side = int(size * rng.uniform(0.03, 0.1)) | 1
    image = cv2.blur(cv2.blur(image, (side, side)), (side, side))
    return np.ascontiguousarray(image.transpose(2, 0, 1))


_KINDS = (_landscape, _landscape, _room, _room, _surface, _foliage, _lights)


def backdrop(rng: Rng, size: int) -> Canvas:
    """A background at random, RGB 0..255, `size` pixels a side."""
    image = pick(rng, _KINDS)(rng, size)
    return np.ascontiguousarray(image, np.float32)
