"""Types of features, and products with float32 sums whatever that type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from jaxtyping import Array, Float


def as_features(x: Float[Array, "*_"]) -> Float[Array, "*_"]:
    """Returns float32 and bfloat16 as they are, and anything else in float32."""
    x = jnp.asarray(x)
    return x if x.dtype in (jnp.float32, jnp.bfloat16) else x.astype(jnp.float32)


def einsum(equation: str, a: Float[Array, "*_"], b: Float[Array, "*_"]) -> Float[Array, "*_"]:
    """Returns `jnp.einsum` in float32: float32 factors are not shortened on any device."""
    # Without it, float32 products are made in TF32 on GPUs and in bfloat16 on TPUs.
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.einsum(equation, a, b, precision=precision, preferred_element_type=jnp.float32)


def split(x: Float[Array, "*_"], dtype: jnp.dtype, axis: int) -> Float[Array, "*_"]:
    """Returns float32 values as two parts of a lower precision, side by side along an axis.

    Their sum is x to 16 bits where the type is bfloat16. So x can be multiplied with features of
    that type without converting those. float32 is returned as it is, in one part.
    """
    if dtype == jnp.float32:
        return x
    info = jnp.finfo(dtype)
    # A conversion there and back would be optimised away.
    high = jax.lax.reduce_precision(x, info.nexp, info.nmant)
    return jnp.concatenate([high.astype(dtype), (x - high).astype(dtype)], axis)


def joined(products: Float[Array, "*_"], length: int, axis: int) -> Float[Array, "*_"]:
    """Returns the sum of the parts of `length` that `split` put side by side."""
    return sum(jnp.split(products, products.shape[axis] // length, axis=axis))
