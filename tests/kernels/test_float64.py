"""With jax_enable_x64 the kernels give what they give without: types are theirs, not defaults."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.kernels import KMeans, cluster_average, expand, kmeans, masked_average


def features(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same_with_x64(function):
    """Calls with and without, and compares bits and types."""
    expected = jax.tree.map(np.asarray, function())
    with jax.enable_x64(True):
        found = jax.tree.map(np.asarray, function())
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert jax.tree.map(lambda x: x.dtype, found) == jax.tree.map(lambda x: x.dtype, expected)


@pytest.mark.parametrize(
    ("clusters", "init", "dtype"),
    [
        (3, "farthest", "float32"),
        (20, "k-means++", "bfloat16"),
        pytest.param(3, "random", "bfloat16", marks=pytest.mark.slow),
        pytest.param(3, "given", "float16", marks=pytest.mark.slow),
    ],
)
def test_kmeans(clusters, init, dtype):
    x = jnp.asarray(features(2, 50, 8), dtype)
    start = features(2, clusters, 8, seed=1) if init == "given" else init
    weights = np.random.default_rng(2).random((2, 50)).astype(np.float32)
    key = None if init == "given" else jax.random.key(0)
    same_with_x64(lambda: kmeans(x, clusters, weights=weights, init=start, key=key))


@pytest.mark.parametrize("metric", ["euclidean", pytest.param("cosine", marks=pytest.mark.slow)])
def test_the_estimator(metric):
    def fit():
        model = KMeans(3, metric=metric, random_state=0).fit(features(50, 8))
        return model.labels_, model.cluster_centers_, model.predict(features(9, 8))

    same_with_x64(fit)


def test_pooling():
    x, masks = features(2, 12, 5), np.abs(features(2, 12, 3))
    assignment = masks.argmax(-1)

    def averages(x):
        clusters, _ = cluster_average(x, assignment, masks[..., 0], 3)
        found = masked_average(x, masks)[0], clusters, expand(clusters, masks)
        return sum(y.sum() for y in found), found

    same_with_x64(lambda: jax.jit(jax.grad(averages, has_aux=True))(x))


def test_features_of_float64_are_converted():
    x = features(2, 30, 8).astype(np.float64)
    with jax.enable_x64(True):
        wide = jnp.asarray(x)
        assert wide.dtype == np.float64
        found = kmeans(wide, 3), masked_average(wide, np.ones((2, 30, 1)))
        gradient = jax.grad(lambda x: masked_average(x, np.ones((2, 30, 1)))[0].sum())(wide)
    assert all(y.dtype in (np.float32, np.int32) for y in jax.tree.leaves(found))
    assert gradient.dtype == np.float64
    np.testing.assert_array_equal(found[0].assignment, kmeans(x, 3).assignment)


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_rows_whose_squares_vanish_are_refused(metric):
    """Their inertia was 0, and all of them were alike."""
    rows = np.random.default_rng(0).standard_normal((20, 3))
    with pytest.raises(ValueError, match="vanish in float32"):
        KMeans(2, metric=metric).fit(rows * 1e-30)
