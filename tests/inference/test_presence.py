"""Whether an image shows a class: the two measures by hand, and what is made of them."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist, cosine

from apanet_jax.inference.matching.presence import (
    Decision,
    likeness,
    peak,
    ranks,
    support_appearance,
)
from apanet_jax.inference.matching.whitening import unit


def supports_of(rng, shots, channels=5):
    """Returns random unit features and foreground shares of supports."""
    appearances = [unit(rng.normal(size=(4, 3, channels)).astype(np.float32)) for _ in range(shots)]
    foregrounds = [rng.uniform(size=(4, 3)).astype(np.float32) for _ in range(shots)]
    return appearances, foregrounds


@pytest.mark.parametrize("shots", [1, 3])
def test_likeness_is_the_mean_of_three_cosines(shots):
    rng = np.random.default_rng(shots)
    appearances, foregrounds = supports_of(rng, shots)
    (image,), (margins,) = supports_of(rng, 1)
    flat, marked = image.reshape(-1, 5), margins > 0.6
    covered, means = [], []
    for appearance, foreground in zip(appearances, foregrounds, strict=True):
        positions = appearance[foreground > 0.5]
        covered.append(np.mean([max(1 - cosine(s, q) for q in flat) for s in positions]))
        mean = (appearance * foreground[..., None]).sum((0, 1))
        means.append(mean / np.linalg.norm(mean))
    alike = np.quantile([1 - cosine(np.mean(means, 0), q) for q in flat], 0.97)
    found = np.mean([1 - cosine(mean, image[marked].mean(0)) for mean in means])
    expected = np.mean([np.mean(covered), alike, found])
    supports = support_appearance(appearances, foregrounds)
    assert likeness(supports, image, margins, 0.6) == pytest.approx(expected, abs=1e-5)


def test_ranks_are_the_weighted_mean_kernel_and_what_the_image_says():
    rng = np.random.default_rng(0)
    supports = support_appearance(*supports_of(rng, 2))
    (image,), _ = supports_of(rng, 1)
    kernel = np.exp((1 - cdist(image.reshape(-1, 5), supports.positions, "cosine")) / 0.2)
    expected = 0.2 * np.log(np.average(kernel, axis=1, weights=supports.weights)) + 2 * 0.3
    np.testing.assert_allclose(ranks(supports, image, 0.3).ravel(), expected, atol=1e-5)


def test_a_support_resembles_itself_most():
    rng = np.random.default_rng(0)
    (appearance,), _ = supports_of(rng, 1)
    foreground = np.zeros((4, 3), np.float32)
    foreground[:2, 0] = 1
    supports = support_appearance([appearance], [foreground])
    itself = likeness(supports, appearance, foreground, 0.5)
    others = [likeness(supports, supports_of(rng, 1)[0][0], foreground, 0.5) for _ in range(20)]
    assert itself > max(others)


def test_where_nothing_is_marked_the_highest_position_counts():
    rng = np.random.default_rng(0)
    supports = support_appearance(*supports_of(rng, 2))
    (image,), (margins,) = supports_of(rng, 1)
    highest = np.where(margins == margins.max(), 1.0, 0.0)
    assert likeness(supports, image, margins, 2.0) == likeness(supports, image, highest, 0.5)
    assert np.isfinite(likeness(supports, image, np.full((4, 3), -3.0), 0.0))


def test_supports_count_alike_and_an_object_smaller_than_a_position_counts():
    appearances, (whole, small) = supports_of(np.random.default_rng(0), 2)
    whole[:], small[:] = 1, 0
    small[0, 0] = 0.2
    supports = support_appearance(appearances, [whole, small])
    assert supports.weights == pytest.approx([1 / 24] * 12 + [1 / 6] * 3)
    np.testing.assert_array_equal(supports.positions[12], appearances[1][0, 0])


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
