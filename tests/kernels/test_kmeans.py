"""Cosine k-means against a slow NumPy transcription, and its edge cases."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import pairwise_distances_argmin

from apanet_jax.kernels import kmeans
from apanet_jax.kernels.lloyd import ACCELERATOR, CPU, Plan, lloyd, unit


def slow_kmeans(features, centres, rounds, weights):
    """Spherical Lloyd, one picture, in float64."""
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)
    centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    for _ in range(rounds):
        nearest = np.argmax(unit @ centres.T, 1)
        for k in range(len(centres)):
            total = (unit * weights[:, None])[nearest == k].sum(0)
            if np.linalg.norm(total) > 1e-6:
                centres[k] = total / np.linalg.norm(total)
    cosine = unit @ centres.T
    return np.argmax(cosine, 1), centres, (weights * (1 - cosine.max(1))).sum()


def random_features(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(40, 6, 3), (7, 3, 7), (1, 4, 1), (301, 5, 4)])
@pytest.mark.parametrize("rounds", [0, 1, 10])
def test_agrees_with_a_slow_transcription(shape, rounds):
    positions, channels, clusters = shape
    for seed in range(5):
        rng = np.random.default_rng(seed)
        features = random_features(seed, positions, channels)
        weights = rng.integers(0, 3, positions).astype(np.float32)
        centres = random_features(seed + 100, clusters, channels)
        result = kmeans(features, clusters, rounds=rounds, weights=weights, init=centres)
        assignment, expected, inertia = slow_kmeans(
            features.astype(np.float64), centres.astype(np.float64), rounds, weights
        )
        np.testing.assert_array_equal(result.assignment, assignment)
        np.testing.assert_allclose(result.centres, expected, atol=1e-4)
        np.testing.assert_allclose(result.inertia, inertia, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_every_plan_gives_the_same(dtype, metric):
    features = jnp.asarray(random_features(0, 2, 101, 8), dtype)
    weights = np.random.default_rng(1).random((2, 101)).astype(np.float32)
    centres = unit(random_features(2, 2, 5, 8))
    plans = {
        "whole": Plan(),
        "blocks": Plan(similarity_bytes=400),
        "wider": Plan(widen_bytes=1 << 20, widths=((5, 8),)),
        "converted by the block": Plan(similarity_bytes=400, widen_bytes=1),
        "scattered": Plan(scatter_above=2),
        "scattered blocks": Plan(similarity_bytes=400, scatter_above=2),
        "cpu": CPU,
        "accelerator": ACCELERATOR,
    }
    results = {
        name: lloyd(features, weights, centres, rounds=3, metric=metric, plan=plan)
        for name, plan in plans.items()
    }
    for name, result in results.items():
        np.testing.assert_array_equal(result.assignment, results["whole"].assignment, name)
        np.testing.assert_allclose(result.centres, results["whole"].centres, atol=2e-5)
        np.testing.assert_allclose(result.inertia, results["whole"].inertia, rtol=1e-4)


def test_an_assignment_step_agrees_with_scikit_learn():
    features, centres = random_features(0, 50, 6), random_features(1, 4, 6)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    unit_centres = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    np.testing.assert_array_equal(
        kmeans(features, 4, rounds=0, init=centres).assignment,
        pairwise_distances_argmin(unit, unit_centres),
    )


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["farthest", "k-means++", "random"]))
def test_more_rounds_are_never_worse(seed, init):
    features = random_features(seed, 30, 4)
    run = functools.partial(kmeans, features, 3, init=init, key=jax.random.key(seed))
    inertias = [float(run(rounds=r).inertia) for r in (0, 1, 2, 5)]
    assert all(b <= a + 1e-4 for a, b in zip(inertias, inertias[1:], strict=False))


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_lengths_do_not_matter_and_order_only_reorders(seed):
    rng = np.random.default_rng(seed)
    features, centres = random_features(seed, 30, 4), random_features(seed + 1, 3, 4)
    expected = kmeans(features, 3, init=centres)
    scaled = kmeans(features * rng.uniform(0.1, 10, (30, 1)).astype(np.float32), 3, init=centres)
    np.testing.assert_array_equal(scaled.assignment, expected.assignment)
    order = rng.permutation(30)
    shuffled = kmeans(features[order], 3, init=centres)
    np.testing.assert_array_equal(shuffled.assignment, expected.assignment[order])


def test_a_weight_of_two_is_a_position_twice():
    features, centres = random_features(0, 20, 4), random_features(1, 3, 4)
    weights = np.random.default_rng(2).integers(0, 3, 20)
    weighted = kmeans(features, 3, weights=weights.astype(np.float32), init=centres)
    repeated = kmeans(np.repeat(features, weights, 0), 3, init=centres)
    np.testing.assert_allclose(weighted.centres, repeated.centres, atol=1e-5)
    np.testing.assert_allclose(weighted.inertia, repeated.inertia, rtol=1e-4)


def test_the_same_key_gives_the_same_bits_and_batches_do_not_mix():
    features = random_features(0, 3, 25, 4)
    first = kmeans(features, 3, key=jax.random.key(7))
    again = kmeans(features, 3, key=jax.random.key(7))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    changed = features.copy()
    changed[0] = 1.0
    other = kmeans(changed, 3, key=jax.random.key(7))
    np.testing.assert_array_equal(first.assignment[1:], other.assignment[1:])


def test_vmap_jit_and_a_spread_batch_agree():
    features, centres = random_features(0, 8, 25, 4), random_features(1, 8, 3, 4)
    expected = kmeans(features, 3, init=centres)

    def one(x, c):
        return kmeans(x, 3, init=c)

    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    for result in (
        jax.vmap(one)(features, centres),
        jax.jit(lambda x, c: kmeans(x, 3, init=c))(features, centres),
        kmeans(jax.device_put(features, spread), 3, init=jax.device_put(centres, spread)),
    ):
        np.testing.assert_array_equal(result.assignment, expected.assignment)
        np.testing.assert_allclose(result.centres, expected.centres, atol=1e-5)


def test_bfloat16_comes_close_and_sums_in_float32():
    features, centres = random_features(0, 400, 16), random_features(1, 3, 16)
    low = jnp.asarray(features, jnp.bfloat16)
    result = kmeans(low, 3, init=centres)
    exact = kmeans(np.asarray(low, np.float32), 3, init=centres)
    assert result.centres.dtype == jnp.float32
    np.testing.assert_allclose(result.inertia, exact.inertia, rtol=0.02)


def test_no_gradient_flows():
    features = random_features(0, 10, 4)
    gradient = jax.grad(lambda x: kmeans(x, 2).inertia + kmeans(x, 2).centres.sum())(features)
    assert not gradient.any()


@pytest.mark.parametrize("init", ["farthest", "k-means++", "random"])
class TestEdgeCases:
    """What is defined where there is little or nothing to cluster."""

    def run(self, features, clusters, init, weights=None):
        return kmeans(features, clusters, init=init, weights=weights, key=jax.random.key(0))

    def test_alike_positions_leave_clusters_empty(self, init):
        result = self.run(np.ones((6, 3), np.float32), 3, init)
        assert len(np.unique(result.assignment)) == 1
        np.testing.assert_allclose(result.inertia, 0, atol=1e-5)

    def test_zero_vectors_are_finite(self, init):
        features = random_features(0, 6, 3)
        features[2:] = 0
        assert all(np.isfinite(x).all() for x in self.run(features, 3, init))
        assert all(np.isfinite(x).all() for x in self.run(np.zeros((4, 3), np.float32), 2, init))

    def test_no_weight_at_all_is_finite(self, init):
        result = self.run(random_features(0, 6, 3), 2, init, np.zeros(6, np.float32))
        assert result.inertia == 0 and all(np.isfinite(x).all() for x in result)

    def test_as_many_clusters_as_positions(self, init):
        result = self.run(np.eye(4, dtype=np.float32), 4, init)
        assert sorted(result.assignment.tolist()) == [0, 1, 2, 3]
        np.testing.assert_allclose(result.inertia, 0, atol=1e-5)

    def test_one_position_one_cluster(self, init):
        result = self.run(np.array([[3.0, 4.0]], np.float32), 1, init)
        np.testing.assert_allclose(result.centres, [[0.6, 0.8]], atol=1e-6)

    def test_positions_without_weight_are_never_chosen(self, init):
        features = np.concatenate([np.eye(3), -100 * np.ones((3, 3))]).astype(np.float32)
        result = self.run(features, 3, init, np.array([1, 1, 1, 0, 0, 0], np.float32))
        assert sorted(result.assignment[:3].tolist()) == [0, 1, 2]

    def test_nan_stays_in_its_picture(self, init):
        features = random_features(0, 2, 10, 3)
        features[0, 4, 1] = np.nan
        result = self.run(features, 2, init)
        assert np.isnan(result.inertia[0]) and np.isfinite(result.inertia[1])
        assert ((result.assignment >= 0) & (result.assignment < 2)).all()


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_clusters": 0},
        {"num_clusters": 11},
        {"num_clusters": 2, "rounds": -1},
        {"num_clusters": 2, "init": "k-means++"},
        {"num_clusters": 2, "init": "best"},
        {"num_clusters": 2, "init": np.ones((3, 4))},
        {"num_clusters": 2, "weights": np.ones(9)},
    ],
)
def test_what_cannot_be_is_refused(arguments):
    with pytest.raises(ValueError, match="expected|pass a key"):
        kmeans(random_features(0, 10, 4), **arguments)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for_every_platform(platform):
    function = jax.jit(functools.partial(kmeans, num_clusters=3))
    shape = jax.ShapeDtypeStruct((2, 50, 8), jnp.bfloat16)
    jax.export.export(function, platforms=[platform])(shape)
