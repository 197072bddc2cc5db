"""Close-ups of a large image, where an object that is too small for the whole may be.

In the whole of a large image a small object has a position or two, which resemble little of what
supports show at many times that size; and in a tile it is still small. So the image is seen in many
small squares, each of a small part of it, and these are compared with supports in small squares.
What they have in common is taken away before: it is most of a feature vector. Around the places
that are most alike closer squares are seen, as an object fills one of them, and what merely looks
like it from afar does not. Where one of these stands out from all places, the network's own square
is filled with it, and once more with what is marked there.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.geometry import (
    Grid,
    Image,
    Label,
    PositionMap,
    interpolation_weights,
    label_shares,
    square_label,
)
from apanet_jax.inference.matching.whitening import unit
from apanet_jax.inference.multiscale.small_squares import SIDE, SmallSquares
from apanet_jax.inference.multiscale.tiles import largest_part

MOST_SUPPORTS = 5
"""That are seen in small squares; all serve otherwise."""
STEP = 0.81
"""From one place to the next, of their side."""
MOST_CANDIDATES = 6
"""Places that are seen closer, for each class."""
CLOSER = (0.75, 0.5, 0.35)
"""Sides of the closer squares, in shares of a place's."""
CONTEXT = 2.0
"""Side of what the network is shown, in sides of the closer square that stands out."""
MOST_COMPARED = 160
"""Positions of a class's supports with which squares are compared."""
LEAST_SPREAD = 0.02
"""Of a measure over an image's places: in one that is all alike, the least difference would stand
out."""
OUTSTANDING = 2.6
"""By how many standard deviations of the places a closer square resembles a class more than their
mean."""
SURE = 0.9
"""Presence above which what the whole image shows is not doubted."""
OVERRULING = 3.3
"""By how many standard deviations more a closer square does where the whole image shows the class
elsewhere: photographs of one that fills them have squares that stand out by up to 2.7."""
PLACE_SHARE = 0.1
"""Of the longer side of an image, in a place's side."""
LEAST_SIDE = int(SIDE / PLACE_SHARE)
"""Longer side of the smallest images that are looked at so where nothing asks for it: in smaller
ones a place has fewer pixels than a small square, so that close-ups show little more than the
whole does. An object of 3 % has 58 pixels in it, seven of Lite0's positions."""
OBJECT_SHARE = 0.6
"""Of a close-up's side, in the longer side of what is marked."""
ALIKE_QUANTILE = 0.97
"""Of a square's cosines to a class: they are exceeded by few positions, but not by single ones."""
FOREGROUND_SHARE = 0.5
"""A position of a support is compared where the class has more than this share of it."""
_LEAST_POSITIONS = 3
"""Of a support; where fewer have as much of the class, it is those with the most of it."""


class Place(NamedTuple):
    """A square part of an image: its top, left and side, in pixels."""

    top: float
    left: float
    side: float


class SupportAppearance(NamedTuple):
    """How a class appears in its supports.

    Attributes:
      positions: unit features of the foreground's positions.
      weights: of these, with the sum 1; every support has the same.
    """

    positions: Float[np.ndarray, "positions channels"]
    weights: Float[np.ndarray, " positions"]


class CloseUps(NamedTuple):
    """What compares the places of an image with the supports of each class.

    Attributes:
      squares: embeds small squares.
      supports: how each class appears in them.
    """

    squares: SmallSquares
    supports: Sequence[SupportAppearance]


def small_supports(
    squares: SmallSquares, grid: Grid, supports: Sequence[tuple[Image, Label, tuple[int, int]]]
) -> SupportAppearance:
    """Returns how a class appears in supports in small squares.

    Args:
      squares: embeds them.
      grid: of the squares in which the supports are given.
      supports: image and label of each in such a square, and its own height and width.
    """
    small, images, foregrounds = squares.grid, [], []
    for square, label, size in supports[:MOST_SUPPORTS]:
        height, width = grid.fitted(size)
        image, label = square[:height, :width], label[:height, :width]
        images.append(seen(image, Place(0, 0, max(label.shape)), small))
        foregrounds.append(label_shares(square_label(label, small), small)[0])
    return support_appearance(list(squares.appearances(images)), foregrounds)


def support_appearance(
    appearances: Sequence[Float[np.ndarray, "rows columns channels"]],
    foregrounds: Sequence[PositionMap],
) -> SupportAppearance:
    """Returns how a class appears in its supports.

    Args:
      appearances: features of each support.
      foregrounds: which share of each position is the class, see `geometry.label_shares`.
    """
    positions, weights = [], []
    for appearance, foreground in zip(appearances, foregrounds, strict=True):
        flat, shares = appearance.reshape(-1, appearance.shape[-1]), foreground.ravel()
        chosen = np.flatnonzero(shares > FOREGROUND_SHARE)
        if len(chosen) < _LEAST_POSITIONS:
            chosen = np.argsort(-shares, kind="stable")[:_LEAST_POSITIONS]
        positions.append(flat[chosen].astype(np.float32))
        weights.append(np.full(len(chosen), 1 / len(chosen) / len(appearances), np.float32))
    return SupportAppearance(np.concatenate(positions), np.concatenate(weights))


def places(image_size: tuple[int, int]) -> list[Place]:
    """Returns overlapping places that cover an image, row by row."""
    side = PLACE_SHARE * max(image_size)
    rows, columns = (
        np.linspace(0, max(n - side, 0), max(math.ceil((n - side) / (STEP * side)), 0) + 1)
        for n in image_size
    )
    return [Place(float(top), float(left), side) for top in rows for left in columns]


class Outstanding(NamedTuple):
    """The closer square that resembles a class most.

    Attributes:
      place: what the network is to be shown: the square with its surroundings.
      by: how many standard deviations of all places it is above their mean, by the lower one of the
        two measures of `Likeness`.
    """

    place: Place
    by: float


def most_alike(image: Image, with_what: CloseUps, wanted: Sequence[int]) -> list[Outstanding]:
    """Returns the part of an image that resembles each of several classes most.

    Args:
      image: RGB.
      with_what: see `CloseUps`.
      wanted: numbers of the classes.
    """
    squares, all_places = with_what.squares, places(image.shape[:2])
    appearances = squares.appearances([seen(image, x, squares.grid) for x in all_places])
    mean = appearances.mean((0, 1, 2))
    found = []
    for index in wanted:
        likeness = Likeness(with_what.supports[index], mean)
        measures, cosines = likeness(appearances)
        centre, spread = measures.mean(1), np.maximum(measures.std(1), LEAST_SPREAD)
        order = np.argsort(-((measures.T - centre) / spread).sum(1), kind="stable")
        closer = [
            part
            for number in order[:MOST_CANDIDATES]
            for part in closer_parts(
                cosines[number], all_places[number], squares.grid, image.shape[:2]
            )
        ]
        of_parts, _ = likeness(squares.appearances([seen(image, x, squares.grid) for x in closer]))
        by = ((of_parts.T - centre) / spread).min(1)
        best = int(by.argmax())
        found.append(Outstanding(widened(closer[best], CONTEXT), float(by[best])))
    return found


def presence(by: float) -> float:
    """Returns the probability that a class is where a square stands out: half at `OUTSTANDING`.

    A standard deviation more counts as one of the log-odds: how often it is right was measured at
    `OUTSTANDING` alone.
    """
    return 1 / (1 + math.exp(OUTSTANDING - by))


class Likeness:
    """How much squares resemble a class, by what they do not have in common.

    With the features q_x of a square, s_p of the supports' foreground and its weights w_p, all of
    them unit vectors of what is left without the mean over all places of the image, it is

        quantile_x cos(sum_p w_p s_p, q_x)   (the `ALIKE_QUANTILE`) and
        sum_p w_p max_x cos(s_p, q_x).

    The first is high where a part of the square resembles the class on the whole, the second where
    all of what the supports show is there.
    """

    def __init__(self, supports: SupportAppearance, mean: Float[np.ndarray, " channels"]):
        """Takes a class and the mean over all places of an image."""
        step = -(-len(supports.weights) // MOST_COMPARED)
        weights = supports.weights[::step]
        self._mean, self._weights = mean, weights / weights.sum()
        self._positions = unit(supports.positions[::step] - mean)
        self._prototype = unit(supports.weights @ supports.positions - mean)

    def __call__(
        self, appearances: Float[np.ndarray, "squares rows columns channels"]
    ) -> tuple[Float[np.ndarray, "2 squares"], Float[np.ndarray, "squares rows columns"]]:
        """Returns both measures of each square, and its cosines to the class's mean."""
        measures, cosines = [], []
        for appearance in appearances:
            left = unit(appearance - self._mean)
            cosines.append(left @ self._prototype)
            covered = (left.reshape(-1, left.shape[-1]) @ self._positions.T).max(0)
            alike = np.quantile(cosines[-1], ALIKE_QUANTILE)
            measures.append((alike, covered @ self._weights))
        return np.array(measures).T, np.stack(cosines)


def closer_parts(
    cosines: PositionMap, place: Place, grid: Grid, image_size: tuple[int, int]
) -> list[Place]:
    """Returns squares of the sides `CLOSER` around where a place is most alike, within the image.

    Args:
      cosines: of the place's positions to the class.
      place: in the image.
      grid: of a small square.
      image_size: height and width of the image.
    """
    found = []
    for share in CLOSER:
        side = max(int(0.6 * share * grid.positions), 1)
        near = cv2.blur(cosines.astype(np.float32), (side, side), borderType=cv2.BORDER_REFLECT)
        row, column = np.unravel_index(near.argmax(), near.shape)
        side, scale = share * place.side, place.side / grid.size
        top, left = (
            min(
                max(first + (grid.first + grid.stride * n + 0.5) * scale - side / 2, 0), most - side
            )
            for first, n, most in zip(place[:2], (row, column), image_size, strict=True)
        )
        found.append(Place(float(top), float(left), side))
    return found


def widened(place: Place, factor: float) -> Place:
    """Returns a place around another one, of so many times its side."""
    more = (factor - 1) / 2 * place.side
    return Place(place.top - more, place.left - more, factor * place.side)


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
