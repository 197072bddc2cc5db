"""How each kind of device wants the work of k-means cut, and the loop over blocks of positions."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Array, Float


class Plan(NamedTuple):
    """How the work is cut on a kind of device; all numbers were measured, none changes a result.

    Attributes:
      similarity_bytes: how large the similarities of a block of positions may be.
      widen_bytes: up to how many bytes in float32 low-precision features are converted once for
        all rounds. Beyond, or with 0, they are read as they are.
      scatter_above: from how many clusters on sums are scattered instead of multiplied.
      widths: numbers of centres that a matrix product is slow for, and the next faster ones.
      tell_moved: up to which share of the positions may have changed their cluster for the sums to
        be corrected by those positions, rather than computed over all.
      reduce_up_to: up to how many centres the similarities of float32 features are summed by a
        reduction rather than a matrix product.
      stops: whether rounds that would change nothing are left out; on an accelerator the host
        would have to wait for it, to see whether anything still moves.
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


def widen(
    features: Float[Array, "batch positions channels"], plan: Plan
) -> Float[Array, "batch positions channels"]:
    """Returns the features in float32 where the plan wants one conversion for all rounds."""
    if 4 * features.size <= plan.widen_bytes:
        return features.astype(jnp.float32)
    return features


def widen_block(
    features: Float[Array, "batch positions channels"], plan: Plan
) -> Float[Array, "batch positions channels"]:
    """Returns a block of features in float32 where the plan wants products of float32."""
    return features.astype(jnp.float32) if plan.widen_bytes else features


def block_length(
    features: Float[Array, "batch positions channels"], clusters: int, plan: Plan
) -> int:
    """Returns how many positions are taken together; the blocks are of nearly equal size."""
    batch, positions, channels = features.shape
    blocks = -(-4 * batch * positions * clusters // plan.similarity_bytes)
    if plan.widen_bytes and features.dtype != jnp.float32:
        blocks = max(blocks, 4 * batch * positions * channels // _WIDENED_BLOCK_BYTES)
    return -(-positions // min(blocks, positions))


def fold_blocks(
    function: Callable[..., Any],
    carry: Any,
    length: int,
    *arrays: Float[Array, "*_"],
    axis: int = 1,
) -> Any:
    """Folds `function(carry, start, fresh, *parts)` over blocks of positions, `length` each.

    The last block overlaps the one before rather than being padded: `fresh` says which of its
    positions were not in a block before.
    """
    positions = arrays[0].shape[axis]
    if length >= positions:
        return function(carry, 0, True, *arrays)

    def body(number, carry):
        start = jnp.minimum(number * length, positions - length)
        parts = [jax.lax.dynamic_slice_in_dim(x, start, length, axis) for x in arrays]
        return function(carry, start, start + jnp.arange(length) >= number * length, *parts)

    return jax.lax.fori_loop(0, -(-positions // length), body, carry)
