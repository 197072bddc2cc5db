"""Lloyd's rounds for a batch of feature maps.

How often the features are read decides the speed. Nothing of size positions x clusters x channels
is ever built, and nothing normalised is stored: each position's inverse norm stands in a vector of
its own. A round is two matrix products over the features as they lie, one that assigns and one that
sums; where the similarities `[batch, positions, clusters]` are large, positions are taken in
blocks. On a CPU the second product is seldom needed: few positions change their cluster in a round,
and the sums are corrected by those alone. On a GPU few centres are compared by a reduction, which
reads the features faster than a product so narrow.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp

from apanet_jax.kernels.assignment import Metric, assign, position_scale
from apanet_jax.kernels.cluster_sums import (
    cluster_masses,
    cluster_sums,
    correct_sums,
    list_changes,
)
from apanet_jax.kernels.plans import ACCELERATOR, CPU, GPU, Plan, widen
from apanet_jax.kernels.unit_vectors import unit

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int

# The plans and `unit` are part of what a caller of `lloyd` needs.
__all__ = ["ACCELERATOR", "CPU", "GPU", "Plan", "Rounds", "lloyd", "unit"]

_TINY = 1e-6


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


class _Positions(NamedTuple):
    features: Float[Array, "batch positions channels"]
    weights: Float[Array, "batch positions"]
    scale: Float[Array, "batch positions"]


class _State(NamedTuple):
    """What a round changes; `full_mass` is the clusters' weight when all positions were summed."""

    rounds: Int[Array, ""]
    movement: Float[Array, ""]
    centres: Float[Array, "batch clusters channels"]
    assignment: Int[Array, "batch positions"]
    sums: Float[Array, "batch clusters channels"]
    full_mass: Float[Array, "batch clusters"]


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
      tolerance: stop where the squared movement of all centres of every image is at most this; 0
        spares rounds that would change nothing. None: all rounds are made.
      axis_name: mesh axes that the positions are spread over, inside `jax.shard_map`.
      plan: how to cut the work.
    """
    features = widen(features, plan)
    positions = _Positions(features, weights, position_scale(features, metric))
    step = functools.partial(_round, positions, metric, axis_name, plan)
    state = _start(centres, weights)
    if tolerance is None:
        state, _ = jax.lax.scan(lambda s, _: (step(s), None), state, None, length=rounds)
    else:
        state = jax.lax.while_loop(
            lambda s: (s.rounds < rounds) & ~(s.movement <= tolerance), step, state
        )
    assignment, inertia = _final_assignment(positions, state.centres, metric, axis_name, plan)
    return Rounds(assignment, state.centres, inertia, state.rounds)


def _start(centres, weights) -> _State:
    return _State(
        rounds=jnp.int32(0),
        movement=jnp.float32(jnp.inf),
        centres=centres,
        assignment=jnp.zeros(weights.shape, jnp.int32),
        sums=jnp.zeros_like(centres),
        # No cluster has that much: the first round sums over all positions.
        full_mass=jnp.full(centres.shape[:2], jnp.inf, jnp.float32),
    )


def _round(positions, metric, axis_name, plan, state) -> _State:
    features, weights, scale = positions
    clusters = state.centres.shape[1]
    nearest, _ = assign(features, state.centres, scale=scale, metric=metric, plan=plan)
    mass = cluster_masses(jnp.where(scale != 0, weights, 0.0), nearest, clusters, plan)
    corrects = plan.tell_moved and axis_name is None
    sum_up = _corrected_sums if corrects else _all_sums
    sums, full_mass = sum_up(positions, plan, state, nearest, mass)
    if axis_name is not None:
        sums, mass = jax.lax.psum((sums, mass), axis_name)
    moved = _moved_centres(state.centres, sums, mass, metric)
    movement = jnp.sum(jnp.square(moved - state.centres), (-2, -1)).max()
    return _State(state.rounds + 1, movement, moved, nearest, sums, full_mass)


def _all_sums(positions, plan, state, nearest, mass):
    features, weights, scale = positions
    clusters = state.centres.shape[1]
    sums = cluster_sums(features, weights, nearest, num_clusters=clusters, scale=scale, plan=plan)
    return sums, mass


def _corrected_sums(positions, plan, state, nearest, mass):
    """Corrects the last round's sums by the positions that moved, where these are few."""
    features, weights, scale = positions
    changes = list_changes(state.assignment, nearest, weights * scale, mass.shape[1])
    # Where most of a cluster has left, what rounding left behind would be felt.
    over_all = jnp.any(mass < 0.5 * state.full_mass)
    over_all |= changes.count > plan.tell_moved * nearest.size
    sums = jax.lax.cond(
        over_all,
        lambda: _all_sums(positions, plan, state, nearest, mass)[0],
        lambda: correct_sums(state.sums, features, changes),
    )
    return sums, jnp.where(over_all, mass, state.full_mass)


def _moved_centres(centres, sums, mass, metric):
    mean = sums / jnp.where(mass > 0, mass, 1.0)[..., None]
    stays = mass[..., None] <= 0
    if metric == "cosine":
        length = jnp.sqrt(jnp.sum(jnp.square(mean), -1, keepdims=True))
        stays |= length <= _TINY
        mean = mean / length
    return jnp.where(stays, centres, mean)


def _final_assignment(positions, centres, metric, axis_name, plan):
    features, weights, scale = positions
    assignment, similarity = assign(features, centres, scale=scale, metric=metric, plan=plan)
    if metric == "cosine":
        distance = 1.0 - similarity
    else:
        squares = jnp.sum(jnp.square(features.astype(jnp.float32)), -1)
        distance = jnp.maximum(squares - 2.0 * similarity, 0.0)
    inertia = jnp.sum(jnp.where(weights > 0, weights * distance, 0.0), -1)
    if axis_name is not None:
        inertia = jax.lax.psum(inertia, axis_name)
    return assignment, inertia
