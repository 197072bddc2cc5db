"""The parts of the class-agnostic branch (Eq. 4 to 7), which `APANet` puts together in training.

A query is compared with itself: its positions are clustered, each cluster's background gives a
prototype, and background positions get their own cluster's prototype, foreground positions that of
a cluster drawn at random.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.kernels.pooling import masked_average
from apanet_jax.models.prototypes import grid_regions, region_prototypes

_NORM_EPSILON = 1e-6

Regions = Literal["kmeans", "grid", "support"]


def partition(
    features: Float[Array, "batch height width channels"],
    known: Float[Array, "batch height width"],
    count: int,
    *,
    regions: Regions = "kmeans",
    rounds: int = 10,
    init: str = "farthest",
    key: PRNGKeyArray | None = None,
) -> Int[Array, "batch height width"]:
    """Returns the region of each position of the queries, from 0 on (Eq. 4).

    Args:
      features: of the queries.
      known: share of each position whose label is not 255; the clusters are those of positions with
        at least half.
      count: the paper's n.
      regions: "kmeans", clusters as in the paper; "grid", cells of a square grid of which there are
        n; "support", one region.
      rounds: of k-means.
      init: of k-means, see `kernels.kmeans`.
      key: of k-means.
    """
    batch, height, width, channels = features.shape
    if regions == "support":
        return jnp.zeros((batch, height, width), jnp.int32)
    if regions == "grid":
        cells = grid_regions(height, width, math.isqrt(count))
        return jnp.broadcast_to(cells, (batch, height, width))
    found = kmeans(
        features.reshape(batch, height * width, channels),
        count,
        rounds=rounds,
        weights=(known.reshape(batch, -1) >= 0.5).astype(jnp.float32),
        init=init,
        key=key,
    )
    return found.assignment.reshape(batch, height, width)


def resembling(
    query: Float[Array, "batch height width channels"],
    support: Float[Array, "batch shot height width channels"],
    foreground: Float[Array, "batch shot height width"],
    clusters: Int[Array, "batch height width"],
    background: Float[Array, "batch height width"],
    count: int,
    limit: float,
) -> Float[Array, "batch height width"]:
    """Returns 1 where the background of a position's cluster is too much like the supports' object.

    Args:
      query: features of the queries.
      support: features of the supports.
      foreground: share of each position of the supports that is the class.
      clusters: what `partition` returned.
      background: share of each position of the queries that is background.
      count: of the clusters.
      limit: the cosine of a cluster's mean to the foreground's mean that is too much.
    """
    means, areas = region_prototypes(query, clusters, background, count)
    shots = support.reshape(len(support), -1, support.shape[-1])
    mean_object, _ = masked_average(shots, foreground.reshape(len(shots), -1, 1))
    norms = jnp.linalg.norm(means, axis=-1) * jnp.linalg.norm(mean_object, axis=-1)
    cosines = jnp.sum(means * mean_object, -1) / jnp.maximum(norms, _NORM_EPSILON)
    excluded = ((cosines > limit) & (areas > 0)).astype(jnp.float32)
    flat = jnp.take_along_axis(excluded, clusters.reshape(len(shots), -1), 1)
    return flat.reshape(clusters.shape)


def expansion(
    clusters: Int[Array, "batch height width"],
    areas: Float[Array, "batch clusters"],
    foreground: Float[Array, "batch height width"],
    key: PRNGKeyArray,
    negatives: int = 1,
) -> Float[Array, "negatives_times_batch height width clusters"]:
    """Returns which prototype each position is compared with, as weights of 0 and 1 (Eq. 7).

    Background positions get their own cluster's; all foreground positions of an image that of
    one cluster that is not empty, drawn at random. Several negatives are different clusters, as far
    as there are that many.

    Args:
      clusters: what `partition` returned.
      areas: of the clusters' background.
      foreground: share of each position that is the class; foreground has at least half.
      key: of the draw.
      negatives: draws; the batch comes back once for each, whole after whole.
    """
    count, present = areas.shape[-1], areas > 0
    drawn = jax.random.gumbel(key, areas.shape)
    order = jnp.argsort(jnp.where(present, drawn, -jnp.inf), axis=-1, descending=True)
    rank = jnp.arange(negatives) % jnp.maximum(present.sum(-1, keepdims=True), 1)
    chosen = jnp.take_along_axis(order, rank, -1)
    negative = jax.nn.one_hot(chosen.T.reshape(-1), count)[:, None, None]
    own = jax.nn.one_hot(clusters, count)
    inside = repeated(foreground, negatives)[..., None] >= 0.5
    return jnp.where(inside, negative, repeated(own, negatives))


def repeated(x: Float[Array, "batch *rest"], times: int) -> Float[Array, "times_batch *rest"]:
    """Repeats a batch, whole after whole."""
    return jnp.tile(x, (times, *[1] * (x.ndim - 1)))
