"""Norms of feature vectors, in float32 whatever the features' type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def inverse_norm(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch"]:
    """Returns 1 / |x|, and 0 for zero vectors; exact for norms between 1e-18 and 1e19."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), -1)
    return jnp.where(squares > 0, jax.lax.rsqrt(jnp.maximum(squares, jnp.float32(1e-37))), 0.0)


def unit(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
    """Returns x / |x| in float32, and zeros for zero vectors."""
    x = x.astype(jnp.float32)
    return x * inverse_norm(x)[..., None]
