"""k-means in scikit-learn's manner, on top of the same rounds; it needs jax and numpy only."""

from __future__ import annotations

import functools
import operator
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.kernels.initial import INITS, Init, initial_centres
from apanet_jax.kernels.lloyd import (
    Metric,
    assign,
    by_platform,
    cluster_sums,
    inverse_norm,
    lloyd,
    unit,
    widen,
)

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


class KMeans:
    """k-means of the rows of a matrix, by cosine or Euclidean distance.

    Unlike `kmeans`, it stops when the centres hardly move, and checks its input. Where no row
    joins a cluster, its centre stays; scikit-learn moves it to a far row.

    Parameters:
      n_clusters: at least 1, at most the number of rows.
      metric: "cosine", whose centres are unit vectors, or "euclidean".
      init: "k-means++", "farthest", "random" (see `kmeans`), or centres `[n_clusters, features]`.
      n_init: how often to start anew; the lowest inertia wins. Given centres are tried once.
      max_iter: rounds at most, at least 1.
      tol: stop where the squared movement of all centres together is at most `tol` times the mean
        variance of a feature over the rows (made unit vectors, for the cosine), without weights;
        0: where none moves.
      random_state: a seed; the same one gives the same result. None: another one each time.

    Attributes:
      cluster_centers_: float32 `[n_clusters, features]`.
      labels_: int32 `[rows]`, the nearest centre of each row.
      inertia_: sum over rows of weight times 1 - cosine, or times squared Euclidean distance.
      n_iter_: how many rounds were made.
    """

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Metric = "cosine",
        init: Init | Float[Array, "clusters features"] = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int | None = None,
    ):
        self.n_clusters = n_clusters
        self.metric = metric
        self.init = init
        self.n_init = n_init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def fit(
        self,
        X: Float[Array, "rows features"],
        y: None = None,
        sample_weight: Float[Array, " rows"] | None = None,
    ) -> KMeans:
        """Finds the clusters of the rows, and returns itself.

        Args:
          X: float32 or bfloat16; other numbers are converted to float32.
          y: not used.
          sample_weight: at least 0, one a row; None: all 1.

        Raises:
          ValueError: for settings out of range, shapes that do not fit, NaN or infinity.
        """
        features = _matrix(X)
        weights = _weights(sample_weight, len(features))
        given = self._check(features)
        shift = None
        if self.metric == "euclidean":
            shift = _far_mean(features, weights)
            if shift is not None:
                features = features.astype(jnp.float32) - shift
        seed = self.random_state
        if seed is None:
            seed = int(np.random.SeedSequence().generate_state(1)[0])
        best = None
        for key in jax.random.split(jax.random.key(seed), 1 if given is not None else self.n_init):
            if given is None:
                start = _start(features, weights, key, self.n_clusters, self.init, self.metric)
            else:
                start = given if shift is None else given - shift
            found = _fit(features, weights, start, self.tol, self.max_iter, self.metric)
            if best is None or found.inertia[0] < best.inertia[0]:
                best = found
        centres = best.centres[0] if shift is None else best.centres[0] + shift
        self.cluster_centers_ = np.asarray(centres)
        self.labels_ = np.asarray(best.assignment[0])
        self.inertia_ = float(best.inertia[0])
        self.n_iter_ = int(best.rounds)
        return self

    def fit_predict(
        self,
        X: Float[Array, "rows features"],
        y: None = None,
        sample_weight: Float[Array, " rows"] | None = None,
    ) -> Int[np.ndarray, " rows"]:
        """Finds the clusters, and returns each row's."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def predict(self, X: Float[Array, "rows features"]) -> Int[np.ndarray, " rows"]:
        """Returns the nearest of the centres found, for each row.

        Raises:
          ValueError: before `fit`, or where the rows do not fit or hold NaN or infinity.
        """
        if not hasattr(self, "cluster_centers_"):
            raise ValueError("this KMeans has no centres yet, call fit first")
        features = _matrix(X)
        if features.shape[1] != self.cluster_centers_.shape[1]:
            raise ValueError(
                f"X has {features.shape[1]} features, expected the "
                f"{self.cluster_centers_.shape[1]} of the rows that were fitted"
            )
        centres = jnp.asarray(self.cluster_centers_)
        if self.metric == "euclidean":
            # Only differences matter: far from the origin their squares would drown.
            shift = centres.mean(0)
            features, centres = features.astype(jnp.float32) - shift, centres - shift
        return np.asarray(_predict(features, centres, self.metric))

    def _check(self, features):
        """Raises what is wrong with the settings; returns the centres where they are given."""
        if self.metric not in ("cosine", "euclidean"):
            raise ValueError(f'metric is {self.metric!r}, expected "cosine" or "euclidean"')
        for name, most in (("n_clusters", len(features)), ("n_init", None), ("max_iter", None)):
            value = getattr(self, name)
            try:
                number = operator.index(value)
            except TypeError:
                number = 0
            if number < 1 or (most is not None and number > most):
                limit = "" if most is None else f" to the number of rows, {most}"
                raise ValueError(f"{name} is {value!r}, expected an integer from 1{limit}")
        if not self.tol >= 0:
            raise ValueError(f"tol is {self.tol!r}, expected at least 0")
        if isinstance(self.init, str):
            if self.init not in INITS:
                raise ValueError(
                    f'init is {self.init!r}, expected "k-means++", "farthest", "random" or centres'
                )
            return None
        centres = jnp.asarray(self.init, jnp.float32)
        expected = (self.n_clusters, features.shape[1])
        if centres.shape != expected:
            raise ValueError(f"init has shape {centres.shape}, expected {expected}")
        if not jnp.isfinite(centres).all():
            raise ValueError("init holds NaN or infinity, expected finite centres")
        return centres


def _matrix(X):
    features = X if isinstance(X, jax.Array) else np.asarray(X)
    if features.ndim != 2 or 0 in features.shape:
        raise ValueError(f"X has shape {features.shape}, expected rows x features, none of them 0")
    if features.dtype not in (jnp.float32, jnp.bfloat16):
        try:
            features = features.astype(np.float32)
        except (TypeError, ValueError):
            raise ValueError(f"X holds {features.dtype}, expected numbers") from None
    features = jnp.asarray(features)
    if not jnp.isfinite(features).all():
        raise ValueError(
            "X holds NaN or infinity, expected finite numbers; drop or fill those rows"
        )
    return features


def _weights(sample_weight, rows):
    if sample_weight is None:
        return jnp.ones(rows, jnp.float32)
    weights = jnp.asarray(sample_weight, jnp.float32)
    if weights.shape != (rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}, expected one a row: {(rows,)}")
    if not (jnp.isfinite(weights) & (weights >= 0)).all():
        raise ValueError("sample_weight holds negative, infinite or NaN, expected at least 0")
    return weights


def _far_mean(features, weights):
    """Returns the mean where the rows lie so far from the origin that their squares would drown."""
    mean, variance = _moments(features, weights)
    return mean if jnp.sum(jnp.square(mean)) > variance else None


@functools.partial(jax.jit, static_argnames=("num_clusters", "init", "metric"))
def _start(features, weights, key, num_clusters, init, metric):
    def choose(plan, features, weights, keys):
        return initial_centres(
            widen(features, plan),
            weights,
            keys,
            num_clusters=num_clusters,
            init=init,
            metric=metric,
            plan=plan,
        )

    return by_platform(choose, features[None], weights[None], key[None])[0]


@functools.partial(jax.jit, static_argnames="metric")
def _moments(features, weights, metric="euclidean"):
    """Returns the mean of the rows, or of their unit vectors, and their variance about it."""

    def run(plan, features, weights):
        cosine = metric == "cosine"
        scale = inverse_norm(features) if cosine else jnp.ones_like(weights)
        everywhere = jnp.zeros(weights.shape, jnp.int32)
        sums = cluster_sums(features, weights, everywhere, num_clusters=1, scale=scale, plan=plan)
        mass = jnp.maximum(jnp.sum(jnp.where(scale != 0, weights, 0.0)), 1e-30)
        mean = sums[0, 0] / mass
        squares = 1.0
        if not cosine:
            squares = jnp.sum(jnp.square(features.astype(jnp.float32)), -1)
            squares = jnp.sum(weights * squares) / mass
        return mean, jnp.maximum(squares - jnp.sum(jnp.square(mean)), 0.0)

    return by_platform(run, features[None], weights[None])


@functools.partial(jax.jit, static_argnames="metric")
def _fit(features, weights, start, tol, max_iter, metric):
    if metric == "cosine":
        start = unit(start)
    # Of the rows as they are, whatever their weights: scikit-learn stops by it too.
    variance = _moments(features, jnp.ones_like(weights), metric)[1] / features.shape[1]

    def run(plan, features, weights, start, tolerance, rounds):
        make = functools.partial(lloyd, rounds=rounds, metric=metric, plan=plan)
        return make(features, weights, start, tolerance=tolerance)

    return by_platform(run, features[None], weights[None], start[None], tol * variance, max_iter)


@functools.partial(jax.jit, static_argnames="metric")
def _predict(features, centres, metric):
    def run(plan, features, centres):
        return assign(features, centres, metric=metric, plan=plan)[0]

    return by_platform(run, features[None], centres[None])[0]
