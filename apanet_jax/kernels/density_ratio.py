"""How much denser the supports' foreground is than their background around each query position."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.kernels.plans import fold_blocks
from apanet_jax.kernels.precision import as_features, einsum
from apanet_jax.kernels.unit_vectors import inverse_norm

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float


class _Plan(NamedTuple):
    """How large the cosines of a block are, and whether products of bfloat16 are made in float32.

    On a CPU the cosines stay in the caches; elsewhere they keep every core busy.
    """

    block_bytes: int
    widens: bool


_CPU = _Plan(2 << 20, True)
_ACCELERATOR = _Plan(32 << 20, False)


def density_ratio(
    query: Float[Array, "*batch queries channels"],
    support: Float[Array, "*batch positions channels"],
    foreground: Float[Array, "*batch positions"],
    background: Float[Array, "*batch positions"],
    bandwidth: float | Float[Array, " bandwidths"] = 0.05,
) -> Float[Array, "*batch queries"] | Float[Array, "*batch queries bandwidths"]:
    """Returns the log ratio of foreground to background density at each query position.

    With f the foreground weights, b the background weights and h the bandwidth, query position q
    gets

        log(sum_p f_p exp(cos(q, s_p) / h) / sum_p f_p)
        - log(sum_p b_p exp(cos(q, s_p) / h) / sum_p b_p)

    where p runs over all positions of all supports, side by side. Above 0 the foreground is
    denser. The value lies between -2 / h and 2 / h.

    Support positions are taken in blocks: one matrix product and one exponential a block serve
    foreground and background, and memory does not grow with the number of support positions. The
    gradient, with respect to query, support and bandwidth, is computed in the same blocks. No
    gradient flows to the weights. Works under `jax.jit` and `jax.vmap`; leading axes broadcast, so
    several queries or several weights share one support without a copy of it.

    Edge cases: a vector of norm 0 has cosine 0 to everything, and gradient 0. A position of weight
    0 is as if absent, even where it holds NaN. Foreground or background whose weights are all 0
    has the least density that there can be, exp(-1 / h), as of one position opposite to the query:
    without foreground no value is above 0, without background none is below, without either all
    are 0. Norms are exact between 1e-18 and 1e19.

    Args:
      query: float32 or bfloat16; other types are converted to float32. The scale of a vector does
        not matter.
      support: of the same types.
      foreground: at least 0; fractions are weights.
      background: likewise; a position may have both weights, or neither.
      bandwidth: above 0; or several, for which cosines are computed once.

    Returns:
      float32, with an axis more where `bandwidth` has one.

    Raises:
      ValueError: for shapes that do not fit, or a bandwidth that is not above 0.
    """
    query, support = as_features(query), as_features(support)
    foreground, background = (jnp.asarray(x, jnp.float32) for x in (foreground, background))
    _check(query, support, foreground, background, bandwidth)
    bandwidth = jnp.asarray(bandwidth, jnp.float32)
    return _density_ratio(query, support, foreground, background, bandwidth)


def log_densities(
    query: Float[Array, "queries channels"],
    support: Float[Array, "positions channels"],
    foreground: Float[Array, " positions"],
    background: Float[Array, " positions"],
    bandwidth: float | Float[Array, " bandwidths"] = 0.05,
) -> Float[Array, "2 queries"] | Float[Array, "2 queries bandwidths"]:
    """Returns the log densities of foreground and background, whose difference is `density_ratio`.

    Those of several supports can be put together: densities are weighted means.

    Args:
      query: see `density_ratio`.
      support: see `density_ratio`.
      foreground: see `density_ratio`.
      background: see `density_ratio`.
      bandwidth: see `density_ratio`.

    Raises:
      ValueError: see `density_ratio`.
    """
    query, support = as_features(query), as_features(support)
    weights = jnp.stack([jnp.asarray(x, jnp.float32) for x in (foreground, background)])
    _check(query, support, *weights, bandwidth)
    widths = jnp.atleast_1d(jnp.asarray(bandwidth, jnp.float32))
    found = jnp.moveaxis(_log_means(widths, query, support, weights), 0, -1)
    return found if jnp.ndim(bandwidth) else found[..., 0]


def _check(query, support, foreground, background, bandwidth):
    if query.ndim < 2 or support.ndim < 2 or query.shape[-1] != support.shape[-1]:
        raise ValueError(
            f"query has shape {query.shape} and support {support.shape}, expected positions x "
            "channels, with as many channels in both"
        )
    if 0 in (*query.shape, *support.shape):
        raise ValueError(f"query {query.shape} or support {support.shape} is empty")
    for name, weights in (("foreground", foreground), ("background", background)):
        if weights.shape[-1:] != support.shape[-2:-1]:
            raise ValueError(
                f"{name} has shape {weights.shape}, expected a weight for each support position, "
                f"{support.shape[-2]}"
            )
    # Inside `jax.jit` its shape is known, and not its value.
    if not isinstance(bandwidth, jax.core.Tracer) and not (np.asarray(bandwidth) > 0).all():
        raise ValueError(f"bandwidth is {bandwidth}, expected above 0")
    if np.ndim(bandwidth) > 1 or np.size(bandwidth) == 0:
        raise ValueError(f"bandwidth has shape {np.shape(bandwidth)}, expected one or several")


@jax.jit
def _density_ratio(query, support, foreground, background, bandwidth):
    weights = jnp.stack(jnp.broadcast_arrays(foreground, background), -2)
    weights = jax.lax.stop_gradient(weights)
    run = functools.partial(_log_ratio, jnp.atleast_1d(bandwidth))
    ratios = _broadcasting(run, query, support, weights)
    return ratios[..., 0, :] if bandwidth.ndim == 0 else jnp.swapaxes(ratios, -1, -2)


def _broadcasting(function: Callable, *operands: Array) -> Array:
    """Maps a function of matrices over the leading axes; those of length 1, or lacking, are shared.

    Nothing is copied for it, as a broadcast would.
    """
    batch = jnp.broadcast_shapes(*(x.shape[:-2] for x in operands))
    flat, mapped = [], []
    for x in operands:
        lengths = (*[1] * (len(batch) + 2 - x.ndim), *x.shape[:-2])
        mapped.append([length != 1 for length in lengths])
        flat.append(x.reshape(*(n for n in lengths if n != 1), *x.shape[-2:]))
    for axis in reversed(range(len(batch))):
        axes = tuple(0 if own[axis] else None for own in mapped)
        if batch[axis] != 1:
            function = jax.vmap(function, in_axes=axes)
    result = function(*flat)
    return result.reshape(*batch, *result.shape[-2:])


def _log_ratio(bandwidths, query, support, weights) -> Float[Array, "bandwidths queries"]:
    density = _log_means(bandwidths, query, support, weights)
    return density[:, 0] - density[:, 1]


def _log_means(bandwidths, query, support, weights) -> Float[Array, "bandwidths 2 queries"]:
    log_sums = _log_sums(query, support, weights, bandwidths)
    total = jnp.sum(weights, -1)[:, None]
    mean = log_sums - jnp.log(jnp.where(total > 0, total, 1.0))
    return jnp.where(total > 0, mean, -1.0 / bandwidths[:, None, None])


@jax.custom_vjp
def _log_sums(query, support, weights, bandwidths) -> Float[Array, "bandwidths 2 queries"]:
    """Returns log(sum_p w_p exp(cos(q, s_p) / h)) for both weights, and 0 where all w_p are 0."""
    return _by_platform(_forward, query, support, weights, bandwidths)


def _keep(*operands):
    log_sums = _log_sums(*operands)
    return log_sums, (*operands, log_sums)


def _pull_back(kept, gradient):
    of_query, of_support, of_bandwidths = _by_platform(_backward, *kept, gradient)
    return of_query, of_support, jnp.zeros_like(kept[2]), of_bandwidths


_log_sums.defvjp(_keep, _pull_back)


def _by_platform(function, *operands):
    """Calls a function of one problem; on a CPU, the problems of a batch are taken one by one."""
    return jax.lax.platform_dependent(
        *operands,
        cpu=_in_turn(functools.partial(function, _CPU)),
        default=functools.partial(function, _ACCELERATOR),
    )


def _in_turn(function):
    """Has `jax.vmap` loop, so that what one problem needs stays in the caches."""
    function = jax.custom_batching.custom_vmap(function)

    @function.def_vmap
    def _(size, mapped, *operands):
        def one(number):
            pairs = zip(operands, mapped, strict=True)
            return function(*(x[number] if is_mapped else x for x, is_mapped in pairs))

        results = jax.lax.map(one, jnp.arange(size))
        return results, jax.tree.map(lambda _: True, results)

    return function


# Each support position belongs to one group: it has a foreground weight, a background weight, or
# both. Each group has a maximum of its own that exponents are taken relative to, so that nothing
# underflows and each position needs one exponential. There are four weighted sums, the last two
# over the last group.


def _by_group(weights: Float[Array, "2 positions"]) -> Float[Array, "positions 4"]:
    both = (weights > 0).all(0)
    return jnp.concatenate([jnp.where(both, 0.0, weights), jnp.where(both, weights, 0.0)]).T


def _of_group(member, of_groups):
    return jnp.where(member[0], of_groups[0], jnp.where(member[1], of_groups[1], of_groups[2]))


def _of_sums(of_groups):
    return jnp.concatenate([of_groups, of_groups[2:]])


def _block(query, positions, plan) -> int:
    """Support positions that are taken together; the blocks are of nearly equal size."""
    blocks = -(-4 * len(query) * positions // plan.block_bytes)
    return -(-positions // min(blocks, positions))


def _forward(plan, query, support, weights, bandwidths):
    if plan.widens or query.dtype != support.dtype:
        query = query.astype(jnp.float32)
    scale = inverse_norm(query)
    widths = bandwidths[:, None, None]

    def add(carry, _, fresh, support, weights):
        largest, sums = carry
        weights = jnp.where(fresh, weights.T, 0.0)
        member = weights[:3, :, None] > 0
        cosine = einsum("pc,qc->pq", support.astype(query.dtype), query)
        cosine = cosine * inverse_norm(support)[:, None] * scale
        found = jnp.maximum(largest, jnp.max(jnp.where(member, cosine, -jnp.inf), 1))
        below = jnp.where(member.any(0), cosine - _of_group(member, found), -jnp.inf)
        added = jnp.stack([einsum("wp,pq->wq", weights, jnp.exp(below / h)) for h in bandwidths])
        sums = sums * jnp.exp(_of_sums(largest - found) / widths) + added
        return found, sums

    # Less than any cosine, and finite: infinity less infinity would be NaN.
    largest = jnp.full((3, len(query)), -2.0, jnp.float32)
    sums = jnp.zeros((len(bandwidths), 4, len(query)), jnp.float32)
    block = _block(query, len(support), plan)
    largest, sums = fold_blocks(add, (largest, sums), block, support, _by_group(weights), axis=0)
    log_sums = _of_sums(largest) / widths + jnp.log(sums)
    log_sums = jnp.logaddexp(log_sums[:, :2], log_sums[:, 2:])
    return jnp.where(log_sums == -jnp.inf, 0.0, log_sums)


def _backward(plan, query, support, weights, bandwidths, log_sums, gradient):
    """Returns the gradients of query, support and bandwidths.

    Let u be the unit vectors of the query, v those of the support, and G the gradient of their
    cosines. The gradient of a support vector s is (G u - (sum_q G cos) v) / |s|, and that of a
    query vector likewise.
    """
    scale = inverse_norm(query)[:, None]
    unit = query.astype(jnp.float32) * scale
    least = jnp.min(log_sums, 1, keepdims=True)
    references = jnp.concatenate([log_sums, least], 1)
    factors = jnp.concatenate([gradient, gradient * jnp.exp(least - log_sums)], 1)

    def of_cosines(cosine, weights):
        member = weights[:3, :, None] > 0
        for h, reference, factor in zip(bandwidths, references, factors, strict=True):
            exponent = cosine / h - _of_group(member, reference)
            share = jnp.exp(jnp.where(member.any(0), exponent, -jnp.inf))
            yield share * einsum("wp,wq->pq", weights, factor) / h

    def add(carry, start, fresh, support, weights):
        of_unit, along, of_support, of_bandwidths = carry
        # What has no weight may be NaN or infinite, which no factor of 0 would take away.
        support = jnp.where((weights > 0).any(-1, keepdims=True), support, 0)
        support_scale = inverse_norm(support)[:, None]
        support = support.astype(jnp.float32) * support_scale
        cosine = einsum("pc,qc->pq", support, unit)
        each = list(of_cosines(cosine, jnp.where(fresh, weights.T, 0.0)))
        of_bandwidths -= jnp.stack([jnp.sum(x * cosine) for x in each]) / bandwidths
        of_cosine = sum(each)
        product = of_cosine * cosine
        towards = einsum("pq,qc->pc", of_cosine, unit) - jnp.sum(product, 1)[:, None] * support
        towards = (towards * support_scale).astype(of_support.dtype)
        # Positions that the block before has had get zeros.
        towards += jax.lax.dynamic_slice_in_dim(of_support, start, len(towards))
        of_support = jax.lax.dynamic_update_slice_in_dim(of_support, towards, start, 0)
        of_unit += einsum("pq,pc->qc", of_cosine, support)
        return of_unit, along + jnp.sum(product, 0), of_support, of_bandwidths

    along, of_bandwidths = (jnp.zeros(len(x), jnp.float32) for x in (query, bandwidths))
    carry = jnp.zeros_like(unit), along, jnp.zeros_like(support), of_bandwidths
    block = _block(query, len(support), plan)
    carry = fold_blocks(add, carry, block, support, _by_group(weights), axis=0)
    of_unit, along, of_support, of_bandwidths = carry
    of_query = (of_unit - along[:, None] * unit) * scale
    return of_query.astype(query.dtype), of_support, of_bandwidths
