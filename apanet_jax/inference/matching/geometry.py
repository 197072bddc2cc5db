"""Where the positions of a feature map lie on an image, and what lies between them.

An image is fitted into the top left of a square (`data.transforms.fit_square`), whose feature map
is square too. A `Grid` says on which pixels of that square the positions are centred.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.transforms import fit_square, fitted_size
from apanet_jax.models import backbones

Image = UInt8[np.ndarray, "height width 3"]
Label = UInt8[np.ndarray, "height width"]
PositionMap = Float[np.ndarray, "rows columns"]
"""A value at each position of a feature map."""


class Grid(NamedTuple):
    """The positions of a square's feature map: position i is centred on pixel first + i stride.

    Attributes:
      size: side of the square, in pixels.
      positions: along each side of the feature map.
      stride: pixels from one position to the next.
      first: pixel on which the first position is centred: 0 for convolutions, which keep the first
        pixel, and (stride - 1) / 2 for patches, which begin with it.
    """

    size: int
    positions: int
    stride: int
    first: float = 0.0

    @property
    def before(self) -> int:
        """Pixels that the first position covers before the square begins."""
        return int(self.stride / 2 - self.first)

    def fitted(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns the height and width that an image of `image_size` has in the square."""
        return fitted_size(image_size, self.size, self.stride)

    def inside(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Returns how many rows and columns of positions are centred on an image in the square."""
        rows, columns = (
            min(max(int((pixels - 1 - self.first) // self.stride) + 1, 1), self.positions)
            for pixels in self.fitted(image_size)
        )
        return rows, columns


def grid_of(backbone: str, size: int) -> Grid:
    """Returns the grid of a backbone's feature map.

    Args:
      backbone: a name of `models.backbones.BACKBONES`.
      size: side of the square, in pixels; where the backbone has patches, the largest square of
        whole patches within it is taken.
    """
    spec = backbones.spec(backbone)
    if spec.patch is not None:
        patches = max(size // spec.patch, 1)
        return Grid(patches * spec.patch, patches, spec.patch, (spec.patch - 1) / 2)
    return Grid(size, -(-size // spec.stride), spec.stride)


def interpolation_weights(
    positions: int, coordinates: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "points positions"]:
    """Returns the weights that interpolate linearly between positions in a line.

    Args:
      positions: how many lie in the line.
      coordinates: of the points, counted in positions; before the first and behind the last
        position the values are those of the first and the last.
    """
    coordinates = np.clip(coordinates, 0, positions - 1)
    weights = 1 - np.abs(coordinates[:, None] - np.arange(positions))
    return np.maximum(weights, 0).astype(np.float32)


def pixel_weights(grid: Grid) -> Float[np.ndarray, "size positions"]:
    """Returns the weights that interpolate a line of positions at the pixels of the square."""
    return interpolation_weights(grid.positions, (np.arange(grid.size) - grid.first) / grid.stride)


def upsampler(
    values: PositionMap, image_size: tuple[int, int], grid: Grid
) -> Callable[[slice], Float[np.ndarray, "height width"]]:
    """Returns a function that gives some rows of `upsample`, in the memory of these alone."""
    # Two positions have a say in a pixel: a product with all of them grows with the square's size.
    (upper, lower, down), (left, right, along) = (
        _neighbours(
            positions,
            ((np.arange(pixels) + 0.5) * (fitted / pixels) - 0.5 - grid.first) / grid.stride,
        )
        for positions, pixels, fitted in zip(
            values.shape, image_size, grid.fitted(image_size), strict=True
        )
    )
    values = values.astype(np.float32)
    across = values[:, left] * (1 - along) + values[:, right] * along
    down = down[:, None]

    def rows(chosen: slice) -> Float[np.ndarray, "height width"]:
        result = across[upper[chosen]] * (1 - down[chosen])
        result += across[lower[chosen]] * down[chosen]
        return result

    return rows


def upsample(
    values: PositionMap, image_size: tuple[int, int], grid: Grid
) -> Float[np.ndarray, "height width"]:
    """Returns the values at an image's own pixels, interpolated bilinearly.

    Args:
      values: at the positions that are centred on the image, see `Grid.inside`.
      image_size: height and width of the image.
      grid: of the square that the image was fitted into.
    """
    return upsampler(values, image_size, grid)(slice(None))


def _neighbours(
    positions: int, coordinates: Float[np.ndarray, " points"]
) -> tuple[np.ndarray, np.ndarray, Float[np.ndarray, " points"]]:
    """Returns the positions before and behind each point, and the weight of the one behind."""
    coordinates = np.clip(coordinates, 0, positions - 1)
    before = np.minimum(coordinates.astype(int), max(positions - 2, 0))
    behind = np.minimum(before + 1, positions - 1)
    return before, behind, (coordinates - before).astype(np.float32)


def label_shares(label: Label, grid: Grid) -> tuple[PositionMap, PositionMap]:
    """Returns which share of each position is foreground, and which is background.

    A position covers the square of `stride` pixels round its centre, so that no pixel is lost
    between the positions. What is ignored or outside of the image is neither.

    Args:
      label: of the whole square: 1 foreground, 0 background, 255 ignored or outside.
      grid: of the square.

    Returns:
      Two maps in [0, 1].
    """
    return _shares(label == 1, grid), _shares(label == 0, grid)


def shown(
    images: Sequence[Any], labels: Sequence[Label]
) -> tuple[tuple[Any, ...], tuple[Label, ...]]:
    """Returns those of several images, or of their features, whose labels have foreground."""
    pairs = zip(images, labels, strict=True)
    kept = [(image, label) for image, label in pairs if (label == 1).any()]
    return tuple(zip(*kept, strict=True)) if kept else ((), ())


def fitted_square(image: Image, grid: Grid) -> UInt8[np.ndarray, "size size 3"]:
    """Returns an image in the top left of a square, see `fit_square`.

    An image of twice the size or more is resized by the mean of its pixels: what lies between the
    few that an interpolation takes would be lost.
    """
    height, width = grid.fitted(image.shape[:2])
    if max(image.shape[:2]) >= 2 * grid.size:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
        square = np.zeros((grid.size, grid.size, 3), np.uint8)
        square[:height, :width] = image
        return square
    return fit_square(image, np.zeros(image.shape[:2], np.uint8), grid.size, grid.stride)[0]


def square_label(label: Label, grid: Grid) -> UInt8[np.ndarray, "size size"]:
    """Returns a support's label in the square, with foreground at the centre of a position.

    The label is resized to the nearest pixel. An object too small or too thin to lie on the centre
    of any position would be lost to a network; then the positions that hold the largest shares of
    it, half of the largest or more, are marked at their centres.

    Args:
      label: of the image: 1 foreground, 0 background, 255 ignored.
      grid: of the square.
    """
    square = fit_square(np.zeros((*label.shape, 3), np.uint8), label, grid.size, grid.stride)[1]
    centres = (grid.first + grid.stride * np.arange(grid.positions)).astype(int)
    if (square[np.ix_(centres, centres)] == 1).any() or not (label == 1).any():
        return square
    nearest = []
    for pixels, size, fitted, count in zip(
        np.nonzero(label == 1), label.shape, grid.fitted(label.shape), grid.inside(label.shape),
        strict=True,
    ):  # fmt: skip
        position = ((pixels + 0.5) * (fitted / size) - 0.5 - grid.first) / grid.stride
        nearest.append(np.clip(np.round(position).astype(int), 0, count - 1))
    pixels = np.zeros((grid.positions, grid.positions), int)
    np.add.at(pixels, tuple(nearest), 1)
    for row, column in np.argwhere(pixels >= pixels.max() / 2):
        top, left = (max(centres[n] - 1, 0) for n in (row, column))
        square[top : top + 3, left : left + 3] = 1
    return square


def around(
    square: UInt8[np.ndarray, "side side 3"], label: Label, grid: Grid, margin: float
) -> tuple[UInt8[np.ndarray, "size size 3"], UInt8[np.ndarray, "size size"]]:
    """Returns a support's object with its surroundings in a square, and the label there.

    Args:
      square: the support.
      label: of it: 1 foreground, of which there is some, 0 background, 255 ignored or outside.
      grid: of the square that is returned.
      margin: longer side of what is shown, in longer sides of the foreground; what lies beyond the
        image is left out.
    """
    sides = [np.flatnonzero((label == 1).any(axis)) for axis in (1, 0)]
    side = margin * max(x[-1] + 1 - x[0] for x in sides)
    window = []
    for axis, x in zip((1, 0), sides, strict=True):
        centre, image = (x[0] + x[-1] + 1) / 2, np.flatnonzero((label != IGNORE).any(axis))
        first, end = max(centre - side / 2, image[0]), min(centre + side / 2, image[-1] + 1)
        window.append(slice(int(first), max(math.ceil(end), int(first) + 1)))
    part = tuple(window)
    return fitted_square(square[part], grid), square_label(label[part], grid)


def _shares(values: np.ndarray, grid: Grid) -> PositionMap:
    """Returns the mean of the values in the square that each position covers."""
    side = grid.positions * grid.stride
    covered = np.zeros((side, side), np.float32)
    inside = values[: side - grid.before, : side - grid.before]
    covered[grid.before :, grid.before :][: len(inside), : len(inside)] = inside
    return cv2.resize(covered, (grid.positions,) * 2, interpolation=cv2.INTER_AREA)
