"""Where k-means starts: positions of each image chosen as its first centres."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from apanet_jax.kernels.assignment import Metric, assign, position_scale
from apanet_jax.kernels.cluster_sums import cluster_sums
from apanet_jax.kernels.plans import ACCELERATOR, Plan
from apanet_jax.kernels.unit_vectors import unit

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
    metric: Metric = "cosine",
    plan: Plan = ACCELERATOR,
) -> Float[Array, "batch clusters channels"]:
    """Returns the vectors of chosen positions; where the metric is the cosine, made unit vectors.

    "farthest" and "k-means++" read the features once a centre.

    Args:
      features: float32 or bfloat16.
      weights: positions of weight 0 are chosen only where there are no others.
      keys: one for each image; None is for "farthest" only, and starts with the position closest
        to the mean direction.
      num_clusters: number of centres.
      init: see `kmeans`.
      metric: distances are 1 - cosine, or squared Euclidean.
      plan: how to cut the work.
    """
    # log of 1 where a position may be chosen, and of 0 elsewhere.
    positive = (weights > 0) | ~(weights > 0).any(-1, keepdims=True)
    allowed = jnp.where(positive, jnp.float32(0), -jnp.inf)
    cosine = metric == "cosine"
    scale = position_scale(features, metric)
    # Of the similarity <x, c> - |c|^2 / 2, the squared distance is |x|^2 less two of it.
    offset = 1.0 if cosine else jnp.sum(jnp.square(features.astype(jnp.float32)), -1)

    def centre(position):
        chosen = jnp.take_along_axis(features, position[:, None, None], axis=1)[:, 0]
        return chosen.astype(jnp.float32) * jnp.take_along_axis(scale, position[:, None], axis=1)

    def distance(vector):
        found = assign(features, vector[:, None], scale=scale, metric=metric, plan=plan)
        return jnp.maximum(offset - (1.0 if cosine else 2.0) * found[1], 0.0)

    if init == "random":
        noise = jax.vmap(lambda key: jax.random.gumbel(key, weights.shape[1:], jnp.float32))(keys)
        _, chosen = jax.lax.top_k(allowed + noise, num_clusters)
        return jax.vmap(centre, in_axes=1, out_axes=1)(chosen)

    draw = jax.vmap(jax.random.categorical)
    if keys is None:
        everywhere = jnp.zeros(weights.shape, jnp.int32)
        sums = cluster_sums(features, weights, everywhere, num_clusters=1, scale=scale, plan=plan)
        mass = jnp.sum(weights, -1, keepdims=True)
        mean = sums[:, 0] / jnp.where(mass > 0, mass, 1.0)
        first = jnp.argmin(distance(unit(mean) if cosine else mean) - allowed, -1)
    else:
        keys = jax.vmap(functools.partial(jax.random.split, num=num_clusters))(keys)
        first = draw(keys[:, 0], allowed)

    def choose(number, state):
        centres, nearest = state
        nearest = jnp.minimum(nearest, distance(centres[:, number - 1]))
        if init == "farthest":
            position = jnp.argmax(allowed + nearest, -1)
        else:
            position = draw(keys[:, number], allowed + jnp.log(weights * nearest + _TINY))
        return centres.at[:, number].set(centre(position)), nearest

    centres = jnp.zeros((*features.shape[:1], num_clusters, features.shape[-1]), jnp.float32)
    centres = centres.at[:, 0].set(centre(first))
    unknown = jnp.full(weights.shape, jnp.inf, jnp.float32)
    centres, _ = jax.lax.fori_loop(1, num_clusters, choose, (centres, unknown))
    return centres
