"""Masked average pooling against NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from apanet_jax.kernels import cluster_average, expand, masked_average


def _inputs(seed=0):
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((2, 12, 5)).astype(np.float32)
    masks = rng.random((2, 12, 3)).astype(np.float32)
    masks[0, :, 1] = 0
    return features, masks


def test_is_the_weighted_mean_and_zero_where_a_mask_is_empty():
    features, masks = _inputs()
    prototypes, areas = masked_average(features, masks)
    np.testing.assert_allclose(areas, masks.sum(1), rtol=1e-6)
    for b in range(2):
        for k in range(3):
            expected = (
                np.average(features[b], axis=0, weights=masks[b, :, k])
                if masks[b, :, k].any()
                else np.zeros(5)
            )
            np.testing.assert_allclose(prototypes[b, k], expected, atol=1e-5)


def test_epsilon_joins_the_area():
    prototypes, _ = masked_average(np.ones((4, 1)), np.ones((4, 1)), epsilon=0.5)
    np.testing.assert_allclose(prototypes, [[4 / 4.5]], rtol=1e-6)


def test_gradients_agree_with_torch_and_are_zero_for_empty_masks():
    features, masks = _inputs()
    weight = np.random.default_rng(1).standard_normal((2, 3, 5)).astype(np.float32)
    gradient = jax.grad(lambda f: (masked_average(f, masks, epsilon=1e-3)[0] * weight).sum())(
        features
    )
    f = torch.tensor(features, requires_grad=True)
    m = torch.tensor(masks)
    pooled = torch.einsum("bpk,bpc->bkc", m, f) / (m.sum(1) + 1e-3)[..., None]
    (pooled * torch.tensor(weight)).sum().backward()
    np.testing.assert_allclose(gradient, f.grad, atol=1e-5)
    of_masks = jax.grad(lambda m: masked_average(features, m)[0].sum())(masks)
    assert np.isfinite(of_masks).all()


def test_bfloat16_features_are_summed_in_float32():
    features = jnp.full((4096, 1), 1.0, jnp.bfloat16)
    prototypes, areas = masked_average(features, jnp.ones((4096, 1)))
    assert prototypes.dtype == jnp.float32 and areas[0] == 4096
    np.testing.assert_allclose(prototypes, [[1.0]])


def test_expansion_gives_each_position_its_prototype():
    prototypes = np.arange(6, dtype=np.float32).reshape(3, 2)
    assignment = np.eye(3, dtype=np.float32)[[2, 0, 1, 1]]
    np.testing.assert_array_equal(expand(prototypes, assignment), prototypes[[2, 0, 1, 1]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_averages_of_clusters_are_those_under_their_masks(dtype):
    rng = np.random.default_rng(2)
    features = jnp.asarray(rng.standard_normal((2, 40, 5)), dtype)
    assignment = rng.integers(-1, 4, (2, 40))
    weights = (rng.random((2, 40)) * (assignment != 1)).astype(np.float32)
    masks = np.where(assignment[..., None] == np.arange(4), weights[..., None], 0)
    weight = rng.standard_normal((2, 4, 5)).astype(np.float32)

    def by_masks(f):
        prototypes, areas = masked_average(f, masks, epsilon=1e-3)
        return (prototypes * weight).sum(), (prototypes, areas)

    def by_clusters(f):
        prototypes, areas = cluster_average(f, assignment, weights, 4, epsilon=1e-3)
        return (prototypes * weight).sum(), (prototypes, areas)

    expected, expected_parts = jax.grad(by_masks, has_aux=True)(features)
    gradient, parts = jax.grad(by_clusters, has_aux=True)(features)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), parts, expected_parts)
    assert gradient.dtype == dtype and not parts[0][:, 1].any()
    tolerance = 1e-6 if dtype == jnp.float32 else 1e-2
    np.testing.assert_allclose(
        np.asarray(gradient, np.float32), np.asarray(expected, np.float32), atol=tolerance
    )


def test_fractional_masks_are_not_rounded_for_bfloat16_features():
    rng = np.random.default_rng(3)
    features = jnp.asarray(rng.standard_normal((50, 4)), jnp.bfloat16)
    masks = rng.random((50, 2)).astype(np.float32)
    low, _ = masked_average(features, masks)
    exact, _ = masked_average(features.astype(jnp.float32), masks)
    np.testing.assert_allclose(low, exact, atol=1e-5)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for_every_platform(platform):
    def gradient(features, assignment, weights):
        return jax.grad(lambda f: cluster_average(f, assignment, weights, 3)[0].sum())(features)

    shapes = [
        jax.ShapeDtypeStruct((2, 50, 8), jnp.bfloat16),
        jax.ShapeDtypeStruct((2, 50), jnp.int32),
        jax.ShapeDtypeStruct((2, 50), jnp.float32),
    ]
    jax.export.export(jax.jit(gradient), platforms=[platform])(*shapes)
