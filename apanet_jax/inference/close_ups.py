"""Close-ups of a large image, where an object that is too small for the whole may be.

In the whole of a large image a small object has a position or two, which resemble little of what
supports show at many times that size. So the whole's positions are compared with supports that are
as small, and the places that resemble them most are seen in small squares, which are compared with
supports in small squares. The network's own square is filled with the one that resembles them
most, and once more with what is marked there. What the whole's positions, or the places, have in
common is taken away before: at that size it is most of a feature vector.
"""

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.geometry import (
    Grid,
    Label,
    PositionMap,
    interpolation_weights,
    label_shares,
    square_label,
)
from apanet_jax.inference.matcher import Matcher
from apanet_jax.inference.presence import (
    ALIKE_QUANTILE,
    Appearance,
    SupportAppearance,
    support_appearance,
)
from apanet_jax.inference.tiles import largest_part
from apanet_jax.inference.whitening import unit

TINY = 8
"""Supports are seen at this share of the square's side to find places in the whole."""
MOST_SUPPORTS = 5
"""That are seen small; all serve otherwise."""
PLACES = 12
"""That are seen in small squares."""
PLACE_SHARE = 0.1
"""Of the longer side of an image, in a place's side."""
OBJECT_SHARE = 0.6
"""Of a close-up's side, in the longer side of what is marked."""

Image = UInt8[np.ndarray, "height width 3"]


class Place(NamedTuple):
    """A square part of an image: its top, left and side, in pixels."""

    top: float
    left: float
    side: float


class SmallSupports(NamedTuple):
    """How a class appears in small supports.

    Attributes:
      tiny: many of them in one square.
      small: each in a small square, see `small_grid`.
    """

    tiny: SupportAppearance
    small: SupportAppearance


def small_grid(grid: Grid) -> Grid:
    """Returns the grid of a square of half the positions: its time is a sixth or less."""
    positions = grid.positions // 2 + 1
    return grid._replace(
        size=grid.size - (grid.positions - positions) * grid.stride, positions=positions
    )


def small_supports(
    matcher: Matcher, supports: Sequence[tuple[Image, Label, tuple[int, int]]]
) -> SmallSupports:
    """Returns how a class appears in small supports.

    Args:
      matcher: whose features are compared.
      supports: image and label of each in the matcher's square, and its own height and width.
    """
    grid, small = matcher.grid, small_grid(matcher.grid)
    parts = []
    for square, label, size in supports[:MOST_SUPPORTS]:
        height, width = grid.fitted(size)
        parts.append((square[:height, :width], label[:height, :width]))
    tiny = _mosaic(parts, grid)
    of_tiny = support_appearance(
        [matcher.appearance(matcher.embed(tiny[0]))], [label_shares(tiny[1], grid)[0]]
    )
    appearances, foregrounds = [], []
    for image, label in parts:
        square = seen(image, Place(0, 0, max(label.shape)), small)
        appearances.append(matcher.appearance(matcher.embed(square)))
        foregrounds.append(label_shares(square_label(label, small), small)[0])
    return SmallSupports(of_tiny, support_appearance(appearances, foregrounds))


def places(
    appearance: Appearance, supports: Sequence[SmallSupports], image_size: tuple[int, int],
    grid: Grid,
) -> list[Place]:  # fmt: skip
    """Returns where an image resembles tiny supports most, the most alike first.

    Args:
      appearance: of the image as a whole, at the positions that are centred on it.
      supports: of each class.
      image_size: height and width of the image.
      grid: of the whole's square.
    """
    mean = _mean([appearance])
    each = [_alike(appearance, unit(x.tiny.weights @ x.tiny.positions), mean) for x in supports]
    left_over = np.max(each, 0).astype(np.float64)
    scale = max(image_size) / max(grid.fitted(image_size))
    centres = [(grid.first + grid.stride * np.arange(n) + 0.5) * scale for n in left_over.shape]
    side, found = PLACE_SHARE * max(image_size), []
    while len(found) < PLACES and np.isfinite(left_over).any():
        chosen = np.unravel_index(left_over.argmax(), left_over.shape)
        middle = [axis[n] for axis, n in zip(centres, chosen, strict=True)]
        found.append(around(middle, side, image_size))
        near = [np.abs(axis - x) < side / 2 for axis, x in zip(centres, middle, strict=True)]
        left_over[np.ix_(*near)] = -np.inf
    return found


def likenesses(
    appearances: Sequence[Appearance], supports: SupportAppearance
) -> Float[np.ndarray, " places"]:
    """Returns how much each of several places resembles a class: what `ALIKE_QUANTILE` says of it.

    Cosines are of what is left of features without their mean over all of the places, which they
    have in common: it says that they are close-ups of this image.

    Args:
      appearances: of each place.
      supports: of the class, seen as large.
    """
    mean, prototype = _mean(appearances), supports.weights @ supports.positions
    found = [_alike(x, prototype, mean) for x in appearances]
    return np.array([np.quantile(x, ALIKE_QUANTILE) for x in found])


def marked_place(margins: PositionMap, threshold: float, place: Place, grid: Grid) -> Place | None:
    """Returns a closer place, around the largest part that is marked in a close-up.

    None where nothing is marked, or what is marked is as large as it is to be.

    Args:
      margins: of the close-up.
      threshold: above it a position is marked.
      place: of the close-up.
      grid: of its square.
    """
    marked = margins > threshold
    if not marked.any():
        return None
    top, left, height, width = largest_part(marked)
    scale = place.side / grid.size
    side = max(max(height, width) * grid.stride * scale / OBJECT_SHARE, place.side / 4)
    if side > 0.75 * place.side:
        return None
    down, along = (
        (grid.first + grid.stride * (first + (count - 1) / 2)) * scale
        for first, count in ((top, height), (left, width))
    )
    return Place(place.top + down - side / 2, place.left + along - side / 2, side)


def around(middle: Sequence[float], side: float, image_size: tuple[int, int]) -> Place:
    """Returns the place around a point that lies within the image where it can."""
    top, left = (
        min(max(x - side / 2, 0.0), max(n - side, 0.0))
        for x, n in zip(middle, image_size, strict=True)
    )
    return Place(top, left, side)


def seen(image: Image, place: Place, grid: Grid) -> UInt8[np.ndarray, "size size 3"]:
    """Returns a place of an image as a square; what is beyond the image is black."""
    top, left, side = (round(x) for x in place)
    rows, columns = (
        slice(max(x, 0), max(min(x + side, n), x + 1, 1))
        for x, n in zip((top, left), image.shape[:2], strict=True)
    )
    part = np.zeros((side, side, 3), np.uint8)
    inside = image[rows, columns]
    y, x = rows.start - top, columns.start - left
    part[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    shrinks = side > grid.size
    size = (grid.size, grid.size)
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def in_place(
    margins: PositionMap, place: Place, image_size: tuple[int, int], grid: Grid, large: Grid
) -> tuple[tuple[slice, slice], PositionMap]:
    """Returns the margins of a close-up at the large square's positions in it, and which these are.

    Args:
      margins: at all positions of the close-up.
      place: of the close-up, in pixels of an image of `image_size`.
      image_size: height and width of the image.
      grid: of the close-up.
      large: of the square that the image is fitted into.
    """
    windows, weights = [], []
    for first, count, pixels, fitted, positions in zip(
        place[:2], large.inside(image_size), image_size, large.fitted(image_size), margins.shape,
        strict=True,
    ):  # fmt: skip
        centres = (large.first + large.stride * np.arange(count) + 0.5) * (pixels / fitted)
        within = np.flatnonzero((centres >= first) & (centres < first + place.side))
        windows.append(slice(int(within[0]), int(within[-1]) + 1) if len(within) else slice(0, 0))
        square = (centres[within] - first) * (grid.size / place.side) - 0.5
        weights.append(interpolation_weights(positions, (square - grid.first) / grid.stride))
    down, along = weights
    return tuple(windows), down @ margins.astype(np.float32) @ along.T


def _mean(appearances: Sequence[Appearance]) -> Float[np.ndarray, " channels"]:
    return np.mean([x.astype(np.float32).mean((0, 1)) for x in appearances], 0)


def _alike(
    appearance: Appearance,
    prototype: Float[np.ndarray, " channels"],
    mean: Float[np.ndarray, " channels"],
) -> PositionMap:
    """Returns the cosine of each position to a prototype, both without a mean."""
    return unit(appearance.astype(np.float32) - mean) @ unit(prototype - mean)


def _mosaic(parts: Sequence[tuple[Image, Label]], grid: Grid) -> tuple[Image, Label]:
    """Returns supports side by side in one square, every other one mirrored, and their label."""
    side = grid.size // TINY // grid.stride * grid.stride
    square = np.zeros((grid.size, grid.size, 3), np.uint8)
    label = np.full((grid.size, grid.size), 255, np.uint8)
    for number in range(TINY * TINY):
        image, of_image = parts[number % len(parts)]
        size = [max(round(n * side / max(of_image.shape)), 1) for n in of_image.shape]
        image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        share = cv2.resize(
            (of_image == 1).astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA
        )
        if number // len(parts) % 2:
            image, share = image[:, ::-1], share[:, ::-1]
        top, left = (n * side for n in divmod(number, TINY))
        window = np.s_[top : top + size[0], left : left + size[1]]
        square[window], label[window] = image, share > 0.5
    return square, label
