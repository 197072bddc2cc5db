"""The second half of a round of k-means: the sum over each cluster's positions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from apanet_jax.kernels.plans import ACCELERATOR, Plan, block_length, fold_blocks, widen_block
from apanet_jax.kernels.precision import einsum, joined, split

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


def cluster_sums(
    features: Float[Array, "batch positions channels"],
    weights: Float[Array, "batch positions"],
    assignment: Int[Array, "batch positions"],
    *,
    num_clusters: int,
    scale: Float[Array, "batch positions"],
    plan: Plan = ACCELERATOR,
) -> Float[Array, "batch clusters channels"]:
    """Returns the sum of weight times scale times feature over each cluster's positions.

    Args:
      features: float32 or bfloat16.
      weights: at least 0.
      assignment: 0 to num_clusters - 1.
      num_clusters: at least 1.
      scale: inverse norms for the cosine, ones for Euclidean distance.
      plan: how to cut the work.
    """
    batch, _, channels = features.shape

    def add(sums, _, fresh, features, share, assignment):
        features = widen_block(features, plan)
        share = jnp.where(fresh, share, 0.0)
        if _scatters(num_clusters, plan):
            image = jnp.arange(batch)[:, None]
            return sums.at[image, assignment].add(features.astype(jnp.float32) * share[..., None])
        member = assignment[..., None] == jnp.arange(num_clusters)
        parts = split(member * share[..., None], features.dtype, axis=2)
        return sums + joined(einsum("bpk,bpc->bkc", parts, features), num_clusters, axis=1)

    nothing = jnp.zeros((batch, num_clusters, channels), jnp.float32)
    length = block_length(features, num_clusters, plan)
    return fold_blocks(add, nothing, length, features, weights * scale, assignment)


def cluster_masses(
    weights: Float[Array, "batch positions"],
    assignment: Int[Array, "batch positions"],
    num_clusters: int,
    plan: Plan,
) -> Float[Array, "batch clusters"]:
    """Returns each cluster's sum of weights."""

    def add(masses, _, fresh, weights, assignment):
        weights = jnp.where(fresh, weights, 0.0)
        if _scatters(num_clusters, plan):
            return masses.at[jnp.arange(len(masses))[:, None], assignment].add(weights)
        member = assignment[:, None] == jnp.arange(num_clusters)[:, None]
        return masses + jnp.sum(jnp.where(member, weights[:, None], 0.0), -1)

    length = block_length(weights[..., None], num_clusters, ACCELERATOR)
    nothing = jnp.zeros((len(weights), num_clusters), jnp.float32)
    return fold_blocks(add, nothing, length, weights, assignment)


def _scatters(clusters, plan) -> bool:
    return plan.scatter_above is not None and clusters > plan.scatter_above


class Changes(NamedTuple):
    """The positions that changed their cluster, of all images of the batch: the first `count`.

    Positions are numbered through the batch. `old` and `new` are, for every position, the rows of
    the sums, numbered through as well; `share` is its weight times its scale.
    """

    count: Int[Array, ""]
    positions: Int[Array, " all_positions"]
    old: Int[Array, " all_positions"]
    new: Int[Array, " all_positions"]
    share: Float[Array, " all_positions"]


def list_changes(
    before: Int[Array, "batch positions"],
    after: Int[Array, "batch positions"],
    share: Float[Array, "batch positions"],
    num_clusters: int,
) -> Changes:
    """Lists the positions that two assignments differ in, where they have a share."""
    moved = ((after != before) & (share != 0)).reshape(-1)

    def enlist(position, state):
        # The entry of a position that did not move is overwritten by the next.
        listed, count = state
        position = jnp.asarray(position, jnp.int32)
        listed = jax.lax.dynamic_update_index_in_dim(listed, position, count, 0)
        return listed, count + moved[position].astype(jnp.int32)

    # On a CPU, the only place where it is used, faster than a cumulative sum and a scatter.
    empty = jnp.zeros(moved.size, jnp.int32), jnp.int32(0)
    listed, count = jax.lax.fori_loop(0, moved.size, enlist, empty)
    rows = num_clusters * jnp.arange(len(before), dtype=jnp.int32)[:, None]
    old, new = ((rows + x).reshape(-1) for x in (before, after))
    return Changes(count, listed, old, new, share.reshape(-1))


def correct_sums(
    sums: Float[Array, "batch clusters channels"],
    features: Float[Array, "batch positions channels"],
    changes: Changes,
) -> Float[Array, "batch clusters channels"]:
    """Takes each position that moved from its old cluster's sum, and adds it to its new one's."""
    features = features.reshape(-1, features.shape[-1])

    def correct(number, flat):
        position = changes.positions[number]
        feature = jax.lax.dynamic_slice_in_dim(features, position, 1).astype(jnp.float32)
        feature = changes.share[position] * feature
        for row, change in ((changes.old[position], -feature), (changes.new[position], feature)):
            changed = jax.lax.dynamic_slice_in_dim(flat, row, 1) + change
            flat = jax.lax.dynamic_update_slice_in_dim(flat, changed, row, 0)
        return flat

    flat = sums.reshape(-1, sums.shape[-1])
    return jax.lax.fori_loop(0, changes.count, correct, flat).reshape(sums.shape)
