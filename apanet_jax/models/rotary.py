"""Rotary positions of DINOv3: queries and keys are turned by angles that tell where a patch lies.

Heo et al., Rotary Position Embedding for Vision Transformer. Coordinates are those of the patches'
centres, from -1 to 1 along each side whatever the image's size; half of a head's channels turn by
the row, half by the column, with periods that grow geometrically from 1 to `BASE`.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

BASE = 100.0


class Rotation(NamedTuple):
    """Cosines and sines of each token's angles.

    Attributes:
      cosine: 1 for tokens that have no place.
      sine: 0 for them.
    """

    cosine: Float[np.ndarray, "tokens channels"]
    sine: Float[np.ndarray, "tokens channels"]


def rotations(rows: int, columns: int, channels: int, before: int) -> Rotation:
    """Returns the rotations of an image's tokens.

    Args:
      rows: of patches.
      columns: of patches.
      channels: of a head, a multiple of 4.
      before: how many tokens without a place stand before the patches.
    """
    frequencies = BASE ** -(np.arange(channels // 4) / (channels // 4))

    def along(count):
        coordinates = 2 * (np.arange(count) + 0.5) / count - 1
        return 2 * np.pi * coordinates[:, None] * frequencies

    shape = (rows, columns, channels // 4)
    by_row = np.broadcast_to(along(rows)[:, None], shape)
    by_column = np.broadcast_to(along(columns)[None], shape)
    angles = np.concatenate([by_row, by_column] * 2, -1).reshape(rows * columns, channels)
    angles = np.concatenate([np.zeros((before, channels)), angles])
    return Rotation(np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32))


def rotate(
    x: Float[Array, "batch tokens heads channels"], rotation: Rotation
) -> Float[Array, "batch tokens heads channels"]:
    """Turns the pairs of channels (c, c + channels / 2) of every head; computed in float32."""
    wide = x.astype(jnp.float32)
    first, second = jnp.split(wide, 2, -1)
    turned = jnp.concatenate([-second, first], -1)
    cosine, sine = (jnp.asarray(part)[:, None] for part in rotation)
    return (wide * cosine + turned * sine).astype(x.dtype)
