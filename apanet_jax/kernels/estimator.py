"""k-means in scikit-learn's manner, with the rounds of `lloyd`; it needs jax and numpy only."""

from __future__ import annotations

import functools
import inspect
import operator
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.kernels.assignment import Metric, position_scale
from apanet_jax.kernels.cluster_sums import cluster_sums
from apanet_jax.kernels.estimator_input import (
    as_rows,
    as_seed,
    as_weights,
    check_squares,
    shifted,
)
from apanet_jax.kernels.initial import INITS, Init, initial_centres
from apanet_jax.kernels.lloyd import lloyd
from apanet_jax.kernels.plans import by_platform, widen
from apanet_jax.kernels.precision import einsum
from apanet_jax.kernels.unit_vectors import unit

if TYPE_CHECKING:
    from jaxtyping import Array, Float, Int


_SMALLEST = 1e-18
"""Of the largest number that is clustered: its square is a normal number of float32."""


class KMeans:
    """k-means of the rows of a matrix, by cosine or Euclidean distance.

    Unlike `kmeans`, it stops when the centres hardly move, and checks its input. Where no row
    joins a cluster, its centre stays; scikit-learn moves it to a far row. It has the methods that
    scikit-learn's `clone`, `Pipeline` and `GridSearchCV` call.

    Euclidean distances are computed in float32 about the mean of the rows. The mean is taken in
    the precision of the input, so that float64 rows far from the origin (time stamps, map
    coordinates) are told apart as far as float64 tells them apart.

    Parameters:
      n_clusters: at least 1, at most the number of rows.
      metric: "cosine", whose centres are unit vectors, or "euclidean".
      init: "k-means++", "farthest", "random" (see `kmeans`), or centres `[n_clusters, features]`.
      n_init: number of starts, of which the lowest inertia is kept. Given centres are tried once.
      max_iter: rounds at most, at least 1.
      tol: stop where the squared movement of all centres together is at most `tol` times the mean
        variance of a feature over the rows (made unit vectors, for the cosine), without weights;
        0: where none moves.
      random_state: a seed, which gives the same result each time; or a NumPy RandomState or
        Generator, from which a seed is drawn. None: another seed each time.

    Attributes:
      cluster_centers_: `[n_clusters, features]`; float64 where the metric is "euclidean" and X is
        neither float32 nor of lower precision, else float32.
      labels_: int32 `[rows]`, the nearest centre of each row.
      inertia_: sum over rows of weight times 1 - cosine, or times squared Euclidean distance.
      n_iter_: number of rounds that were made.
      n_features_in_: number of features.
    """

    _estimator_type = "clusterer"

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        metric: Metric = "cosine",
        init: Init | Float[Array, "clusters features"] = "k-means++",
        n_init: int = 1,
        max_iter: int = 300,
        tol: float = 1e-4,
        random_state: int | np.random.RandomState | np.random.Generator | None = None,
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
          X: finite numbers.
          y: not used.
          sample_weight: at least 0, one for each row; None: all 1.

        Raises:
          ValueError: for settings out of range, shapes that do not fit, NaN or infinity, or rows
            whose squares overflow float32, or all vanish in it.
        """
        rows = as_rows(X)
        if 0 < float(abs(rows).max()) < _SMALLEST:
            raise ValueError(
                f"X holds no number of at least {_SMALLEST:g}, and squares of smaller ones vanish "
                "in float32: multiply them all by one number"
            )
        weights = as_weights(sample_weight, len(rows))
        given = self._check(rows)
        shift = None
        if self.metric == "euclidean":
            shift = _shift(rows, weights)
        features = shifted(rows, shift)
        check_squares(features, weights, self.metric)
        count = 1 if given is not None else self.n_init
        clusters, best = operator.index(self.n_clusters), None
        for key in jax.random.split(jax.random.key(as_seed(self.random_state)), count):
            if given is None:
                start = _start(features, weights, key, clusters, self.init, self.metric)
            else:
                start = shifted(given, shift)
            found = _fit(features, weights, start, self.tol, self.max_iter, self.metric)
            if best is None or found.inertia[0] < best.inertia[0]:
                best = found
        centres = np.asarray(best.centres[0])
        self.cluster_centers_ = centres if shift is None else centres + shift
        self.labels_ = np.asarray(best.assignment[0])
        self.inertia_ = float(best.inertia[0])
        self.n_iter_ = int(best.rounds)
        self.n_features_in_ = rows.shape[1]
        return self

    def fit_predict(
        self,
        X: Float[Array, "rows features"],
        y: None = None,
        sample_weight: Float[Array, " rows"] | None = None,
    ) -> Int[np.ndarray, " rows"]:
        """Finds the clusters, and returns each row's."""
        return self.fit(X, sample_weight=sample_weight).labels_

    def fit_transform(
        self,
        X: Float[Array, "rows features"],
        y: None = None,
        sample_weight: Float[Array, " rows"] | None = None,
    ) -> Float[np.ndarray, "rows clusters"]:
        """Finds the clusters, and returns each row's distances to their centres."""
        return self.fit(X, sample_weight=sample_weight).transform(X)

    def predict(self, X: Float[Array, "rows features"]) -> Int[np.ndarray, " rows"]:
        """Returns the nearest of the centres, for each row.

        Raises:
          ValueError: before `fit`, or where the rows do not fit, hold NaN or infinity, or have
            squares that overflow float32.
        """
        return np.asarray(_predict(*self._about_centres(X), self.metric)[0])

    def transform(self, X: Float[Array, "rows features"]) -> Float[np.ndarray, "rows clusters"]:
        """Returns the distance of each row to each centre: Euclidean, or 1 - cosine.

        Raises:
          ValueError: as `predict` does.
        """
        return np.asarray(_distances(*self._about_centres(X), self.metric))

    def score(
        self,
        X: Float[Array, "rows features"],
        y: None = None,
        sample_weight: Float[Array, " rows"] | None = None,
    ) -> float:
        """Returns minus the inertia of the rows with the centres that were found.

        Raises:
          ValueError: as `predict` does, or where the weights do not fit.
        """
        features, centres = self._about_centres(X)
        weights = as_weights(sample_weight, len(features))
        return -float(_predict(features, centres, self.metric, weights)[1])

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Returns the parameters by name; `deep` changes nothing."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> KMeans:
        """Sets parameters by name, and returns itself.

        Raises:
          ValueError: for a name that is no parameter.
        """
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"KMeans has no {name!r}, expected some of {_PARAMETERS}")
            setattr(self, name, value)
        return self

    def __sklearn_tags__(self):
        # Only scikit-learn calls it, and is there then.
        from sklearn.utils import InputTags, Tags, TargetTags, TransformerTags

        return Tags(
            estimator_type="clusterer",
            target_tags=TargetTags(required=False),
            transformer_tags=TransformerTags(),
            input_tags=InputTags(),
        )

    def _about_centres(self, X):
        """Returns rows and centres about the centres' mean, where only differences matter.

        Far from the origin their squares would drown in rounding.
        """
        if not hasattr(self, "cluster_centers_"):
            raise ValueError("this KMeans has no centres yet, call fit first")
        rows, centres = as_rows(X), self.cluster_centers_
        if rows.shape[1] != centres.shape[1]:
            raise ValueError(
                f"X has {rows.shape[1]} features, expected the "
                f"{centres.shape[1]} of the rows that were fitted"
            )
        shift = None
        if self.metric == "euclidean":
            shift = centres.mean(0)
            if isinstance(rows, jax.Array):
                # Rounded as the rows are, and the centres by the same number.
                shift = shift.astype(np.float32)
        features = shifted(rows, shift)
        check_squares(features, jnp.ones(1, jnp.float32), self.metric)
        return features, shifted(centres, shift)

    def _check(self, rows):
        """Raises what is wrong with the settings; returns the centres where they are given."""
        if self.metric not in ("cosine", "euclidean"):
            raise ValueError(f'metric is {self.metric!r}, expected "cosine" or "euclidean"')
        for name, most in (("n_clusters", len(rows)), ("n_init", None), ("max_iter", None)):
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
        centres = np.asarray(self.init, np.float64)
        expected = (self.n_clusters, rows.shape[1])
        if centres.shape != expected:
            raise ValueError(f"init has shape {centres.shape}, expected {expected}")
        if not np.isfinite(centres).all():
            raise ValueError("init holds NaN or infinity, expected finite centres")
        return centres


_PARAMETERS = tuple(inspect.signature(KMeans).parameters)


def _shift(rows, weights):
    """Returns the mean of the rows, or None where they lie near enough to the origin as they are.

    Near enough is where the square of the mean is at most the variance: squares do not drown then.
    """
    if rows.dtype == np.float64:
        own = np.asarray(weights, np.float64)
        # All weights may be 0; a mean that overflows is refused with the rows.
        with np.errstate(over="ignore"):
            return np.average(rows, 0, weights=own if own.any() else None)
    mean, variance = _moments(rows, weights)
    return np.asarray(mean) if jnp.sum(jnp.square(mean)) > variance else None


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
        scale = position_scale(features, metric)
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
def _predict(features, centres, metric, weights=None):
    """Returns each row's nearest centre, and the inertia."""
    if weights is None:
        weights = jnp.ones(len(features), jnp.float32)

    def run(plan, features, weights, centres):
        return lloyd(features, weights, centres, rounds=0, metric=metric, plan=plan)

    found = by_platform(run, features[None], weights[None], centres[None])
    return found.assignment[0], found.inertia[0]


@functools.partial(jax.jit, static_argnames="metric")
def _distances(features, centres, metric):
    if metric == "cosine":
        return 1.0 - einsum("rf,cf->rc", unit(features), centres)
    features = features.astype(jnp.float32)
    squares = jnp.sum(jnp.square(features), -1)[:, None] + jnp.sum(jnp.square(centres), -1)
    return jnp.sqrt(jnp.maximum(squares - 2.0 * einsum("rf,cf->rc", features, centres), 0.0))
