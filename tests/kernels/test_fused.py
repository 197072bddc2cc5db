"""The Pallas kernel, interpreted, against NumPy in float64; and that it lowers for a GPU."""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.kernels import kmeans
from apanet_jax.kernels.fused import assign_and_sum
from apanet_jax.kernels.lloyd import FUSED, lloyd

fused_kmeans = functools.partial(kmeans, kernel="fused")


def draw(seed, batch, positions, clusters, channels=128):
    """Returns features around some directions, weights with zeros among them, and centres."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((batch, positions, channels), np.float32)
    directions = rng.standard_normal((clusters, channels), np.float32)
    features += 0.5 * directions[rng.integers(0, clusters, (batch, positions))]
    weights = rng.integers(0, 3, (batch, positions)).astype(np.float32)
    return features, weights, rng.standard_normal((batch, clusters, channels), np.float32)


def exact_round(features, centres, share, metric):
    """Returns nearest centres and sums, in float64."""
    features, centres = np.asarray(features).astype(float), centres.astype(float)
    similarity = np.einsum("bpc,bkc->bpk", features, centres)
    if metric == "euclidean":
        similarity -= 0.5 * np.square(centres).sum(-1)[:, None]
    nearest = similarity.argmax(-1)
    member = (nearest[..., None] == np.arange(centres.shape[1])) * share[..., None].astype(float)
    return nearest, np.einsum("bpk,bpc->bkc", member, features)


def exact_kmeans(features, centres, rounds, weights):
    """Spherical Lloyd of a batch, in float64; a centre that nobody joins stays."""
    features = np.asarray(features).astype(float)
    norms = np.linalg.norm(features, axis=-1, keepdims=True)
    features = np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)
    centres = centres / np.linalg.norm(centres, axis=-1, keepdims=True).astype(float)
    for _ in range(rounds):
        _, sums = exact_round(features, centres, weights, "cosine")
        length = np.linalg.norm(sums, axis=-1, keepdims=True)
        centres = np.where(length > 1e-6, sums / np.maximum(length, 1e-6), centres)
    cosine = np.einsum("bpc,bkc->bpk", features, centres)
    return cosine.argmax(-1), centres, (weights * (1 - cosine.max(-1))).sum(-1)


# Positions that fill no block, some programs of some blocks with a last one in part, and one block.
@pytest.mark.parametrize(
    "shape, clusters, dtype, metric",
    [
        ((2, 3, 128), 1, jnp.float32, "cosine"),
        ((40, 101, 256), 5, jnp.float32, "euclidean"),
        ((40, 101, 256), 5, jnp.bfloat16, "cosine"),
        ((1, 16, 384), 2, jnp.bfloat16, "cosine"),
    ],
)
def test_a_round_agrees_with_float64(shape, clusters, dtype, metric):
    batch, positions, channels = shape
    features, share, centres = draw(0, batch, positions, clusters, channels)
    features = jnp.asarray(features, dtype)
    nearest, sums = jax.jit(functools.partial(assign_and_sum, metric=metric))(
        features, centres, share
    )
    expected, exact = exact_round(features, centres, share, metric)
    np.testing.assert_array_equal(nearest, expected)
    np.testing.assert_allclose(sums, exact, rtol=1e-5, atol=1e-4)


def test_a_feature_that_does_not_count_is_not_looked_at():
    features, share, centres = draw(0, 1, 20, 2)
    share[0, 3] = 0
    expected = exact_round(features, centres, share, "cosine")[1]
    features[0, 3] = np.nan
    np.testing.assert_allclose(assign_and_sum(features, centres, share)[1], expected, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_kmeans_agrees_with_float64(dtype):
    """With weights, zero vectors, and a centre that nobody joins."""
    features, weights, centres = draw(1, 2, 50, 3)
    features[:, 7:9] = 0
    centres[1, 2] = -features[1].sum(0)
    features = jnp.asarray(features, dtype)
    result = fused_kmeans(features, 3, rounds=4, weights=weights, init=centres)
    assignment, expected, inertia = exact_kmeans(features, centres, 4, weights)
    assert len(np.unique(assignment[1])) == 2
    np.testing.assert_array_equal(result.assignment, assignment)
    np.testing.assert_allclose(result.centres, expected, atol=1e-5)
    np.testing.assert_allclose(result.inertia, inertia, rtol=1e-5)


def test_vmap_and_jit_agree_and_bits_repeat():
    features, weights, centres = draw(2, 3, 40, 3)

    def one(x, w, c):
        return fused_kmeans(x, 3, rounds=3, weights=w, init=c)

    whole, again = (one(features, weights, centres) for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, whole, again)
    mapped = jax.jit(jax.vmap(one))(features, weights, centres)
    np.testing.assert_array_equal(mapped.assignment, whole.assignment)
    np.testing.assert_allclose(mapped.centres, whole.centres, atol=1e-6)


def test_positions_spread_over_devices_agree_with_float64():
    features, weights, centres = draw(3, 2, 64, 3)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(None, "data"))
    spread = jax.device_put(features, sharding)
    result = fused_kmeans(spread, 3, rounds=3, weights=weights, init=centres)
    assignment, expected, _ = exact_kmeans(features, centres, 3, weights)
    np.testing.assert_array_equal(result.assignment, assignment)
    np.testing.assert_allclose(result.centres, expected, atol=1e-5)


def test_euclidean_rounds_agree_with_float64():
    features, weights, centres = draw(4, 1, 60, 3)
    found = lloyd(features, weights, centres, rounds=3, metric="euclidean", plan=FUSED)
    for _ in range(3):
        nearest, sums = exact_round(features, centres, weights, "euclidean")
        mass = (weights[..., None] * (nearest[..., None] == np.arange(3))).sum(1)[..., None]
        centres = np.where(mass > 0, sums / np.maximum(mass, 1), centres)
    np.testing.assert_allclose(found.centres, centres, atol=1e-4)


@pytest.mark.parametrize(
    "channels, clusters, words", [(128, 17, "at most 16"), (96, 3, "of 128"), (8192, 9, "no room")]
)
def test_shapes_that_do_not_suit_are_refused_in_a_line(channels, clusters, words):
    with pytest.raises(ValueError, match=words) as caught:
        jax.eval_shape(lambda x: fused_kmeans(x, clusters), jnp.zeros((1, 20, channels)))
    assert "\n" not in str(caught.value)


def test_another_kernel_is_refused():
    with pytest.raises(ValueError, match='"auto", "xla" or "fused"'):
        kmeans(np.eye(3, dtype=np.float32), 2, kernel="fast")


def test_what_is_missing_is_said():
    program = """
import sys
sys.modules["absl"] = None
import numpy as np
from apanet_jax.kernels import kmeans
kmeans(np.eye(3, 128, dtype=np.float32), 2, kernel="fused")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 1 and 'ValueError: kernel="fused" needs absl-py' in done.stderr


# The paper's features, COCO's batch, the most clusters, and channels in an odd number of panels.
@pytest.mark.parametrize(
    "shape",
    [(4, 3600, 2048, 3), (8, 3600, 2048, 5), (1, 7, 128, 1), (2, 625, 640, 16), (1, 50, 384, 2)],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowers_for_a_gpu(shape, dtype):
    *dimensions, clusters = shape
    features = jax.ShapeDtypeStruct(dimensions, dtype)
    function = jax.jit(functools.partial(fused_kmeans, num_clusters=clusters))
    exported = jax.export.export(function, platforms=["cuda"])(features)
    assert "mosaic_gpu" in exported.mlir_module()
