"""Cosine k-means with a fixed number of rounds, for a batch of feature maps in one call."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

Init = Literal["farthest", "k-means++", "random"]

_TINY = 1e-12
_BLOCK_BYTES = 1 << 20


class KMeansResult(NamedTuple):
    """What k-means found.

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
    """Clusters the positions of each picture of a batch by cosine similarity (Eq. 4).

    A round assigns every position to the centre with the largest cosine (of equals the first),
    then moves each centre to the direction of the weighted sum of its positions' unit vectors.
    Sums are in float32 whatever the features' type; gradients are stopped. The same inputs and key
    give the same result.

    Edge cases: zero vectors have cosine 0 to everything and move no centre. Where positions are
    all alike, or fewer than the clusters, or have no weight at all, the clusters left over are
    empty. A NaN in a picture makes that picture's inertia NaN, and touches no other.

    Args:
      features: float32 or bfloat16, of any length.
      num_clusters: at least 1, at most the number of positions.
      rounds: how many, at least 0; there is no early stop.
      weights: at least 0; a position of weight 0 gets a cluster but has no say. None: all 1.
      init: where the centres start. "farthest": a random position of positive weight (without a
        key the one closest to the mean direction), then again and again the one farthest from the
        centres so far; "k-means++": drawn in proportion to that distance; "random": different
        positions of positive weight; or the centres themselves.
      key: for the random choices; "k-means++" and "random" need one.

    Raises:
      ValueError: for settings out of range, shapes that do not fit, or a missing key.
    """
    features = jnp.asarray(features)
    *batch, positions, channels = features.shape
    if not 1 <= num_clusters <= positions:
        raise ValueError(
            f"num_clusters is {num_clusters}, expected 1 to the number of positions, {positions}"
        )
    if rounds < 0:
        raise ValueError(f"rounds is {rounds}, expected at least 0")
    if weights is None:
        weights = jnp.ones((*batch, positions), jnp.float32)
    if weights.shape != features.shape[:-1]:
        raise ValueError(
            f"weights have shape {weights.shape}, expected one a position: {features.shape[:-1]}"
        )
    centres = None
    if not isinstance(init, str):
        centres, init = jnp.asarray(init, jnp.float32), "given"
        if centres.shape != (*batch, num_clusters, channels):
            raise ValueError(
                f"init has shape {centres.shape}, expected {(*batch, num_clusters, channels)}"
            )
    elif init not in ("farthest", "k-means++", "random"):
        raise ValueError(
            f'init is {init!r}, expected "farthest", "k-means++", "random" or the centres'
        )
    elif init != "farthest" and key is None:
        raise ValueError(f"init={init!r} draws at random: pass a key")
    return _kmeans(features, weights, centres, key, num_clusters, rounds, init)


@functools.partial(jax.jit, static_argnames=("num_clusters", "rounds", "init"))
def _kmeans(features, weights, centres, key, num_clusters, rounds, init) -> KMeansResult:
    features, weights = jax.lax.stop_gradient((features, weights.astype(jnp.float32)))
    *batch, positions, channels = features.shape
    count = int(np.prod(batch))
    flat = features.reshape(count, positions, channels)
    flat_weights = weights.reshape(count, positions)
    scale = _inverse_norm(flat)
    if init == "given":
        start = _unit(jax.lax.stop_gradient(centres).reshape(count, num_clusters, channels))
    else:
        keys = None if key is None else jax.random.split(key, count)
        choose = functools.partial(_initial_centres, num_clusters=num_clusters, init=init)
        start = jax.vmap(choose, in_axes=(0, 0, 0, None if keys is None else 0))(
            flat, scale, flat_weights, keys
        )
    one = functools.partial(_cluster_picture, rounds=rounds)
    result = jax.lax.platform_dependent(
        flat,
        scale,
        flat_weights,
        start,
        # One picture after the other: its features stay in the cache from round to round.
        cpu=lambda *pictures: jax.lax.map(lambda picture: one(*picture), pictures),
        default=jax.vmap(one),
    )
    return KMeansResult(
        result.assignment.reshape(*batch, positions),
        result.centres.reshape(*batch, num_clusters, channels),
        result.inertia.reshape(batch),
    )


def _cluster_picture(features, scale, weights, centres, *, rounds) -> KMeansResult:
    """Runs the rounds for one picture; each reads the features once, block by block."""
    positions, channels = features.shape
    clusters = centres.shape[0]
    block = _block_size(positions, channels * features.dtype.itemsize)
    padding = -positions % block
    blocks = jax.tree.map(
        lambda x: jnp.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)).reshape(
            -1, block, *x.shape[1:]
        ),
        (features, scale, weights),
    )

    def assign(centres, features, scale):
        cosine = scale[:, None] * jnp.einsum(
            "pc,kc->pk",
            features,
            centres.astype(features.dtype),
            preferred_element_type=jnp.float32,
        )
        return jnp.argmax(cosine, -1), jnp.max(cosine, -1)

    def round_(centres, _):
        def add_block(sums, x):
            features, scale, weights = x
            assignment, _ = assign(centres, features, scale)
            share = jax.nn.one_hot(assignment, clusters) * (weights * scale)[:, None]
            # On low-precision features the sums still run over float32 products.
            added = jnp.einsum("pk,pc->kc", share, features.astype(jnp.float32))
            return sums + added, None

        sums, _ = jax.lax.scan(add_block, jnp.zeros((clusters, channels), jnp.float32), blocks)
        empty = jnp.sum(jnp.square(sums), -1, keepdims=True) <= _TINY
        return jnp.where(empty, centres, _unit(sums)), None

    centres, _ = jax.lax.scan(round_, centres, None, length=rounds)
    assignment, cosine = assign(centres, features, scale)
    inertia = jnp.sum(jnp.where(weights > 0, weights * (1.0 - cosine), 0.0))
    return KMeansResult(assignment.astype(jnp.int32), centres, inertia)


def _initial_centres(features, scale, weights, key, *, num_clusters, init):
    """Chooses positions of one picture as first centres `[clusters, channels]`."""
    allowed = jnp.where(weights > 0, 0.0, -jnp.inf)
    allowed = jnp.where(jnp.isfinite(allowed.max()), allowed, 0.0)

    def centre(position):
        return features[position].astype(jnp.float32) * scale[position]

    if init == "random":
        noise = jax.random.gumbel(key, weights.shape)
        _, chosen = jax.lax.top_k(allowed + noise, num_clusters)
        return jax.vmap(centre)(chosen)

    def cosine(vector):
        return scale * jnp.einsum(
            "pc,c->p", features, vector.astype(features.dtype), preferred_element_type=jnp.float32
        )

    if key is None:
        mean = jnp.einsum("p,pc->c", weights * scale, features.astype(jnp.float32))
        first = jnp.argmax(allowed + cosine(_unit(mean)))
        keys = [None] * num_clusters
    else:
        keys = jax.random.split(key, num_clusters)
        first = jax.random.categorical(keys[0], allowed)
    centres, nearest = [centre(first)], jnp.full(weights.shape, -1.0)
    for draw in keys[1:]:
        nearest = jnp.maximum(nearest, cosine(centres[-1]))
        distance = jnp.maximum(1.0 - nearest, 0.0)
        if init == "farthest":
            position = jnp.argmax(allowed + distance)
        else:
            odds = jnp.log(weights * distance + _TINY)
            position = jax.random.categorical(draw, allowed + odds)
        centres.append(centre(position))
    return jnp.stack(centres)


def _block_size(positions: int, bytes_each: int) -> int:
    """Positions that fit the cache together, in blocks of nearly equal size."""
    blocks = max(1, round(positions * bytes_each / _BLOCK_BYTES))
    return -(-positions // blocks)


def _inverse_norm(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch"]:
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), -1)
    return jnp.where(squares > 0, jax.lax.rsqrt(jnp.maximum(squares, jnp.float32(1e-37))), 0.0)


def _unit(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
    x = x.astype(jnp.float32)
    return x * _inverse_norm(x)[..., None]
