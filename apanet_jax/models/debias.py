"""Positional debiasing: what features say of a place in the image, and not of what is there.

Cuttano et al., INSID3: Training-Free In-Context Segmentation with DINOv3, 2026. A transformer's
features of an image without content still differ from position to position. Where features of
different images are compared, the directions in which they do so are projected out.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from apanet_jax.runtime.errors import UserError


def images_without_content(count: int, height: int, width: int) -> UInt8[np.ndarray, "n h w 3"]:
    """Returns a black image and, behind it, `count - 1` of uniform noise, always the same."""
    noise = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), np.uint8)
    noise[0] = 0
    return noise


def positional_basis(
    features: Float[Array, "images height width channels"], rank: int
) -> Float[Array, "channels rank"]:
    """Returns the directions along which features of images without content vary most.

    The leading right singular vectors of the unit features, centred, of all positions.

    Args:
      features: of `images_without_content`.
      rank: how many directions.

    Raises:
      UserError: there are not so many directions, or none would be left.
    """
    channels = features.shape[-1]
    positions = features.size // channels
    most = min(channels, positions) - 1
    if not 1 <= rank <= most:
        raise UserError(
            f"{rank} positional directions of {channels} channels at {positions} positions: "
            f"expected 1 to {most}"
        )
    x = _unit(features.reshape(positions, channels).astype(jnp.float32))
    x -= x.mean(0)
    # Ascending eigenvalues of the scatter matrix are squared singular values.
    _, vectors = jnp.linalg.eigh(jnp.einsum("pc,pd->cd", x, x, precision="highest"))
    return vectors[:, ::-1][:, :rank]


def without_directions(
    features: Float[Array, "*batch channels"], basis: Float[Array, "channels rank"]
) -> Float[Array, "*batch channels"]:
    """Returns unit features without their components along a basis of orthonormal columns.

    What is left is not scaled to unit length again; cosines do not see it.
    """
    x = _unit(features.astype(jnp.float32))
    along = jnp.einsum("...c,cr->...r", x, basis, precision="highest")
    left = x - jnp.einsum("...r,cr->...c", along, basis, precision="highest")
    return left.astype(features.dtype)


def _unit(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
    squares = jnp.sum(jnp.square(x), -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.maximum(squares, 1e-12))
