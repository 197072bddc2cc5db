"""Whether an image shows a class: the measures by hand, and what is made of them."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine
from sklearn.preprocessing import normalize

from apanet_jax.inference.matching.presence import (
    Decision,
    inside,
    likeness,
    masked_mean,
    peak,
    prototype_of,
    ranks,
)


def appearances_of(rng, count, shape=(4, 5), channels=6):
    """Returns random unit features of images."""
    flat = normalize(rng.normal(size=(count * shape[0] * shape[1], channels)))
    return flat.reshape(count, *shape, channels).astype(np.float32)


@pytest.mark.parametrize("shots", [1, 3])
def test_the_prototype_is_masked_average_pooling_of_each_support_alike(shots):
    rng = np.random.default_rng(shots)
    appearances = appearances_of(rng, shots)
    # Twice the positions along each side; those with less than half of the largest share are out.
    foregrounds = rng.uniform(size=(shots, 8, 10)).astype(np.float32)
    means = []
    for appearance, foreground in zip(appearances, foregrounds, strict=True):
        shares = foreground.reshape(4, 2, 5, 2).mean((1, 3))
        kept = [(shares[at], appearance[at]) for at in np.ndindex(4, 5)]
        kept = [(share, x) for share, x in kept if share >= shares.max() / 2]
        means.append(np.average([x for _, x in kept], axis=0, weights=[share for share, _ in kept]))
    expected = normalize(normalize(means).mean(0)[None])[0]
    found = [masked_mean(*x) for x in zip(appearances, foregrounds, strict=True)]
    np.testing.assert_allclose(found, normalize(means), atol=1e-5)
    np.testing.assert_allclose(prototype_of(found), expected, atol=1e-5)


def test_an_object_smaller_than_a_position_counts():
    (appearance,) = appearances_of(np.random.default_rng(0), 1)
    foreground = np.zeros((4, 5), np.float32)
    foreground[2, 3] = 0.01
    np.testing.assert_allclose(masked_mean(appearance, foreground), appearance[2, 3], atol=1e-6)


@pytest.mark.parametrize("shape,most", [((4, 5), 2), ((2, 2), 1)])
def test_likeness_is_that_of_a_tenth_of_the_positions(shape, most):
    rng = np.random.default_rng(0)
    (appearance,), of_class = appearances_of(rng, 1, shape), normalize(rng.normal(size=(1, 6)))[0]
    flat = appearance.reshape(-1, 6)
    order = sorted(range(len(flat)), key=lambda x: cosine(of_class, flat[x]))
    expected = 1 - cosine(of_class, flat[order[:most]].mean(0))
    assert likeness(of_class, appearance) == pytest.approx(expected, abs=1e-5)


def test_ranks_are_the_cosine_and_what_the_image_says():
    rng = np.random.default_rng(0)
    (appearance,), of_class = appearances_of(rng, 1, (3, 3)), normalize(rng.normal(size=(1, 6)))[0]
    cosines = np.array([[1 - cosine(of_class, x) for x in row] for row in appearance])
    found = ranks(of_class, appearance, 0.3, 9)
    np.testing.assert_allclose(found[1::3, 1::3], cosines + 2 * 0.3, atol=1e-5)
    between = (2 * cosines[0, 0] + cosines[0, 1]) / 3 + 2 * 0.3
    assert found[1, 2] == pytest.approx(between, abs=1e-5)


def test_a_support_resembles_itself_most():
    first, *others = appearances_of(np.random.default_rng(0), 21, channels=64)
    foreground = np.zeros((4, 5), np.float32)
    foreground[:2, 0] = 1  # A tenth of the positions.
    of_class = masked_mean(first, foreground)
    assert likeness(of_class, first) > max(likeness(of_class, x) for x in others)


def test_what_is_beyond_the_image_is_left_out():
    (appearance,) = appearances_of(np.random.default_rng(0), 1, (13, 13))
    # Of 49 positions 28 lie on the image, so do those of every fourth at 0, 4, …, 24.
    assert inside(appearance, (28, 49), 49).shape == (8, 13, 6)
    assert inside(appearance, (25, 1), 49).shape == (7, 1, 6)
    np.testing.assert_array_equal(inside(appearance, (13, 5), 13), appearance[:, :5])


def test_the_peak_is_what_a_hundredth_exceeds():
    assert peak(np.arange(101.0).reshape(1, -1)) == 99.0


def test_the_measures_become_a_probability():
    decision = Decision(threshold=0.5, scale=2.0, bias=-1.0, peak_weight=3.0, likeness_weight=4.0)
    log_odds = -1.0 + 3.0 * (0.9 - 0.5) + 4.0 * 0.1
    assert decision.presence(0.9, 0.1) == pytest.approx(1 / (1 + np.exp(-log_odds)))
    assert decision.probability(np.array([0.5, 2.5])) == pytest.approx([0.5, 1 / (1 + np.exp(-1))])
    assert decision.presence(1e6, 0.0) == pytest.approx(1.0)
    plain = Decision(threshold=0.5, scale=1.0)
    assert plain.presence(0.6, -5.0) > 0.5 > plain.presence(0.4, 5.0)
