"""Masked average pooling against NumPy and PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch

from apanet_jax.kernels import expand, masked_average


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
