"""Where k-means starts: positions of each picture chosen as its first centres."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from apanet_jax.kernels.lloyd import ACCELERATOR, Plan, assign, cluster_sums, inverse_norm, unit

if TYPE_CHECKING:
    from jaxtyping import Array, Float, PRNGKeyArray

Init = Literal["farthest", "k-means++", "random"]
INITS = ("farthest", "k-means++", "random")

_TINY = 1e-12


def initial_centres(
    features: Float[Array, "batch positions channels"],
    weights: Float[Array, "batch positions"],
    keys: PRNGKeyArray | None,
    *,
    num_clusters: int,
    init: Init = "farthest",
    plan: Plan = ACCELERATOR,
) -> Float[Array, "batch clusters channels"]:
    """Returns unit vectors of chosen positions, or zeros where a chosen one is a zero vector.

    "farthest" and "k-means++" read the features once a centre.

    Args:
      features: float32 or bfloat16.
      weights: positions of weight 0 are chosen only where there are no others.
      keys: one a picture; None is for "farthest" only, and starts with the position closest to the
        mean direction.
      num_clusters: how many centres.
      init: see `kmeans`.
      plan: how to cut the work.
    """
    allowed = jnp.where(weights > 0, 0.0, -jnp.inf)
    allowed = jnp.where(jnp.isfinite(allowed.max(-1, keepdims=True)), allowed, 0.0)
    scale = inverse_norm(features)

    def centre(position):
        chosen = jnp.take_along_axis(features, position[:, None, None], axis=1)[:, 0]
        return chosen.astype(jnp.float32) * jnp.take_along_axis(scale, position[:, None], axis=1)

    def cosine(vector):
        return assign(features, vector[:, None], scale=scale, plan=plan)[1]

    if init == "random":
        noise = jax.vmap(lambda key: jax.random.gumbel(key, weights.shape[1:]))(keys)
        _, chosen = jax.lax.top_k(allowed + noise, num_clusters)
        return jax.vmap(centre, in_axes=1, out_axes=1)(chosen)

    draw = jax.vmap(jax.random.categorical)
    if keys is None:
        anything = jnp.zeros((features.shape[0], 1, features.shape[2]), jnp.float32)
        total, _ = cluster_sums(features, weights, anything, scale=scale, plan=plan)
        first = jnp.argmax(allowed + cosine(unit(total[:, 0])), -1)
    else:
        keys = jax.vmap(functools.partial(jax.random.split, num=num_clusters))(keys)
        first = draw(keys[:, 0], allowed)

    def choose(number, state):
        centres, nearest = state
        nearest = jnp.maximum(nearest, cosine(centres[:, number - 1]))
        distance = jnp.maximum(1.0 - nearest, 0.0)
        if init == "farthest":
            position = jnp.argmax(allowed + distance, -1)
        else:
            position = draw(keys[:, number], allowed + jnp.log(weights * distance + _TINY))
        return centres.at[:, number].set(centre(position)), nearest

    centres = jnp.zeros((*features.shape[:1], num_clusters, features.shape[-1]), jnp.float32)
    centres = centres.at[:, 0].set(centre(first))
    centres, _ = jax.lax.fori_loop(
        1, num_clusters, choose, (centres, jnp.full(weights.shape, -1.0))
    )
    return centres
