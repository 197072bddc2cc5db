"""Whitening of features, against scikit-learn's covariance."""

import numpy as np
import pytest
from sklearn.covariance import empirical_covariance

from experiments.own_pictures.whitening import whitening

RNG = np.random.default_rng(0)
IMAGES = [RNG.normal(size=(50, 4)) @ RNG.normal(size=(4, 4)) + RNG.normal(size=4) for _ in range(6)]


@pytest.mark.parametrize("within", [True, False])
def test_whitened_features_vary_alike_in_all_directions(within):
    found = whitening(IMAGES, shrinkage=0.0, within=within)
    everything = np.concatenate(IMAGES)
    means = [x.mean(0) if within else everything.mean(0) for x in IMAGES]
    rest = np.concatenate([x - mean for x, mean in zip(IMAGES, means, strict=True)])
    whitened = empirical_covariance(rest @ found.matrix, assume_centered=True)
    np.testing.assert_allclose(whitened, np.eye(4), atol=1e-8)
    np.testing.assert_allclose(found.mean, everything.mean(0))


def test_shrinkage_is_a_share_of_the_mean_variance():
    found = whitening(IMAGES, shrinkage=0.5, within=False)
    covariance = empirical_covariance(np.concatenate(IMAGES))
    shrunk = covariance + 0.5 * np.trace(covariance) / 4 * np.eye(4)
    np.testing.assert_allclose(found.matrix @ shrunk @ found.matrix, np.eye(4), atol=1e-8)
