"""Close-ups of a large image, where an object that is too small for the whole may be.

In the whole of a large image a small object has a position or two, which resemble little of what
supports show at many times that size; and in a tile it is still small. So the image is seen in many
small squares, each of a small part of it, and these are compared with supports in small squares.
What they have in common is taken away before: it is most of a feature vector. Where one of them
stands out, the network's own square is filled with it, and once more with what is marked there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.geometry import (
    Grid,
    Label,
    PositionMap,
    interpolation_weights,
    label_shares,
    square_label,
)
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.inference.matching.presence import (
    ALIKE_QUANTILE,
    Appearance,
    SupportAppearance,
    support_appearance,
)
from apanet_jax.inference.matching.whitening import unit
from apanet_jax.inference.multiscale.tiles import largest_part

MOST_SUPPORTS = 5
"""That are seen in small squares; all serve otherwise."""
STEP = 0.81
"""From one place to the next, of their side."""
OUTSTANDING = 4.0
"""By how many standard deviations of the others a place resembles a class more than their mean."""
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


def small_grid(grid: Grid) -> Grid:
    """Returns the grid of a square of half the positions: its time is a sixth or less."""
    positions = grid.positions // 2 + 1
    return grid._replace(
        size=grid.size - (grid.positions - positions) * grid.stride, positions=positions
    )


def small_supports(
    matcher: Matcher, supports: Sequence[tuple[Image, Label, tuple[int, int]]]
) -> SupportAppearance:
    """Returns how a class appears in supports in small squares, see `small_grid`.

    Args:
      matcher: whose features are compared.
      supports: image and label of each in the matcher's square, and its own height and width.
    """
    grid, small = matcher.grid, small_grid(matcher.grid)
    appearances, foregrounds = [], []
    for square, label, size in supports[:MOST_SUPPORTS]:
        height, width = grid.fitted(size)
        image, label = square[:height, :width], label[:height, :width]
        of_place = seen(image, Place(0, 0, max(label.shape)), small)
        appearances.append(matcher.appearance(matcher.embed(of_place)))
        foregrounds.append(label_shares(square_label(label, small), small)[0])
    return support_appearance(appearances, foregrounds)


def places(image_size: tuple[int, int]) -> list[Place]:
    """Returns overlapping places that cover an image, row by row."""
    side = PLACE_SHARE * max(image_size)
    rows, columns = (
        np.linspace(0, max(n - side, 0), max(math.ceil((n - side) / (STEP * side)), 0) + 1)
        for n in image_size
    )
    return [Place(float(top), float(left), side) for top in rows for left in columns]


def likenesses(
    appearances: Sequence[Appearance], supports: SupportAppearance
) -> Float[np.ndarray, " places"]:
    """Returns how much each of several places resembles a class: the `ALIKE_QUANTILE` of cosines.

    Cosines are of what is left of features without their mean over all of the places, which they
    have in common: it says that they are close-ups of this image.

    Args:
      appearances: of each place.
      supports: of the class, seen as large.
    """
    mean = np.mean([x.astype(np.float32).mean((0, 1)) for x in appearances], 0)
    prototype = unit(supports.weights @ supports.positions - mean)
    found = [unit(x.astype(np.float32) - mean) @ prototype for x in appearances]
    return np.array([np.quantile(x, ALIKE_QUANTILE) for x in found])


def outstanding(found: Float[np.ndarray, " places"]) -> float:
    """Returns by how many standard deviations of the others the highest is above their mean."""
    others = np.delete(found, found.argmax())
    return float((found.max() - others.mean()) / max(others.std(), 1e-6))


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
