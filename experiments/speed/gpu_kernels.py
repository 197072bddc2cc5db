"""The kernels on a device against NumPy in float64, and twice for the same bits."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.kernels import KMeans, cluster_average, kmeans
from experiments.harness import Row


def check_kernels(small: bool) -> Iterator[Row]:
    """Compares with NumPy in float64; a row each, with the largest difference."""
    shapes = [(2, 300, 64, 3), (3, 101, 7, 5), (1, 2000, 32, 40), (2, 301, 256, 3)]
    for batch, positions, channels, clusters in shapes if small else [(4, 3600, 2048, 3), *shapes]:
        rng = np.random.default_rng(positions)
        features = rng.standard_normal((batch, positions, channels), np.float32)
        features += 2 * features[:, :clusters][:, rng.integers(0, clusters, positions)]
        weights = rng.random((batch, positions), np.float32)
        init = features[:, :clusters]
        for dtype in (jnp.float32, jnp.bfloat16):
            yield _check_kmeans(jnp.asarray(features, dtype), weights, init)
        result = kmeans(features, clusters, init="k-means++", key=jax.random.key(0))
        yield {
            "kernel": "k-means++",
            "shape": [batch, positions, channels, clusters],
            "right": bool(np.isfinite(result.inertia).all()),
        }
        yield _check_pooling(features, weights, clusters)
    model = KMeans(3, metric="euclidean", init=features[0, :3], tol=0).fit(features[0])
    distance = np.square(features[0][:, None].astype(float) - model.cluster_centers_).sum(-1)
    error = abs(model.inertia_ / distance.min(1).sum() - 1)
    yield {"kernel": "KMeans", "largest_error": float(error), "right": bool(error < 1e-4)}


def _check_kmeans(features, weights, init) -> Row:
    clusters = init.shape[1]
    arguments = {"rounds": 5, "weights": weights, "init": init}
    first = jax.device_get(kmeans(features, clusters, **arguments))
    again = jax.device_get(kmeans(features, clusters, **arguments))
    exact = np.asarray(features).astype(np.float64)
    share, error = [], []
    for x, w, c, nearest, found in zip(
        exact, weights, init, first.assignment, first.centres, strict=True
    ):
        expected, centres = _exact_kmeans(x, w, c, 5)
        share.append(np.mean(nearest == expected))
        error.append(np.abs(found - centres).max())
    return {
        "kernel": "kmeans",
        "shape": [*features.shape, clusters],
        "type": features.dtype.name,
        "same_assignment": float(np.mean(share)),
        "largest_error": float(max(error)),
        "same_bits_twice": all(np.array_equal(a, b) for a, b in zip(first, again, strict=True)),
        "right": bool(min(share) > 0.999 and max(error) < 1e-3),
    }


def _exact_kmeans(x, weights, centres, rounds):
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    centres = centres / np.linalg.norm(centres, axis=-1, keepdims=True).astype(float)
    for _ in range(rounds):
        member = np.argmax(x @ centres.T, -1)[:, None] == np.arange(len(centres))
        sums = (member * weights[:, None].astype(float)).T @ x
        length = np.linalg.norm(sums, axis=-1, keepdims=True)
        centres = np.where(length > 1e-6, sums / np.maximum(length, 1e-12), centres)
    return np.argmax(x @ centres.T, -1), centres


def _check_pooling(features, weights, clusters) -> Row:
    rng = np.random.default_rng(0)
    batch, positions, channels = features.shape
    assignment = rng.integers(0, clusters, (batch, positions))
    towards = rng.standard_normal((batch, clusters, channels), np.float32)

    def loss(x):
        prototypes, _ = cluster_average(x, assignment, weights, clusters)
        return jnp.sum(prototypes * towards), prototypes

    gradient, prototypes = jax.jit(jax.grad(loss, has_aux=True))(features)
    masks = (assignment[..., None] == np.arange(clusters)) * weights[..., None].astype(float)
    areas = np.maximum(masks.sum(1), 1e-12)[..., None]
    exact = np.swapaxes(masks, 1, 2) @ features / areas
    error = max(
        np.abs(prototypes - exact).max(), np.abs(gradient - masks @ (towards / areas)).max()
    )
    return {
        "kernel": "cluster_average",
        "shape": [batch, positions, channels, clusters],
        "largest_error": float(error),
        "right": bool(error < 1e-4),
    }
