"""What the pixels of a drawn mask mean: foreground, background, or ids that must be chosen from.

A mask of one class has two levels, and others only along their edges. Where more levels cover
areas, they are ids of several classes; where most pixels lie in between, it is no mask.
"""

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Shaped, UInt8

from apanet_jax.runtime.errors import UserError

Label = UInt8[np.ndarray, "height width"]

IGNORE = 255
"""The id of pixels that neither teach nor count."""

LARGEST_SMALL_ID = 63
"""Several gray values that are all this small, but for 255, are ids whatever they cover."""
_ONE = 1.001
"""The largest value of a mask in 0 to 1, with rounding."""
_WHITE = 250
"""Levels from here on are all white: editors write 254 where 255 was meant."""
_NEAR = 1 / 8
"""Of the brightest level: values this close to black or to it may be noise of JPEG."""
_EDGE, _NARROWEST_EDGE = 0.012, 7
"""Half of the widest edge, of the longer side; and the narrowest bound on an edge, in pixels."""
_SMALL_AREA = 0.1
"""Of the brightest levels' largest area: what is smaller may be noise."""
_FEW_LEVELS = 8
"""A label map without noise has so few, or more that all cover areas."""
_LINES = 0.2
"""Of the pixels: thin lines take less."""
_FLAT, _MOST_BETWEEN, _LEAST_ALIKE = 0.5, 0.5, 0.8
"""Shares of pixels: so many are flat in a label map; fewer are on edges in a mask of two levels, of
which so many are alike."""
_COLOUR_NOISE = 8
_ALPHA_SHARE = 0.01
"""Of the pixels: so many must be transparent for the transparency to be the mask."""
_MOST_SHOWN = 8


def label_of_values(values: Shaped[np.ndarray, "height width"], what: str) -> Label:
    """Returns the label that the gray values of a mask mean: 1 foreground, 0 background, 255.

    - One value beside 0 is the foreground. So are values in 0 to 1 above one half.
    - Values up to 63 are ids, of which there may be one; 255 beside it is ignored, as in VOC.
    - Black and white with soft edges, or with the noise of JPEG, is cut at half of the brightest.

    Args:
      values: of bool, or numbers from 0 on.
      what: names the mask in errors.

    Raises:
      UserError: these are the ids of several classes, a photograph, or no gray values.
    """
    if values.dtype == bool:
        return values.astype(np.uint8)
    present = np.unique(values) if values.ndim == 2 else np.empty(0)
    if not len(present) or not np.all(np.isfinite(present)) or present[0] < 0:
        raise UserError(f"{what} is no mask of numbers from 0 on, [height, width]")
    levels = present[present > 0]
    if len(levels) <= 1:
        return (values > 0).astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating) and levels[-1] <= _ONE:
        return (values > 0.5).astype(np.uint8)
    ids = levels[levels != IGNORE]
    if ids[-1] <= LARGEST_SMALL_ID:
        return label_of_one_id(values, ids, what)
    covering, flat = _covering_levels(values, levels)
    if len(covering) > 1 and flat > _FLAT:
        raise UserError(_which(what, covering))
    noisy = len(covering) == 1 and len(levels) > _FEW_LEVELS
    # Noise of JPEG exceeds the level of the foreground.
    top = covering[0] if noisy else levels[-1]
    if len(covering) > 1 or not _has_two_levels(values, top):
        raise UserError(
            f"{what} is no mask: it is not black and white but for its edges, and holds "
            f"{len(levels)} gray levels; cut it at one of them first, or draw the foreground white"
        )
    return (values > top / 2).astype(np.uint8)


def label_of_one_id(values: np.ndarray, ids: Sequence[Any], what: str) -> Label:
    """Returns the label of the only id there is; 255 stays ignored.

    Raises:
      UserError: there are several.
    """
    if len(ids) > 1:
        raise UserError(_which(what, ids))
    return label_of_id(values, ids[0])


def label_of_id(values: np.ndarray, number: int) -> Label:
    """Returns 1 where the id is, 255 where 255 is, 0 elsewhere."""
    label = (values == number).astype(np.uint8)
    if number != IGNORE:
        label[values == IGNORE] = IGNORE
    return label


def label_of_colours(colours: UInt8[np.ndarray, "height width 3"], what: str) -> Label:
    """Returns the label that a drawn mask in colours means: 1 where its one colour is.

    On black or on white ground, with soft edges or without.

    Raises:
      UserError: there are several colours.
    """
    if (colours == colours[..., :1]).all():
        return label_of_values(colours[..., 0], what)
    packed = colours.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    found = np.unique(packed)
    for ground in (0, 0xFFFFFF):
        if ground in found:
            share = _share_of_one_colour(colours, found, ground)
            if share is not None:
                levels = np.unique(share[share > 0])
                covering, _ = _covering_levels(share, levels)
                if len(levels) == 1 or (len(covering) <= 1 and _has_two_levels(share, 1)):
                    return (share > 0.5).astype(np.uint8)
    colourful = found[(found != 0) & (found != 0xFFFFFF)]
    raise UserError(
        f"{what} holds {len(colourful)} colours beside black and white: expected one colour on "
        "black or white, or black and white"
    )


def label_of_alpha(
    alpha: UInt8[np.ndarray, "height width"], colours: UInt8[np.ndarray, "height width 3"]
) -> Label | None:
    """Returns the label of a cut-out: 1 where it is opaque.

    Where what is opaque is drawn in black and white, it is the white of it. None where hardly
    anything is transparent: then the colours are the mask.
    """
    opaque = alpha > max(int(alpha.max()), 1) / 2
    if np.mean(~opaque) < _ALPHA_SHARE or not opaque.any():
        return None
    seen = colours[opaque]
    if np.isin(seen, (0, 255)).all() and (seen == seen[:, :1]).all() and len(np.unique(seen)) == 2:
        return (opaque & (colours[..., 0] == 255)).astype(np.uint8)
    return opaque.astype(np.uint8)


def listed(values: Sequence[Any]) -> str:
    """Returns the first values, for a message."""
    shown = [f"{x:g}" if isinstance(x, np.number) else str(x) for x in values[:_MOST_SHOWN]]
    return ", ".join(shown) + (", …" if len(values) > _MOST_SHOWN else "")


def _which(what: str, ids: Sequence[Any]) -> str:
    return (
        f"{what} holds the ids {listed(ids)}: which one is the foreground? Write it behind the "
        "file's name, as in MASK.png:3"
    )


def _covering_levels(values: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, float]:
    """Returns the levels above black that cover areas of their own, and the share of flat pixels.

    A pixel is flat if its eight neighbours have its value; a level covers an area if a pixel of it
    is flat. Noise of JPEG and wide soft edges make small areas too, near black and near the
    brightest level: these do not count, unless every level covers an area, as in a label map.
    """
    square = np.ones((3, 3), np.uint8)
    exact = values if values.dtype in (np.uint8, np.uint16) else values.astype(np.float64)
    flat = cv2.erode(exact, square) == cv2.dilate(exact, square)
    areas = np.bincount(np.searchsorted(levels, values[flat & (values > 0)]), minlength=len(levels))
    covering, top = areas > 0, levels[-1]
    if not covering.all():
        bright = levels >= top * (1 - _NEAR)
        small = areas < _SMALL_AREA * np.max(areas, where=bright, initial=0)
        covering &= (levels > top * _NEAR) & ~(bright & small)
    if top <= IGNORE:
        white = np.flatnonzero(covering & (levels >= _WHITE))
        covering[white[:-1]] = False
    return levels[covering], float(flat.mean())


def _has_two_levels(values: np.ndarray, top: float) -> bool:
    """Returns whether values are black, or `top`, and in between along edges only.

    Thin lines may be edges all over.
    """
    between = (values > top * _NEAR) & (values < top * (1 - _NEAR))
    reach = max(_NARROWEST_EDGE, 2 * round(_EDGE * max(values.shape)) + 1)
    inside = cv2.erode(between.astype(np.uint8), np.ones((reach, reach), np.uint8))
    dark, bright = values[values <= top * _NEAR], values[values >= top * (1 - _NEAR)]
    lines = len(dark) > (1 - _LINES) * values.size and np.mean(dark <= top / 32) > 1 - _LINES
    levels = len(dark) and _is_one_level(dark, top) and (_is_one_level(bright, top) or lines)
    return bool(levels and not inside.any() and between.mean() < _MOST_BETWEEN)


def _is_one_level(values: np.ndarray, top: float) -> bool:
    """Returns whether values are one level with little noise."""
    away = np.abs(values - float(np.median(values)))
    return bool(np.mean(away <= top / 32) > _LEAST_ALIKE)


def _share_of_one_colour(
    colours: UInt8[np.ndarray, "height width 3"], found: np.ndarray, ground: int
) -> np.ndarray | None:
    """Returns how much of the colour farthest from the ground each pixel has, `[height, width]`.

    0 is the ground, 1 the colour; None where there is a third colour, no mixture of the two.
    """
    unpacked = np.stack([found >> 16, found >> 8 & 255, found & 255], -1).astype(np.float32)
    background = np.float32([ground >> 16, ground >> 8 & 255, ground & 255])
    distance = np.linalg.norm(unpacked - background, axis=-1)
    direction = unpacked[np.argmax(distance)] - background
    away = colours - background
    share = (away @ direction) / (direction @ direction)
    if np.abs(away - share[..., None] * direction).max() > _COLOUR_NOISE:
        return None
    return share
