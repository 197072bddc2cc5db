"""Overlapping tiles of an image that is larger than the network's square, and how they are joined.

An image is resized into a large square as it is into the network's own one, and looked at in tiles
of the latter. Tiles begin at whole multiples of the stride, so that their positions are those of
the large square's feature map.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from apanet_jax.inference.matching.geometry import Grid, Label, PositionMap, interpolation_weights

OVERLAP = 0.25
"""Least share of a tile's side that it has in common with the next one."""


class Tile(NamedTuple):
    """A square of the network's size in a larger one: the first row and column of its positions."""

    row: int
    column: int


def enlarged(grid: Grid, size: int) -> Grid:
    """Returns the grid of a larger square at the same stride."""
    positions = int((size - 1 - grid.first) // grid.stride) + 1
    return grid._replace(size=size, positions=positions)


def tiles_of(image_size: tuple[int, int], large: Grid, grid: Grid) -> list[Tile]:
    """Returns the tiles that cover an image in the large square, row by row.

    Args:
      image_size: height and width of the image.
      large: of the square that the image is fitted into.
      grid: of a tile.
    """
    rows, columns = (_corners(n, grid.positions) for n in large.inside(image_size))
    return [Tile(row, column) for row in rows for column in columns]


def joined(
    tiles: Sequence[Tile],
    values: Sequence[Float[np.ndarray, "classes rows columns"]],
    shape: tuple[int, int],
) -> Float[np.ndarray, "classes rows columns"]:
    """Returns the values of tiles at the positions of the large square.

    Where tiles overlap the value is the mean, with weights that fall linearly to a tile's edges, so
    that no seam is seen.

    Args:
      tiles: see `tiles_of`.
      values: at the positions of each tile; of an image that is narrower than a tile, at those
        inside.
      shape: rows and columns of the positions that are centred on the image.
    """
    rows, columns = values[0].shape[1:]
    down, along = (
        np.minimum(np.arange(1, n + 1), np.arange(n, 0, -1)).astype(np.float32)
        for n in (rows, columns)
    )
    weights = down[:, None] * along
    # Tiles at the lower and the right edge may reach beyond the image.
    total = np.zeros((len(values[0]), shape[0] + rows, shape[1] + columns), np.float32)
    weight = np.zeros(total.shape[1:], np.float32)
    for (row, column), of_tile in zip(tiles, values, strict=True):
        window = np.s_[..., row : row + rows, column : column + columns]
        total[window] += weights * of_tile
        weight[window] += weights
    inside = np.s_[..., : shape[0], : shape[1]]
    return total[inside] / weight[inside]


def at_positions(
    values: PositionMap, image_size: tuple[int, int], grid: Grid, large: Grid
) -> PositionMap:
    """Returns values at the positions of another square into which the same image is fitted.

    Args:
      values: at the positions that are centred on the image, see `Grid.inside`.
      image_size: height and width of the image.
      grid: of the square that the values belong to.
      large: of the other square.
    """
    rows, columns = (
        interpolation_weights(
            count,
            ((large.first + large.stride * np.arange(wanted) + 0.5) * (small / big) - 0.5
             - grid.first) / grid.stride,
        )
        for count, wanted, small, big in zip(
            values.shape, large.inside(image_size), grid.fitted(image_size),
            large.fitted(image_size), strict=True,
        )
    )  # fmt: skip
    return rows @ values.astype(np.float32) @ columns.T


def cut(square: np.ndarray, tile: Tile, grid: Grid, outside: int = 0) -> np.ndarray:
    """Returns the pixels of a tile.

    Args:
      square: `[large, large, …]`, an image or a label in the large square.
      tile: which of its tiles.
      grid: of the tile.
      outside: what stands beyond the large square.
    """
    top, left = (n * grid.stride for n in tile)
    part = square[top : top + grid.size, left : left + grid.size]
    result = np.full((grid.size, grid.size, *square.shape[2:]), outside, square.dtype)
    result[: part.shape[0], : part.shape[1]] = part
    return result


def tile_around(label: Label, large: Grid, grid: Grid, image_size: tuple[int, int]) -> Tile:
    """Returns the tile in whose middle the largest connected part of an object lies.

    Args:
      label: `[large, large]`: 1 where the object is.
      large: of the square that the label is fitted into.
      grid: of the tile.
      image_size: height and width of the image, beyond which the tile does not reach if it can.
    """
    top, left, height, width = largest_part(label == 1)
    return Tile(
        *(
            min(
                max(int((first + side / 2 - grid.size / 2) // grid.stride), 0),
                max(count - grid.positions, 0),
            )
            for first, side, count in zip(
                (top, left), (height, width), large.inside(image_size), strict=True
            )
        )
    )


def largest_part(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Returns the top, left, height and width of a mask's largest connected part."""
    _, _, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), None)
    parts = statistics[1:]
    left, top, width, height, _ = parts[parts[:, cv2.CC_STAT_AREA].argmax()]
    return int(top), int(left), int(height), int(width)


def _corners(count: int, side: int) -> list[int]:
    """Returns where tiles of `side` positions begin that cover `count` of them."""
    last = count - side
    if last <= 0:
        return [0]
    steps = math.ceil(last / ((1 - OVERLAP) * side))
    return [round(last * step / steps) for step in range(steps + 1)]
