"""Lloyd's rounds for a batch of feature maps: the part of k-means that reads the features.

How often the features are read decides the speed. Nothing of size positions x clusters x channels
is ever built, and nothing normalised is stored: each position's inverse norm stands in a vector of
its own. A round is two matrix products over the features as they lie, one that assigns and one that
sums; where the similarities `[batch, positions, clusters]` are large, positions go through in
blocks. On a CPU the second product is seldom needed: few positions change their cluster in a round,
and the sums are told of those alone. On a GPU few centres are compared by a reduction, which reads
the features faster than a product so narrow.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from apanet_jax.kernels.precision import einsum, joined, split

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

Metric = Literal["cosine", "euclidean"]

_TINY = 1e-6


class Plan(NamedTuple):
    """How a kind of device wants the work cut; every number was measured, none changes a result.

    Attributes:
      similarity_bytes: how large the similarities of a block of positions may be.
      widen_bytes: up to how many bytes in float32 low-precision features are converted once for
        all rounds. Beyond, or with 0, they are read as they are.
      scatter_above: from how many clusters on sums are scattered instead of multiplied.
      widths: numbers of centres that a matrix product is slow for, and the next faster ones.
      tell_moved: up to which share of the positions may have changed their cluster for the sums to
        be told of each, rather than made anew.
      reduce_up_to: up to how many centres the similarities of float32 features are summed up by a
        reduction rather than a matrix product.
      stops: whether rounds that would change nothing are left out; an accelerator would have to be
        waited for, to see whether anything still moves.
    """

    similarity_bytes: int = 256 << 20
    widen_bytes: int = 0
    scatter_above: int | None = None
    widths: tuple[tuple[int, int], ...] = ()
    tell_moved: float = 0.0
    reduce_up_to: int = 0
    stops: bool = False


# On a GPU a scatter adds in any order, and the same input would not give the same bits.
ACCELERATOR = Plan()
GPU = Plan(reduce_up_to=5)
CPU = Plan(16 << 20, 256 << 20, 16, ((5, 8), (6, 8), (7, 8)), 0.2, stops=True)
_WIDENED_BLOCK_BYTES = 4 << 20


def cpu_plan() -> Plan:
    """Returns the plan for the CPUs that there are.

    Taking positions one by one is for a single device: where the batch is spread over several, each
    would need the others'.
    """
    if jax.device_count("cpu") == 1:
        return CPU
    return CPU._replace(tell_moved=0.0)


def by_platform(function: Callable[..., Any], *operands: Any) -> Any:
    """Calls `function(plan, *operands)` with the plan of the platform that it is compiled for."""
    return jax.lax.platform_dependent(
        *operands,
        cpu=functools.partial(function, cpu_plan()),
        cuda=functools.partial(function, GPU),
        default=functools.partial(function, ACCELERATOR),
    )


class _State(NamedTuple):
    """What a round changes; `fresh_mass` is the clusters' weight when sums were last made anew."""

    rounds: Int[Array, ""]
    movement: Float[Array, ""]
    centres: Float[Array, "batch clusters channels"]
    assignment: Int[Array, "batch positions"]
    sums: Float[Array, "batch clusters channels"]
    fresh_mass: Float[Array, "batch clusters"]


class _Changes(NamedTuple):
    """Positions of all pictures, numbered through, that changed their cluster: the first `count`.

    `old` and `new` are, of every position, the rows of the sums, numbered through as well.
    """

    count: Int[Array, ""]
    positions: Int[Array, " all_positions"]
    old: Int[Array, " all_positions"]
    new: Int[Array, " all_positions"]
    share: Float[Array, " all_positions"]


class Rounds(NamedTuple):
    """What a number of rounds led to.

    Attributes:
      assignment: the cluster of each position, 0 to clusters - 1, nearest to `centres`.
      centres: float32.
      inertia: the sum over positions of weight times distance: 1 - cosine, or squared Euclidean.
      rounds: how many were made.
    """

    assignment: Int[Array, "batch positions"]
    centres: Float[Array, "batch clusters channels"]
    inertia: Float[Array, " batch"]
    rounds: Int[Array, ""]


def lloyd(
    features: Float[Array, "batch positions channels"],
    weights: Float[Array, "batch positions"],
    centres: Float[Array, "batch clusters channels"],
    *,
    rounds: int,
    metric: Metric = "cosine",
    tolerance: Float[Array, ""] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
    plan: Plan = ACCELERATOR,
) -> Rounds:
    """Makes rounds of k-means from given centres; the last assignment also gives the inertia.

    A round assigns each position x to the centre c with the largest <x, c> / |x| (cosine; centres
    are unit vectors) or <x, c> - |c|^2 / 2 (Euclidean), of equals the first, and moves each centre
    to the mean of weight times x / |x|, made a unit vector, or of weight times x. A centre that no
    weighted position joined, or whose positions cancel out, stays.

    Args:
      features: float32 or bfloat16; sums are in float32.
      weights: at least 0.
      centres: to start from; unit vectors where the metric is the cosine.
      rounds: to make, or with a tolerance at most.
      metric: "cosine" or "euclidean".
      tolerance: stop where the squared movement of all centres of every picture is at most this; 0
        spares rounds that would change nothing. None: all rounds are made.
      axis_name: mesh axes that the positions are spread over, inside `jax.shard_map`.
      plan: how to cut the work.
    """
    features = widen(features, plan)
    scale = inverse_norm(features) if metric == "cosine" else jnp.ones(weights.shape, jnp.float32)

    share = weights * scale
    clusters = centres.shape[1]

    def masses(nearest):
        return _masses(jnp.where(scale != 0, weights, 0.0), nearest, clusters, plan)

    def join(state: _State):
        nearest, _ = assign(features, state.centres, scale=scale, metric=metric, plan=plan)
        mass = masses(nearest)

        def sum_up():
            numbers = {"num_clusters": clusters, "scale": scale, "plan": plan}
            return cluster_sums(features, weights, nearest, **numbers)

        if not plan.tell_moved or axis_name is not None:
            return nearest, sum_up(), mass, mass
        changes = _changes(state, nearest, share)
        # Where most of a cluster has left, what rounding left behind would be felt.
        anew = jnp.any(mass < 0.5 * state.fresh_mass)
        anew |= changes.count > plan.tell_moved * nearest.size
        sums = jax.lax.cond(anew, sum_up, lambda: _tell_moved(state.sums, features, changes))
        return nearest, sums, mass, jnp.where(anew, mass, state.fresh_mass)

    def move(state: _State) -> _State:
        nearest, sums, mass, fresh_mass = join(state)
        if axis_name is not None:
            sums, mass = jax.lax.psum((sums, mass), axis_name)
        mean = sums / jnp.where(mass > 0, mass, 1.0)[..., None]
        stays = mass[..., None] <= 0
        if metric == "cosine":
            length = jnp.sqrt(jnp.sum(jnp.square(mean), -1, keepdims=True))
            stays |= length <= _TINY
            mean = mean / length
        moved = jnp.where(stays, state.centres, mean)
        movement = jnp.sum(jnp.square(moved - state.centres), (-2, -1)).max()
        return _State(state.rounds + 1, movement, moved, nearest, sums, fresh_mass)

    state = _State(
        jnp.int32(0),
        jnp.float32(jnp.inf),
        centres,
        jnp.zeros(weights.shape, jnp.int32),
        jnp.zeros_like(centres),
        # No cluster has that much: the first round sums up.
        jnp.full(centres.shape[:2], jnp.inf),
    )
    if tolerance is None:
        state, _ = jax.lax.scan(lambda s, _: (move(s), None), state, None, length=rounds)
    else:
        state = jax.lax.while_loop(
            lambda s: (s.rounds < rounds) & ~(s.movement <= tolerance), move, state
        )
    centres, made = state.centres, state.rounds
    assignment, similarity = assign(features, centres, scale=scale, metric=metric, plan=plan)
    if metric == "cosine":
        distance = 1.0 - similarity
    else:
        squares = jnp.sum(jnp.square(features.astype(jnp.float32)), -1)
        distance = jnp.maximum(squares - 2.0 * similarity, 0.0)
    inertia = jnp.sum(jnp.where(weights > 0, weights * distance, 0.0), -1)
    if axis_name is not None:
        inertia = jax.lax.psum(inertia, axis_name)
    return Rounds(assignment, centres, inertia, made)


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
        shape = features.shape[:-1]
        scale = inverse_norm(features) if metric == "cosine" else jnp.ones(shape, jnp.float32)

    def add(found, start, _, features, scale):
        nearest, largest = _nearest(features, scale, centres, metric, plan)
        if nearest.shape == found[0].shape:
            return nearest, largest
        return tuple(
            jax.lax.dynamic_update_slice_in_dim(whole, part, start, 1)
            for whole, part in zip(found, (nearest, largest), strict=True)
        )

    empty = jnp.zeros(scale.shape, jnp.int32), jnp.zeros(scale.shape, jnp.float32)
    return fold_blocks(add, empty, _block(features, centres.shape[1], plan), features, scale)


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
      num_clusters: how many.
      scale: inverse norms for the cosine, ones for Euclidean distance.
      plan: how to cut the work.
    """
    batch, _, channels = features.shape

    def add(sums, _, fresh, features, share, assignment):
        features = _widened(features, plan)
        share = jnp.where(fresh, share, 0.0)
        if _scatters(num_clusters, plan):
            picture = jnp.arange(batch)[:, None]
            return sums.at[picture, assignment].add(features.astype(jnp.float32) * share[..., None])
        member = assignment[..., None] == jnp.arange(num_clusters)
        parts = split(member * share[..., None], features.dtype, axis=2)
        return sums + joined(einsum("bpk,bpc->bkc", parts, features), num_clusters, axis=1)

    nothing = jnp.zeros((batch, num_clusters, channels))
    block = _block(features, num_clusters, plan)
    return fold_blocks(add, nothing, block, features, weights * scale, assignment)


def _scatters(clusters, plan) -> bool:
    return plan.scatter_above is not None and clusters > plan.scatter_above


def _masses(weights, assignment, clusters, plan):
    """Returns each cluster's sum of weights."""

    def add(masses, _, fresh, weights, assignment):
        weights = jnp.where(fresh, weights, 0.0)
        if _scatters(clusters, plan):
            return masses.at[jnp.arange(len(masses))[:, None], assignment].add(weights)
        member = assignment[:, None] == jnp.arange(clusters)[:, None]
        return masses + jnp.sum(jnp.where(member, weights[:, None], 0.0), -1)

    block = _block(weights[..., None], clusters, ACCELERATOR)
    nothing = jnp.zeros((len(weights), clusters))
    return fold_blocks(add, nothing, block, weights, assignment)


def _changes(state, nearest, share) -> _Changes:
    moved = ((nearest != state.assignment) & (share != 0)).reshape(-1)

    def enlist(position, state):
        # What did not move is written over by the next.
        listed, count = state
        listed = jax.lax.dynamic_update_index_in_dim(listed, position, count, 0)
        return listed, count + moved[position].astype(jnp.int32)

    # On a CPU, where alone sums are told, faster than a cumulative sum and a scatter.
    empty = jnp.zeros(moved.size, jnp.int32), jnp.int32(0)
    listed, count = jax.lax.fori_loop(0, moved.size, enlist, empty)
    batch, clusters = state.centres.shape[:2]
    rows = clusters * jnp.arange(batch, dtype=jnp.int32)[:, None]
    old, new = ((rows + x).reshape(-1) for x in (state.assignment, nearest))
    return _Changes(count, listed, old, new, share.reshape(-1))


def _tell_moved(sums, features, changes):
    """Takes each position that moved from its old cluster's sum, and adds it to the new one's."""
    features = features.reshape(-1, features.shape[-1])

    def tell(number, flat):
        position = changes.positions[number]
        feature = jax.lax.dynamic_slice_in_dim(features, position, 1).astype(jnp.float32)
        feature = changes.share[position] * feature
        for row, change in ((changes.old[position], -feature), (changes.new[position], feature)):
            changed = jax.lax.dynamic_slice_in_dim(flat, row, 1) + change
            flat = jax.lax.dynamic_update_slice_in_dim(flat, changed, row, 0)
        return flat

    flat = sums.reshape(-1, sums.shape[-1])
    return jax.lax.fori_loop(0, changes.count, tell, flat).reshape(sums.shape)


def widen(
    features: Float[Array, "batch positions channels"], plan: Plan
) -> Float[Array, "batch positions channels"]:
    """Returns the features in float32 where the plan wants one conversion for all rounds."""
    if 4 * features.size <= plan.widen_bytes:
        return features.astype(jnp.float32)
    return features


def inverse_norm(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch"]:
    """Returns 1 / |x|, and 0 for zero vectors; exact for norms between 1e-18 and 1e19."""
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), -1)
    return jnp.where(squares > 0, jax.lax.rsqrt(jnp.maximum(squares, jnp.float32(1e-37))), 0.0)


def unit(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
    """Returns x / |x| in float32, and zeros for zero vectors."""
    x = x.astype(jnp.float32)
    return x * inverse_norm(x)[..., None]


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
        similarity = similarities(_widened(features, plan), wider)[..., :clusters]
    if metric == "cosine":
        similarity = similarity * scale[..., None]
    else:
        similarity = similarity - 0.5 * jnp.sum(jnp.square(centres), -1)[:, None]
    return jnp.argmax(similarity, -1).astype(jnp.int32), jnp.max(similarity, -1)


def _widened(features, plan):
    return features.astype(jnp.float32) if plan.widen_bytes else features


def _block(features, clusters, plan) -> int:
    """Positions that go through together; the blocks are of nearly equal size."""
    batch, positions, channels = features.shape
    blocks = -(-4 * batch * positions * clusters // plan.similarity_bytes)
    if plan.widen_bytes and features.dtype != jnp.float32:
        blocks = max(blocks, 4 * batch * positions * channels // _WIDENED_BLOCK_BYTES)
    return -(-positions // min(blocks, positions))


def fold_blocks(
    function: Callable[..., Any],
    carry: Any,
    size: int,
    *arrays: Float[Array, "*_"],
    axis: int = 1,
) -> Any:
    """Folds `function(carry, start, fresh, *parts)` over blocks of `size` positions, along an axis.

    The last block overlaps the one before rather than being padded: `fresh` says which of its
    positions were not seen before.
    """
    positions = arrays[0].shape[axis]
    if size >= positions:
        return function(carry, 0, True, *arrays)

    def body(number, carry):
        start = jnp.minimum(number * size, positions - size)
        parts = [jax.lax.dynamic_slice_in_dim(x, start, size, axis) for x in arrays]
        return function(carry, start, start + jnp.arange(size) >= number * size, *parts)

    return jax.lax.fori_loop(0, -(-positions // size), body, carry)
