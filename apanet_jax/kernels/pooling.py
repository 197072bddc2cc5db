"""Masked average pooling (Eq. 1, 6) and its counterpart, expansion (Eq. 2, 7)."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from apanet_jax.kernels.precision import as_features, einsum, joined, split

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


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
    features, masks = as_features(features), jnp.asarray(masks, jnp.float32)
    areas = masks.sum(-2)
    sums = einsum("...pk,...pc->...kc", split(masks, features.dtype, -1), features)
    return joined(sums, masks.shape[-1], -2) * _inverse(areas, epsilon)[..., None], areas


def cluster_average(
    features: Float[Array, "*batch positions channels"],
    assignment: Int[Array, "*batch positions"],
    weights: Float[Array, "*batch positions"],
    num_clusters: int,
    *,
    epsilon: float = 0.0,
) -> tuple[Float[Array, "*batch clusters channels"], Float[Array, "*batch clusters"]]:
    """Averages the features of each cluster, in one pass over the features (Eq. 5, 6).

    The prototype of cluster k is the sum over its positions of weight times feature, over its area
    (the sum of those weights) plus `epsilon`. A position of weight 0, as the foreground is where
    the background's clusters are wanted, does not count. Equal to `masked_average` with the masks
    [assignment = k] * weight. Only the features have a gradient: each position's is that of its
    own prototype times its weight, without a product over the clusters.

    Args:
      features: float32 or bfloat16; sums are in float32.
      assignment: 0 to num_clusters - 1; a position with any other number does not count.
      weights: at least 0; no gradient flows to them.
      num_clusters: at least 1.
      epsilon: added to each area.

    Returns:
      The prototypes, and the clusters' areas. An empty cluster's prototype is zeros.
    """
    weights = jnp.asarray(weights, jnp.float32)
    num_clusters = operator.index(num_clusters)
    return _cluster_average(as_features(features), assignment, weights, num_clusters, epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _cluster_average(features, assignment, weights, num_clusters, epsilon):
    member = assignment[..., None] == jnp.arange(num_clusters)
    return masked_average(features, member * weights[..., None], epsilon=epsilon)


def _forward(features, assignment, weights, num_clusters, epsilon):
    prototypes, areas = _cluster_average(features, assignment, weights, num_clusters, epsilon)
    # Of the features only the type is needed: an empty array carries it.
    kind = jnp.zeros(0, features.dtype)
    return (prototypes, areas), (assignment, weights * _inside(assignment, areas), areas, kind)


def _backward(num_clusters, epsilon, kept, gradients):
    assignment, weights, areas, kind = kept
    each = gradients[0] * _inverse(areas, epsilon)[..., None]
    own = jnp.take_along_axis(each, assignment[..., None], axis=-2, mode="clip")
    return (weights[..., None] * own).astype(kind.dtype), None, jnp.zeros_like(weights)


_cluster_average.defvjp(_forward, _backward)


def _inside(assignment, areas):
    return (assignment >= 0) & (assignment < areas.shape[-1])


def _inverse(areas, epsilon):
    return jnp.where(areas > 0, 1.0 / jnp.where(areas > 0, areas + epsilon, 1.0), 0.0)


def expand(
    prototypes: Float[Array, "*batch clusters channels"],
    assignment: Float[Array, "*batch positions clusters"],
) -> Float[Array, "*batch positions channels"]:
    """Gives each position the prototype that it is assigned to, in float32 (Eq. 2, 7)."""
    prototypes = as_features(prototypes)
    return einsum("...kc,...pk->...pc", prototypes, assignment.astype(prototypes.dtype))
