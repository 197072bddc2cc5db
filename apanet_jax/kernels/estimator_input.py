"""What `KMeans` takes: rows, weights and seeds are checked and converted here."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Array, Float

    from apanet_jax.kernels.assignment import Metric

_DEVICE_TYPES = (np.dtype(np.float32), jnp.dtype(jnp.bfloat16))


def as_rows(X: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    """Returns a matrix of finite numbers.

    float32 and bfloat16 go to the device as they are, float16 in float32; other numbers stay on the
    host in float64, to be converted when their mean has been taken off.

    Raises:
      ValueError: for another shape, or what is no finite number.
    """
    rows = X if isinstance(X, jax.Array) else np.asarray(X)
    if rows.ndim != 2 or 0 in rows.shape:
        raise ValueError(f"X has shape {rows.shape}, expected rows x features, none of them 0")
    if rows.dtype == np.float16:
        rows = rows.astype(np.float32)
    if rows.dtype in _DEVICE_TYPES:
        rows = jnp.asarray(rows)
    else:
        try:
            rows = np.asarray(rows).astype(np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"X holds {rows.dtype}, expected numbers") from None
    if not (jnp if isinstance(rows, jax.Array) else np).isfinite(rows).all():
        raise ValueError(
            "X holds NaN or infinity, expected finite numbers; drop or fill those rows"
        )
    return rows


def as_weights(sample_weight: Float[Array, " rows"] | None, rows: int) -> Float[Array, " rows"]:
    """Returns float32 weights, all 1 where none are given.

    Raises:
      ValueError: for another length, or what is no finite number from 0 on.
    """
    if sample_weight is None:
        return jnp.ones(rows, jnp.float32)
    weights = jnp.asarray(sample_weight, jnp.float32)
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}, expected one a row: {(rows,)}")
    if not (jnp.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("sample_weight holds negative, infinite or NaN, expected at least 0")
    return weights


def as_seed(random_state: int | np.random.RandomState | np.random.Generator | None) -> int:
    """Returns a seed, drawn where none is given."""
    if random_state is None:
        return int(np.random.SeedSequence().generate_state(1)[0])
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31))
    if isinstance(random_state, np.random.Generator):
        return int(random_state.integers(2**31))
    return operator.index(random_state)


def shifted(
    rows: Float[Array, "rows features"], shift: Float[np.ndarray, " features"] | None
) -> Float[Array, "rows features"]:
    """Returns rows less a shift, for the device: in the precision of the rows, then in float32."""
    if isinstance(rows, jax.Array):
        return rows if shift is None else rows.astype(jnp.float32) - shift
    # What overflows is refused by `check_squares`.
    with np.errstate(over="ignore", invalid="ignore"):
        return jnp.asarray((rows if shift is None else rows - shift).astype(np.float32))


def check_squares(
    features: Float[Array, "rows features"], weights: Float[Array, " rows"], metric: Metric
) -> None:
    """Refuses rows whose squared norms, or for Euclidean distance whose inertia, overflow float32.

    Raises:
      ValueError: for such rows.
    """
    squares = jnp.sum(jnp.square(features.astype(jnp.float32)), -1)
    # Of Euclidean distances, the largest may be twice the largest norm.
    if metric == "euclidean":
        squares = jnp.append(squares, jnp.sum(weights * squares)) * 4.0
    if not jnp.isfinite(squares).all():
        raise ValueError("X holds numbers whose squares overflow float32, expected smaller ones")
