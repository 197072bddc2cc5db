"""Masked average pooling (Eq. 1, 6) and its counterpart, expansion (Eq. 2, 7)."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def masked_average(
    features: Float[Array, "*batch positions channels"],
    masks: Float[Array, "*batch positions clusters"],
    *,
    epsilon: float = 0.0,
) -> tuple[Float[Array, "*batch clusters channels"], Float[Array, "*batch clusters"]]:
    """Averages features under each of several masks, in one pass over the features.

    Args:
      features: float32 or bfloat16; sums are in float32.
      masks: weights, at least 0.
      epsilon: added to each area, as PFENet does (0.0005).

    Returns:
      The prototypes, and the masks' areas. A mask of area 0 gives a prototype of zeros, whose
      gradient is zero.
    """
    masks = masks.astype(jnp.float32)
    areas = masks.sum(-2)
    sums = jnp.einsum(
        "...pk,...pc->...kc",
        masks.astype(features.dtype),
        features,
        preferred_element_type=jnp.float32,
    )
    inverse = jnp.where(areas > 0, 1.0 / jnp.where(areas > 0, areas + epsilon, 1.0), 0.0)
    return sums * inverse[..., None], areas


def expand(
    prototypes: Float[Array, "*batch clusters channels"],
    assignment: Float[Array, "*batch positions clusters"],
) -> Float[Array, "*batch positions channels"]:
    """Gives each position the prototype that it is assigned to (Eq. 2, 7)."""
    return jnp.einsum("...kc,...pk->...pc", prototypes, assignment.astype(prototypes.dtype))
