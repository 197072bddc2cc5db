"""Bilinear resizing with aligned corners, as two small matrix products."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear_matrix(size_in: int, size_out: int) -> Float[np.ndarray, "size_out size_in"]:
    """Returns the matrix that resamples a line of `size_in` samples to `size_out`.

    Corners are aligned: the first and last samples keep their values (PyTorch's
    `interpolate(mode="bilinear", align_corners=True)`), and a single output takes the first sample.
    """
    step = (size_in - 1) / (size_out - 1) if size_out > 1 else 0.0
    position = np.arange(size_out) * step
    low = np.minimum(np.floor(position).astype(int), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = position - low
    matrix = np.zeros((size_out, size_in), np.float64)
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1.0 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix.astype(np.float32)


def resize_bilinear(
    x: Float[Array, "*batch height width channels"], size: tuple[int, int]
) -> Float[Array, "*batch new_height new_width channels"]:
    """Resizes the two spatial axes of `x` to `size` (height, width) with aligned corners."""
    height, width = x.shape[-3:-1]
    if (height, width) == tuple(size):
        return x
    rows = jnp.asarray(bilinear_matrix(height, size[0]), x.dtype)
    columns = jnp.asarray(bilinear_matrix(width, size[1]), x.dtype)
    x = jnp.einsum("Hh,...hwc->...Hwc", rows, x, precision="highest")
    return jnp.einsum("Ww,...Hwc->...HWc", columns, x, precision="highest")
