"""Seamless textures that objects and backgrounds are painted with."""

import functools

import cv2
import numpy as np
from jaxtyping import Float, Float32, UInt8

ATLAS_SIZE = 256
# OpenCV is many times slower where it has to wrap, so the atlas is kept this often side by side.
_REPEATS = 4


def _noise(rng: np.random.Generator, power: float) -> Float32[np.ndarray, "size size"]:
    """Tileable noise with a spectrum of 1 / frequency**power, as ranks, so evenly over 0..1."""
    frequency = np.fft.fftfreq(ATLAS_SIZE) * ATLAS_SIZE
    radius = np.hypot(frequency[:, None], frequency[None])
    radius[0, 0] = np.inf
    spectrum = np.fft.fft2(rng.standard_normal((ATLAS_SIZE, ATLAS_SIZE)))
    field = np.fft.ifft2(spectrum / radius**power).real
    edges = np.quantile(field, np.linspace(0, 1, 65))
    return np.interp(field, edges, np.linspace(0, 1, 65)).astype(np.float32)


def _soft_step(field: np.ndarray, softness: float) -> Float32[np.ndarray, "size size"]:
    return np.clip(field / softness + 0.5, 0, 1).astype(np.float32)


@functools.cache
def atlas() -> dict[str, UInt8[np.ndarray, "side side"]]:
    """Textures by name, 0..255, that repeat every 256 pixels without a seam.

    They are the same for every image; scale, direction and place in them vary.
    """
    return {
        name: np.tile(np.round(255 * tile).astype(np.uint8), (_REPEATS, _REPEATS))
        for name, tile in _tiles().items()
    }


def _tiles() -> dict[str, Float32[np.ndarray, "size size"]]:
    rng = np.random.default_rng(20)
    y, x = np.mgrid[:ATLAS_SIZE, :ATLAS_SIZE].astype(float)
    cloud = _noise(rng, 1.7)
    warp = (_noise(rng, 2.0) - 0.5) * 24

    def wave(field: np.ndarray, period: float) -> np.ndarray:
        return np.sin(2 * np.pi * field / period)

    # Distances to scattered points, wrapped round: stones, scales of skin, cracked paint.
    sites = rng.uniform(0, ATLAS_SIZE, (160, 2))
    tiled = np.concatenate([sites + (i, j) for i in (0, 256, -256) for j in (0, 256, -256)])
    canvas = np.full((3 * ATLAS_SIZE, 3 * ATLAS_SIZE), 255, np.uint8)
    spots = np.round(tiled).astype(int) + ATLAS_SIZE
    canvas[spots[:, 1] % (3 * ATLAS_SIZE), spots[:, 0] % (3 * ATLAS_SIZE)] = 0
    distance = cv2.distanceTransform(canvas, cv2.DIST_L2, 5)
    distance = distance[ATLAS_SIZE : 2 * ATLAS_SIZE, ATLAS_SIZE : 2 * ATLAS_SIZE]

    blades = np.zeros((ATLAS_SIZE, ATLAS_SIZE), np.uint8)
    for _ in range(1500):
        base, lean, height = rng.uniform(0, ATLAS_SIZE, 2), rng.normal(0, 5), rng.uniform(8, 24)
        grey = int(rng.uniform(0, 255))
        for shift in np.array([(0, 0), (256, 0), (-256, 0), (0, 256), (0, -256)]):
            foot = base + shift
            tip = foot + (lean, -height)
            cv2.line(blades, np.int32(foot).tolist(), np.int32(tip).tolist(), grey, 2, cv2.LINE_AA)

    row = np.floor(y / 16)
    brick_x = x + 16 * (row % 2)
    scale_x = (x + 8 * (row % 2)) % 16 - 8
    return {
        "cloud": cloud,
        "mottle": _noise(rng, 1.1),
        "grain": _noise(rng, 0.6),
        "sand": _noise(rng, 0.0),
        "patches": _soft_step(cloud - 0.55, 0.06),
        "wood": (0.5 + 0.35 * wave(x * 1.0 + warp, 16) + 0.15 * wave(x + warp, 4)).astype(
            np.float32
        ),
        "waves": _soft_step(wave(y + 5 * wave(x, 64) + warp * 0.5, 32), 2.0),
        "zebra": _soft_step(wave(x + warp, 32), 0.6),
        "stripes": _soft_step(wave(x, 32), 0.7),
        "pinstripes": _soft_step(wave(x, 16) - 0.6, 0.8),
        "plaid": ((_soft_step(wave(x, 64), 0.5) + _soft_step(wave(y, 64), 0.5)) / 2).astype(
            np.float32
        ),
        "checker": _soft_step(wave(x, 64) * wave(y, 64), 0.2),
        "dots": _soft_step(9 - np.hypot((x % 32) - 16, (y % 32) - 16), 2.0),
        "speckle": _soft_step(3.2 - distance, 1.5),
        "cells": np.clip(distance / 14, 0, 1).astype(np.float32),
        "bricks": _soft_step(np.minimum(y % 16, brick_x % 32) - 1.5, 1.2) * (0.7 + 0.3 * cloud),
        "tiles": _soft_step(np.minimum(x % 32, y % 32) - 1.5, 1.2),
        "scales": np.clip(np.hypot(scale_x, y % 16) / 16, 0, 1).astype(np.float32),
        "grass": blades.astype(np.float32) / 255,
        "planks": _soft_step((x % 64) - 2, 2.0) * (0.6 + 0.4 * cloud),
    }


def textured(
    name: str, to_texels: Float[np.ndarray, "2 3"], width: int, height: int
) -> Float32[np.ndarray, "height width"]:
    """A texture laid over a rectangle of pixels, 0..1.

    Args:
        name: which texture of `atlas()`.
        to_texels: affine map from pixels (x, y) to texture pixels.
        width: of the rectangle, pixels.
        height: of the rectangle, pixels.
    """
    corners = to_texels[:, :2] @ np.array([(0, width, 0, width), (0, 0, height, height)])
    start = corners.min(1) + to_texels[:, 2]
    shifted = to_texels.copy()
    shifted[:, 2] -= np.floor(start / ATLAS_SIZE) * ATLAS_SIZE
    grey = cv2.warpAffine(
        atlas()[name],
        shifted,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )
    return grey.astype(np.float32) * np.float32(1 / 255)


def noise(rng: np.random.Generator, height: int, width: int) -> Float32[np.ndarray, "height width"]:
    """Independent pixels, evenly over -0.5..0.5 (repeated every 256 pixels)."""
    x, y = rng.integers(0, ATLAS_SIZE, 2)
    columns, rows = (x + np.arange(width)) % ATLAS_SIZE, (y + np.arange(height)) % ATLAS_SIZE
    return atlas()["sand"][rows][:, columns] * np.float32(1 / 255) - np.float32(0.5)
