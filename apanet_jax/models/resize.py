"""Bilinear resizing and adaptive average pooling, as two small matrix products each."""

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
    return _product(x, bilinear_matrix(height, size[0]), bilinear_matrix(width, size[1]))


def adaptive_average_matrix(size_in: int, size_out: int) -> Float[np.ndarray, "size_out size_in"]:
    """Returns the matrix that pools a line of `size_in` samples to `size_out` means.

    Output i is the mean of the samples from floor(i size_in / size_out) up to, but without,
    ceil((i + 1) size_in / size_out): PyTorch's `AdaptiveAvgPool2d`. Neighbours may share a sample,
    and there may be more outputs than samples.
    """
    outputs = np.arange(size_out)
    first = outputs * size_in // size_out
    end = -(-(outputs + 1) * size_in // size_out)
    samples = np.arange(size_in)
    inside = (samples >= first[:, None]) & (samples < end[:, None])
    return (inside / (end - first)[:, None]).astype(np.float32)


def adaptive_average_pool(
    x: Float[Array, "*batch height width channels"], size: tuple[int, int]
) -> Float[Array, "*batch new_height new_width channels"]:
    """Pools the two spatial axes of `x` to `size` (height, width) as `adaptive_average_matrix`."""
    height, width = x.shape[-3:-1]
    if (height, width) == tuple(size):
        return x
    rows = adaptive_average_matrix(height, size[0])
    return _product(x, rows, adaptive_average_matrix(width, size[1]))


def _product(x, rows, columns) -> Float[Array, "*batch new_height new_width channels"]:
    rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    x = jnp.einsum("Hh,...hwc->...Hwc", rows, x, precision="highest")
    return jnp.einsum("Ww,...Hwc->...HWc", columns, x, precision="highest")
