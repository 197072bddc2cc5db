"""Bilinear and bicubic resizing and average pooling, as two small matrix products each."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def bilinear_matrix(
    size_in: int, size_out: int, *, centred: bool = False
) -> Float[np.ndarray, "size_out size_in"]:
    """Returns the matrix that resamples a line of `size_in` samples to `size_out`.

    Args:
      size_in: number of samples.
      size_out: number of outputs.
      centred: whether samples stand for the middles of equal stretches of the line (PyTorch's
        `align_corners=False`). Otherwise corners are aligned: the first and last samples keep their
        values (`align_corners=True`), and a single output takes the first sample.
    """
    if centred:
        position = (np.arange(size_out) + 0.5) * (size_in / size_out) - 0.5
        position = position.clip(0, size_in - 1)
    else:
        position = np.arange(size_out) * ((size_in - 1) / (size_out - 1) if size_out > 1 else 0.0)
    low = np.minimum(np.floor(position).astype(int), size_in - 1)
    high = np.minimum(low + 1, size_in - 1)
    fraction = position - low
    matrix = np.zeros((size_out, size_in), np.float64)
    rows = np.arange(size_out)
    np.add.at(matrix, (rows, low), 1.0 - fraction)
    np.add.at(matrix, (rows, high), fraction)
    return matrix.astype(np.float32)


def resize_bilinear(
    x: Float[Array, "*batch height width channels"],
    size: tuple[int, int],
    *,
    centred: bool = False,
) -> Float[Array, "*batch new_height new_width channels"]:
    """Resizes the two spatial axes of `x` to `size` (height, width) as `bilinear_matrix`."""
    height, width = x.shape[-3:-1]
    if (height, width) == tuple(size):
        return x
    rows = bilinear_matrix(height, size[0], centred=centred)
    return _product(x, rows, bilinear_matrix(width, size[1], centred=centred))


def bicubic_matrix(
    size_in: int, size_out: int, *, smooth: bool = False
) -> Float[np.ndarray, "size_out size_in"]:
    """Returns the matrix that resamples a line of `size_in` samples to `size_out` by cubics.

    Samples stand for pixels of equal area (corners are not aligned); beyond the ends the last
    sample goes on. PyTorch's `interpolate(mode="bicubic", size=..., align_corners=False)`.

    Args:
      size_in: number of samples.
      size_out: number of outputs.
      smooth: PyTorch's `antialias=True`: a line that gets shorter is low-pass filtered, there is
        nothing beyond the ends, and the cubic is another one (Keys's a is -0.5 instead of -0.75).

    Source: Keys, Cubic Convolution Interpolation for Digital Image Processing, 1981.
    """
    scale = size_in / size_out
    centre = (np.arange(size_out)[:, None] + 0.5) * scale - 0.5
    if smooth:
        samples = np.arange(size_in)
        matrix = _cubic((samples - centre) / max(scale, 1.0), -0.5)
        matrix /= matrix.sum(1, keepdims=True)
        return matrix.astype(np.float32)
    taps = np.floor(centre).astype(int) + np.arange(-1, 3)
    matrix = np.zeros((size_out, size_in), np.float64)
    rows = np.broadcast_to(np.arange(size_out)[:, None], taps.shape)
    np.add.at(matrix, (rows, taps.clip(0, size_in - 1)), _cubic(taps - centre, -0.75))
    return matrix.astype(np.float32)


def resize_bicubic(
    x: Float[Array, "*batch height width channels"], size: tuple[int, int], *, smooth: bool = False
) -> Float[Array, "*batch new_height new_width channels"]:
    """Resizes the two spatial axes of `x` to `size` (height, width) as `bicubic_matrix`."""
    height, width = x.shape[-3:-1]
    if (height, width) == tuple(size):
        return x
    rows = bicubic_matrix(height, size[0], smooth=smooth)
    return _product(x, rows, bicubic_matrix(width, size[1], smooth=smooth))


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


def at_size(
    mask, size: tuple[int, int], *, centred: bool = False
) -> Float[Array, "*batch height width"]:
    """Resizes masks to the features' size.

    Args:
      mask: true or 1 where an object is, `[..., H, W]`.
      size: height and width of the features.
      centred: whether positions stand for squares, which then take the mask's mean; otherwise they
        take its value where they lie (bilinear, aligned corners).
    """
    mask = mask.astype(jnp.float32)[..., None]
    return (adaptive_average_pool if centred else resize_bilinear)(mask, size)[..., 0]


def _cubic(distance: Float[np.ndarray, "*shape"], a: float) -> Float[np.ndarray, "*shape"]:
    d = np.abs(distance)
    inner = ((a + 2) * d - (a + 3)) * d * d + 1
    outer = (((d - 5) * d + 8) * d - 4) * a
    return np.where(d < 1, inner, np.where(d < 2, outer, 0.0))


def _product(x, rows, columns) -> Float[Array, "*batch new_height new_width channels"]:
    rows, columns = jnp.asarray(rows, x.dtype), jnp.asarray(columns, x.dtype)
    x = jnp.einsum("Hh,...hwc->...Hwc", rows, x, precision="highest")
    return jnp.einsum("Ww,...Hwc->...HWc", columns, x, precision="highest")
