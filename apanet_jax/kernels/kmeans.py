"""Cosine k-means with a fixed number of rounds, for a batch of feature maps in one call."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify

from apanet_jax.kernels.initial import INITS, Init, initial_centres
from apanet_jax.kernels.lloyd import Rounds, lloyd
from apanet_jax.kernels.plans import by_platform, widen
from apanet_jax.kernels.precision import as_features
from apanet_jax.kernels.unit_vectors import unit

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int, PRNGKeyArray


class KMeansResult(NamedTuple):
    """The clusters of k-means.

    Attributes:
      assignment: the cluster of each position, 0 to clusters - 1, by largest cosine to `centres`.
      centres: unit vectors. A cluster that no weighted position joined kept its last centre.
      inertia: the sum over positions of weight times (1 - cosine to the assigned centre).
    """

    assignment: Int[Array, "*batch positions"]
    centres: Float[Array, "*batch clusters channels"]
    inertia: Float[Array, "*batch"]


def kmeans(
    features: Float[Array, "*batch positions channels"],
    num_clusters: int,
    *,
    rounds: int = 10,
    weights: Float[Array, "*batch positions"] | None = None,
    init: Init | Float[Array, "*batch clusters channels"] = "farthest",
    key: PRNGKeyArray | None = None,
) -> KMeansResult:
    """Clusters the positions of each image of a batch by cosine similarity (Eq. 4).

    A round assigns every position to the centre with the largest cosine (of equals the first),
    then moves each centre to the direction of the weighted sum of its positions' unit vectors.
    Sums are in float32 whatever the features' type; gradients are stopped. The same inputs and key
    give the same result.

    Works under `jax.jit` and `jax.vmap`. The batch may be sharded over devices; so may the
    positions of an array that is passed outside `jax.jit` (a `NamedSharding` with mesh axes on the
    positions): then each device reads its own positions, and only sums are exchanged.

    Edge cases: zero vectors have cosine 0 to everything and move no centre. Where positions are
    all alike, or fewer than the clusters, or have no weight at all, the remaining clusters are
    empty. A NaN or infinity in any position, of weight 0 too, makes that image's inertia NaN, and
    changes no other image; under `jax.experimental.checkify` it is an error. Norms are exact
    between 1e-18 and 1e19.

    Args:
      features: float32 or bfloat16, of any length; other types are converted to float32.
      num_clusters: at least 1, at most the number of positions.
      rounds: at least 0. On a CPU, those that would change nothing are left out.
      weights: at least 0; a position of weight 0 gets a cluster but moves no centre. None: all 1.
      init: where the centres start. "farthest": a random position of positive weight (without a
        key the one closest to the mean direction), then repeatedly the one farthest from the
        centres so far; "k-means++": drawn in proportion to that distance; "random": different
        positions of positive weight; or the centres themselves.
      key: for the random choices; "k-means++" and "random" need one.

    Raises:
      ValueError: for settings out of range, shapes that do not fit, or a missing key.
    """
    features = as_features(features)
    if weights is not None:
        weights = jnp.asarray(weights, jnp.float32)
    num_clusters, rounds = operator.index(num_clusters), operator.index(rounds)
    _check(features, weights, num_clusters, rounds)
    centres = None
    if not isinstance(init, str):
        centres, init = jnp.asarray(init, jnp.float32), "given"
        expected = (*features.shape[:-2], num_clusters, features.shape[-1])
        if centres.shape != expected:
            raise ValueError(f"init has shape {centres.shape}, expected {expected}")
    elif init not in INITS:
        raise ValueError(
            f'init is {init!r}, expected "farthest", "k-means++", "random" or the centres'
        )
    elif init != "farthest" and key is None:
        raise ValueError(f"init={init!r} draws at random: pass a key")
    sharded = _position_axes(features)
    return _kmeans(features, weights, centres, key, num_clusters, rounds, init, sharded)


def _check(features, weights, num_clusters, rounds):
    if features.ndim < 2:
        raise ValueError(
            f"features have shape {features.shape}, expected at least two axes: positions, channels"
        )
    positions = features.shape[-2]
    if not 1 <= num_clusters <= positions:
        raise ValueError(
            f"num_clusters is {num_clusters}, expected 1 to the number of positions, {positions}"
        )
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}, expected at least 0")
    if weights is not None and weights.shape != features.shape[:-1]:
        raise ValueError(
            f"weights have shape {weights.shape}, expected one a position: {features.shape[:-1]}"
        )


@functools.partial(jax.jit, static_argnames=("num_clusters", "rounds", "init", "sharded"))
def _kmeans(features, weights, centres, key, num_clusters, rounds, init, sharded) -> KMeansResult:
    if weights is None:
        weights = jnp.ones(features.shape[:-1], jnp.float32)
    features, weights = jax.lax.stop_gradient((features, weights))
    *batch, positions, channels = features.shape
    count = int(np.prod(batch))
    flat = features.reshape(count, positions, channels)
    flat_weights = weights.reshape(count, positions)
    keys = None if key is None else jax.random.split(key, count)
    if init == "given":
        centres = unit(jax.lax.stop_gradient(centres).reshape(count, num_clusters, channels))

    def run(plan, features, weights, centres, keys):
        features = widen(features, plan)
        if init != "given":
            centres = initial_centres(
                features, weights, keys, num_clusters=num_clusters, init=init, plan=plan
            )
        tolerance = np.float32(0) if plan.stops else None
        make = functools.partial(lloyd, rounds=rounds, tolerance=tolerance, plan=plan)
        if sharded is not None:
            make = _sharded(make, *sharded)
        return make(features, weights, centres)[:3]

    make = functools.partial(by_platform, run)
    result = KMeansResult(*_merging_vmap(make)(flat, flat_weights, centres, keys))
    checkify.debug_check(
        jnp.isfinite(result.inertia).all(), "features or weights hold NaN or infinity"
    )
    return KMeansResult(
        result.assignment.reshape(*batch, positions),
        result.centres.reshape(*batch, num_clusters, channels),
        result.inertia.reshape(batch),
    )


def _position_axes(features) -> tuple | None:
    """Returns mesh, batch axes and position axes if the positions are sharded over devices."""
    if isinstance(features, jax.core.Tracer):
        return None
    sharding = features.sharding
    if not isinstance(sharding, jax.sharding.NamedSharding):
        return None
    axes = (*sharding.spec, *[None] * features.ndim)
    if axes[features.ndim - 2] is None:
        return None
    return sharding.mesh, axes[0] if features.ndim == 3 else None, axes[features.ndim - 2]


def _merging_vmap(function):
    """Makes `jax.vmap` lengthen the leading axis of all operands, instead of adding another.

    So a decision for the whole batch, as when to stop, stays one decision.
    """
    function = jax.custom_batching.custom_vmap(function)

    @function.def_vmap
    def _(size, mapped, *operands):
        def merge(x, is_mapped):
            x = x if is_mapped else jnp.broadcast_to(x, (size, *x.shape))
            return x.reshape(-1, *x.shape[2:])

        results = function(*jax.tree.map(merge, operands, tuple(mapped)))
        results = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), results)
        return results, jax.tree.map(lambda x: True, results)

    return function


def _sharded(rounds, mesh, batch, positions):
    """Lets each device make the rounds with its own positions, and exchange the sums."""
    spec = jax.sharding.PartitionSpec
    ours, whole = spec(batch, positions), spec(batch)
    return jax.shard_map(
        functools.partial(rounds, axis_name=positions),
        mesh=mesh,
        in_specs=(ours, ours, whole),
        out_specs=Rounds(ours, whole, whole, spec()),
        check_vma=False,
    )
