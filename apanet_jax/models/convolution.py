"""3x3 convolutions that keep their input's size, on a CPU by Winograd's minimal filtering.

Of every tile of 2x2 outputs the 4x4 inputs are added and subtracted so that 16 products a pair of
channels do, instead of 36. Source: Lavin and Gray, Fast Algorithms for Convolutional Neural
Networks, F(2x2, 3x3). A convolution dilated by d is d x d convolutions of every dth row and column,
whose tiles are cut out of the image as they lie.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

OF_KERNEL = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float32)
"""The paper's G: from 3 taps to 4 factors, along rows as along columns."""


def conv3x3(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "3 3 inputs features"],
    *,
    dilation: int = 1,
) -> Float[Array, "batch height width features"]:
    """Convolves (cross-correlates) with zeros around the image; the stride is 1.

    The choice of how is made for each platform within one program. Half precision, and images so
    small that tiles would mostly stand out of them, are convolved directly everywhere.
    """
    directly = functools.partial(direct, dilation=dilation)
    height, width = x.shape[1:3]
    products = 16 * _tiles(height, dilation) * _tiles(width, dilation) * dilation**2
    if x.dtype != jnp.float32 or products >= 9 * height * width:
        return directly(x, kernel)
    by_tiles = functools.partial(winograd, dilation=dilation)
    return jax.lax.platform_dependent(x, kernel, cpu=by_tiles, default=directly)


def direct(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "3 3 inputs features"],
    *,
    dilation: int,
) -> Float[Array, "batch height width features"]:
    """Computes `conv3x3` as one convolution."""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        ((dilation, dilation),) * 2,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def winograd(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "3 3 inputs features"],
    *,
    dilation: int,
) -> Float[Array, "batch height width features"]:
    """Computes `conv3x3` as 16 matrix products over the tiles of 2x2 outputs."""
    batch, height, width, inputs = x.shape
    down, across = _tiles(height, dilation), _tiles(width, dilation)
    ends = (2 * dilation * (down + 1) - height, 2 * dilation * (across + 1) - width)
    borders = [(dilation, end - dilation) for end in ends]
    padded = jnp.pad(x, ((0, 0), *borders, (0, 0)))
    # Rows and columns as (tile, first or second, which of the dilation's grids).
    cells = padded.reshape(batch, down + 1, 2, dilation, across + 1, 2, dilation, inputs)
    rows = [cells[:, n // 2 : n // 2 + down, n % 2] for n in range(4)]
    factors = jnp.einsum("ay,bx,yxio->abio", OF_KERNEL, OF_KERNEL, kernel)
    products = []
    for row, row_factors in zip(_of_inputs(*rows), factors, strict=True):
        columns = [row[:, :, :, n // 2 : n // 2 + across, n % 2] for n in range(4)]
        found = map(jnp.matmul, _of_inputs(*columns), row_factors)
        products.append(_of_products(*found))
    left_and_right = [_of_products(*column) for column in zip(*products, strict=True)]
    rows = [jnp.stack(row, 4) for row in zip(*left_and_right, strict=True)]
    outputs = jnp.stack(rows, 2)
    outputs = outputs.reshape(batch, 2 * dilation * down, 2 * dilation * across, -1)
    return outputs[:, :height, :width]


def _tiles(length: int, dilation: int) -> int:
    """Returns how many tiles, of two places in each of the dilation's grids, cover a line."""
    return -(-length // (2 * dilation))


def _of_inputs(a, b, c, d):
    """The paper's B: from 4 inputs along a line to 4 factors."""
    return a - c, b + c, c - b, b - d


def _of_products(a, b, c, d):
    """The paper's A: from 4 products along a line to 2 outputs."""
    return a + b + c, b - c - d
