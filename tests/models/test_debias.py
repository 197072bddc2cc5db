"""Projecting the directions of places out of features."""

import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.models.debias import images_without_content, positional_basis, without_directions
from apanet_jax.runtime.errors import UserError


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def test_the_basis_is_that_of_a_singular_value_decomposition():
    features = np.random.default_rng(0).standard_normal((2, 4, 5, 6)).astype(np.float32)
    features *= np.arange(1, 7)
    basis = np.asarray(positional_basis(features, 3))
    x = unit(features.reshape(-1, 6))
    _, _, rows = np.linalg.svd(x - x.mean(0), full_matrices=False)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-5)
    # Each is the same direction, either way round.
    np.testing.assert_allclose(np.abs(rows[:3] @ basis), np.eye(3), atol=1e-3)


def test_what_is_left_has_no_component_along_the_basis_and_the_rest_untouched():
    rng = np.random.default_rng(0)
    features = rng.standard_normal((3, 7, 8)).astype(np.float32)
    basis, _ = np.linalg.qr(rng.standard_normal((8, 2)))
    left = np.asarray(without_directions(features, basis.astype(np.float32)))
    np.testing.assert_allclose(left @ basis, 0, atol=1e-6)
    complement = np.eye(8) - basis @ basis.T
    np.testing.assert_allclose(left, unit(features) @ complement, atol=1e-5)
    again = without_directions(jnp.asarray(left), basis.astype(np.float32))
    np.testing.assert_allclose(again, unit(left), atol=1e-5)


def test_places_that_differ_by_place_alone_become_alike():
    rng = np.random.default_rng(0)
    content, place = rng.standard_normal((2, 1, 1, 16)), rng.standard_normal((1, 3, 3, 16))
    basis = positional_basis(jnp.asarray(place), 8)
    left = unit(np.asarray(without_directions(jnp.asarray(3 * content + place), basis)))
    raw = unit(3 * content + place)
    spread = [np.abs(x - x.mean((1, 2), keepdims=True)).max() for x in (left, raw)]
    assert spread[0] < 0.1 * spread[1]


@pytest.mark.parametrize("rank,most", [(0, 5), (6, 5)])
def test_ranks_that_leave_nothing_are_refused(rank, most):
    with pytest.raises(UserError, match=f"{rank} positional directions.*expected 1 to {most}"):
        positional_basis(jnp.ones((1, 3, 3, 6)), rank)


def test_images_without_content_are_black_and_noise():
    images = images_without_content(2, 28, 42)
    assert images.shape == (2, 28, 42, 3) and images.dtype == np.uint8
    assert not images[0].any() and images[1].std() > 70
    np.testing.assert_array_equal(images, images_without_content(2, 28, 42))
