"""Cosine k-means against a slow NumPy transcription, and its edge cases."""

import functools
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental import checkify
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import pairwise_distances_argmin
from sklearn.preprocessing import normalize

from apanet_jax.kernels import kmeans
from apanet_jax.kernels.lloyd import CPU, GPU, Plan, lloyd, unit


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


@pytest.mark.parametrize(
    ("dtype", "metric"), [(jnp.float32, "euclidean"), (jnp.bfloat16, "cosine")]
)
def test_every_plan_gives_the_same(dtype, metric):
    features = jnp.asarray(random_features(0, 2, 101, 8), dtype)
    weights = np.random.default_rng(1).random((2, 101)).astype(np.float32)
    centres = unit(random_features(2, 2, 5, 8))
    plans = {
        "whole": Plan(),
        "of a GPU": GPU,
        "blocks": Plan(similarity_bytes=400),
        "wider": Plan(widen_bytes=1 << 20, widths=((5, 8),)),
        "converted by the block": Plan(similarity_bytes=400, widen_bytes=1),
        "scattered": Plan(scatter_above=2),
        "told": Plan(tell_moved=0.9),
        "scattered blocks": Plan(similarity_bytes=400, scatter_above=2),
        "reduced blocks": Plan(similarity_bytes=400, reduce_up_to=5),
    }
    run = jax.jit(functools.partial(lloyd, rounds=3, metric=metric), static_argnames="plan")
    results = {name: run(features, weights, centres, plan=plan) for name, plan in plans.items()}
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
@given(st.integers(0, 10**6))
def test_more_rounds_are_never_worse(seed):
    features = random_features(seed, 30, 4)
    run = functools.partial(kmeans, features, 3, init="random", key=jax.random.key(seed))
    inertias = [float(run(rounds=r).inertia) for r in (0, 1, 5)]
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


def test_vmap_over_keys_and_over_centres():
    features, centres = random_features(0, 25, 4), random_features(1, 5, 3, 4)
    keys = jax.random.split(jax.random.key(0), 5)
    starts = jax.vmap(lambda c: kmeans(features, 3, init=c))(centres)
    draws = jax.vmap(lambda k: kmeans(features, 3, init="random", key=k))(keys)
    for i in range(5):
        one = kmeans(features, 3, init=centres[i])
        np.testing.assert_array_equal(starts.assignment[i], one.assignment)
        one = kmeans(features, 3, init="random", key=keys[i])
        np.testing.assert_array_equal(draws.assignment[i], one.assignment)


def test_bfloat16_features_lose_nothing_on_the_way():
    features, centres = random_features(0, 400, 16), random_features(1, 3, 16)
    low = jnp.asarray(features, jnp.bfloat16)
    result = kmeans(low, 3, init=centres)
    exact = kmeans(np.asarray(low, np.float32), 3, init=centres)
    assert result.centres.dtype == jnp.float32
    np.testing.assert_array_equal(result.assignment, exact.assignment)
    np.testing.assert_allclose(result.centres, exact.centres, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_other_types_are_converted(dtype):
    features, centres = (10 * random_features(0, 40, 6)).astype(dtype), random_features(1, 3, 6)
    result, expected = (kmeans(x, 3, init=centres) for x in (features, features.astype(np.float32)))
    np.testing.assert_array_equal(result.assignment, expected.assignment)


@pytest.mark.slow
def test_rounds_of_scikit_learn_with_unit_centres_make_the_same_assignments():
    """Lloyd on unit vectors is cosine k-means if its means are made unit vectors every round.

    |x - c|^2 = 2 - 2 <x, c> for unit x and c: then the nearest centre has the largest cosine, and
    the mean's direction is the new centre. So one round of scikit-learn at a time, with its centres
    made unit vectors in between, has to give the same, but where two centres are equally near.
    """
    rounds, clusters = 4, 3
    for seed in range(100):
        rng = np.random.default_rng(seed)
        features = random_features(seed, 60, 5)
        features += 2 * random_features(seed + 1000, clusters, 5)[rng.integers(0, clusters, 60)]
        unit_features = normalize(features)
        start = normalize(features[rng.choice(60, clusters, replace=False)])
        centres = start
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for _ in range(rounds):
                model = KMeans(clusters, init=centres, n_init=1, max_iter=1)
                centres = normalize(model.fit(unit_features).cluster_centers_)
        expected = pairwise_distances_argmin(unit_features, centres)
        result = _four_rounds(features, start)
        np.testing.assert_allclose(result.centres, centres, atol=1e-5)
        cosine = np.sort(unit_features @ centres.T, 1)
        tie = cosine[:, -1] - cosine[:, -2] < 1e-5
        np.testing.assert_array_equal(result.assignment[~tie], expected[~tie])


@jax.jit
def _four_rounds(features, centres):
    ones = jnp.ones((1, len(features)))
    found = lloyd(features[None], ones, centres[None], rounds=4, plan=CPU)
    return jax.tree.map(lambda x: x[0] if x.ndim else x, found)


def test_many_clusters_agree_with_a_slow_transcription():
    features, centres = random_features(0, 300, 8), random_features(1, 40, 8)
    result = kmeans(features, 40, rounds=3, init=centres)
    assignment, expected, inertia = slow_kmeans(
        features.astype(np.float64), centres.astype(np.float64), 3, np.ones(300)
    )
    np.testing.assert_array_equal(result.assignment, assignment)
    np.testing.assert_allclose(result.centres, expected, atol=1e-4)
    np.testing.assert_allclose(result.inertia, inertia, rtol=1e-4)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_telling_sums_who_moved_is_as_good_as_summing(seed):
    rng = np.random.default_rng(seed)
    features = random_features(seed, 3, 80, 4)
    # Weights over eight orders of magnitude: what rounding leaves of a heavy one drowns light ones.
    weights = (10.0 ** rng.uniform(-6, 2, (3, 80))).astype(np.float32)
    centres = unit(random_features(seed + 1, 3, 6, 4))
    told, summed = (_to_rest(features, weights, centres, plan) for plan in (CPU, Plan()))
    np.testing.assert_array_equal(told.assignment, summed.assignment)
    np.testing.assert_allclose(told.centres, summed.centres, atol=1e-4)


@functools.partial(jax.jit, static_argnames="plan")
def _to_rest(features, weights, centres, plan):
    return lloyd(features, weights, centres, rounds=50, tolerance=jnp.float32(0), plan=plan)


def test_lloyd_stops_where_the_centres_hardly_move():
    features, weights = random_features(0, 1, 50, 4), np.ones((1, 50), np.float32)
    centres = unit(random_features(1, 1, 3, 4))
    until = lloyd(features, weights, centres, rounds=100, tolerance=jnp.float32(0))
    assert 1 < until.rounds < 100
    fixed = lloyd(features, weights, centres, rounds=int(until.rounds) + 5)
    np.testing.assert_array_equal(until.centres, fixed.centres)


@pytest.mark.parametrize("spec", [(None, "data"), (None, ("rows", "columns")), ("rows", "columns")])
@pytest.mark.parametrize("init", ["given", "farthest"])
def test_positions_spread_over_devices_agree(spec, init):
    features, centres = random_features(0, 2, 64, 4), random_features(1, 2, 3, 4)
    weights = np.random.default_rng(2).random((2, 64)).astype(np.float32)
    init = centres if init == "given" else init
    shape, names = ((8,), ("data",)) if "data" in spec else ((2, 4), ("rows", "columns"))
    mesh = jax.make_mesh(shape, names, axis_types=(jax.sharding.AxisType.Auto,) * len(shape))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*spec))
    spread = jax.device_put(features, sharding)
    result = kmeans(spread, 3, weights=weights, init=init)
    expected = kmeans(features, 3, weights=weights, init=init)
    np.testing.assert_array_equal(result.assignment, expected.assignment)
    np.testing.assert_allclose(result.centres, expected.centres, atol=1e-5)
    np.testing.assert_allclose(result.inertia, expected.inertia, rtol=1e-5)


def test_spread_positions_are_never_gathered():
    module = sys.modules["apanet_jax.kernels.kmeans"]
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    shape = jax.ShapeDtypeStruct((1, 640, 4), jnp.float32, sharding=sharding)
    weights = jax.ShapeDtypeStruct((1, 640), jnp.float32)
    # The largest array on a device is its own share of the features, 80 x 4.
    program = module._kmeans.lower(
        shape, weights, None, None, 3, 10, "farthest", (mesh, None, "data")
    ).compile()
    assert "f32[1,640,4]" not in program.as_text()
    assert "f32[1,80,4]" in program.as_text()


def test_checkify_tells_of_nan():
    features = random_features(0, 10, 3)
    checked = checkify.checkify(jax.jit(functools.partial(kmeans, num_clusters=2)))
    checked(features)[0].throw()
    features[3, 1] = np.nan
    with pytest.raises(checkify.JaxRuntimeError, match="NaN or infinity"):
        checked(features)[0].throw()


def test_kernels_import_with_jax_and_numpy_alone():
    program = """
import sys
for name in ("jaxtyping", "flax", "optax", "sklearn", "torch", "absl", "etils"):
    sys.modules[name] = None
import numpy as np
from apanet_jax.kernels import KMeans, kmeans
kmeans(np.eye(3, dtype=np.float32), 2)
KMeans(2, random_state=0).fit(np.eye(3))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


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

    def test_fewer_distinct_vectors_than_clusters(self, init):
        result = self.run(np.repeat(np.eye(2, 3, dtype=np.float32), 3, 0), 3, init)
        assert len(np.unique(result.assignment)) <= 2
        assert all(np.isfinite(x).all() for x in result)

    def test_zero_vectors_are_finite(self, init):
        features = random_features(0, 6, 3)
        features[2:] = 0
        assert all(np.isfinite(x).all() for x in self.run(features, 3, init))
        assert all(np.isfinite(x).all() for x in self.run(np.zeros((6, 3), np.float32), 3, init))

    def test_no_weight_at_all_is_finite(self, init):
        result = self.run(random_features(0, 6, 3), 3, init, np.zeros(6, np.float32))
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

    @pytest.mark.parametrize("weight", [0, 1])
    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_nan_stays_in_its_picture(self, init, value, weight):
        features, weights = random_features(0, 2, 10, 3), np.ones((2, 10), np.float32)
        features[0, 4, 1], weights[0, 4] = value, weight
        result = self.run(features, 2, init, weights)
        assert np.isnan(result.inertia[0]) and np.isfinite(result.inertia[1])
        assert ((result.assignment >= 0) & (result.assignment < 2)).all()


def test_numbers_and_weights_of_other_kinds():
    features = random_features(0, 20, 4)
    expected = kmeans(features, 3, rounds=2, weights=np.ones(20, np.float32))
    found = kmeans(features, jnp.int32(3), rounds=np.int64(2), weights=[1.0] * 20)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


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
@pytest.mark.parametrize("shape", [(2, 50, 8, 3, "bfloat16"), (1, 10**6, 512, 1024, "float32")])
def test_lowers_for_every_platform(platform, shape):
    *dimensions, clusters, dtype = shape
    function = jax.jit(functools.partial(kmeans, num_clusters=clusters))
    features = jax.ShapeDtypeStruct(dimensions, dtype)
    jax.export.export(function, platforms=[platform])(features)
