"""Where k-means starts: positions of each image chosen as its first centres."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, NamedTuple

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
    scale = position_scale(features, metric)
    positions = _Positions(features, scale, _squared_length(features, metric), metric, plan)
    # log of 1 where a position may be chosen, and of 0 elsewhere.
    positive = (weights > 0) | ~(weights > 0).any(-1, keepdims=True)
    allowed = jnp.where(positive, jnp.float32(0), -jnp.inf)
    if init == "random":
        noise = jax.vmap(lambda key: jax.random.gumbel(key, weights.shape[1:], jnp.float32))(keys)
        _, chosen = jax.lax.top_k(allowed + noise, num_clusters)
        return jax.vmap(positions.vector, in_axes=1, out_axes=1)(chosen)

    draw = jax.vmap(jax.random.categorical)
    if keys is None:
        first = jnp.argmin(positions.distance(_mean(positions, weights)) - allowed, -1)
    else:
        keys = jax.vmap(functools.partial(jax.random.split, num=num_clusters))(keys)
        first = draw(keys[:, 0], allowed)

    def choose(number, state):
        centres, nearest = state
        nearest = jnp.minimum(nearest, positions.distance(centres[:, number - 1]))
        if init == "farthest":
            position = jnp.argmax(allowed + nearest, -1)
        else:
            position = draw(keys[:, number], allowed + jnp.log(weights * nearest + _TINY))
        return centres.at[:, number].set(positions.vector(position)), nearest

    centres = jnp.zeros((*features.shape[:1], num_clusters, features.shape[-1]), jnp.float32)
    centres = centres.at[:, 0].set(positions.vector(first))
    unknown = jnp.full(weights.shape, jnp.inf, jnp.float32)
    centres, _ = jax.lax.fori_loop(1, num_clusters, choose, (centres, unknown))
    return centres


class _Positions(NamedTuple):
    features: Float[Array, "batch positions channels"]
    scale: Float[Array, "batch positions"]
    squared_length: Float[Array, "batch positions"] | float
    metric: Metric
    plan: Plan

    def vector(self, position):
        """Returns the scaled vector of one position of each image."""
        chosen = jnp.take_along_axis(self.features, position[:, None, None], axis=1)[:, 0]
        scale = jnp.take_along_axis(self.scale, position[:, None], axis=1)
        return chosen.astype(jnp.float32) * scale

    def distance(self, vector):
        """Returns the distance of each position to a vector of its image."""
        _, similarity = assign(
            self.features, vector[:, None], scale=self.scale, metric=self.metric, plan=self.plan
        )
        # Of the similarity <x, c> - |c|^2 / 2, the squared distance is |x|^2 less two of it.
        factor = 1.0 if self.metric == "cosine" else 2.0
        return jnp.maximum(self.squared_length - factor * similarity, 0.0)


def _squared_length(features, metric):
    if metric == "cosine":
        return 1.0
    return jnp.sum(jnp.square(features.astype(jnp.float32)), -1)


def _mean(positions, weights):
    """Returns the weighted mean, or for the cosine its direction."""
    one = jnp.zeros(weights.shape, jnp.int32)
    features, scale, _, metric, plan = positions
    sums = cluster_sums(features, weights, one, num_clusters=1, scale=scale, plan=plan)
    mass = jnp.sum(weights, -1, keepdims=True)
    mean = sums[:, 0] / jnp.where(mass > 0, mass, 1.0)
    return unit(mean) if metric == "cosine" else mean
