"""The first half of a round of k-means: each position's nearest centre."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import jax
import jax.numpy as jnp

from apanet_jax.kernels.plans import ACCELERATOR, Plan, block_length, fold_blocks, widen_block
from apanet_jax.kernels.precision import einsum, joined, split
from apanet_jax.kernels.unit_vectors import inverse_norm

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

Metric = Literal["cosine", "euclidean"]


def assign(
    features: Float[Array, "batch positions channels"],
    centres: Float[Array, "batch clusters channels"],
    *,
    scale: Float[Array, "batch positions"] | None = None,
    metric: Metric = "cosine",
    plan: Plan = ACCELERATOR,
) -> tuple[Int[Array, "batch positions"], Float[Array, "batch positions"]]:
    """Returns the nearest centre of each position, of equals the first, and how similar it is.

    Args:
      features: float32 or bfloat16.
      centres: unit vectors where the metric is the cosine.
      scale: inverse norms of the positions, if they are known already.
      metric: the similarity is the cosine, or <x, c> - |c|^2 / 2.
      plan: how to cut the work.
    """
    if scale is None:
        scale = position_scale(features, metric)

    def add(found, start, _, features, scale):
        nearest, largest = _nearest(features, scale, centres, metric, plan)
        if nearest.shape == found[0].shape:
            return nearest, largest
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(whole, part, start, 1)
            for whole, part in zip(found, (nearest, largest), strict=True)
        )

    empty = jnp.zeros(scale.shape, jnp.int32), jnp.zeros(scale.shape, jnp.float32)
    length = block_length(features, centres.shape[1], plan)
    return fold_blocks(add, empty, length, features, scale)


def position_scale(
    features: Float[Array, "batch positions channels"], metric: Metric
) -> Float[Array, "batch positions"]:
    """Returns what each position is multiplied by: its inverse norm for the cosine, or 1."""
    if metric == "cosine":
        return inverse_norm(features)
    return jnp.ones(features.shape[:-1], jnp.float32)


def similarities(
    features: Float[Array, "batch positions channels"],
    vectors: Float[Array, "batch clusters channels"],
) -> Float[Array, "batch positions clusters"]:
    """Returns <features, vectors> in float32, whatever the features' type.

    Features of low precision are not converted: the vectors are split into two parts of that
    precision, whose sum is theirs to 16 bits.
    """
    clusters = vectors.shape[1]
    parts = split(vectors, features.dtype, axis=1)
    return joined(einsum("bpc,bkc->bpk", features, parts), clusters, axis=-1)


def _nearest(features, scale, centres, metric, plan):
    clusters = centres.shape[1]
    if features.dtype == jnp.float32 and clusters <= plan.reduce_up_to:
        products = [jnp.sum(features * centres[:, None, k], -1) for k in range(clusters)]
        similarity = jnp.stack(products, -1)
    else:
        width = dict(plan.widths).get(clusters, clusters)
        wider = jnp.pad(centres, ((0, 0), (0, width - clusters), (0, 0)))
        similarity = similarities(widen_block(features, plan), wider)[..., :clusters]
    if metric == "cosine":
        similarity = similarity * scale[..., None]
    else:
        similarity = similarity - 0.5 * jnp.sum(jnp.square(centres), -1)[:, None]
    return jnp.argmax(similarity, -1).astype(jnp.int32), jnp.max(similarity, -1)
