"""Rules of positions against NumPy, and the choice among them by leaving supports out."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from apanet_jax.inference.matching.geometry import Grid, label_shares
from apanet_jax.inference.matching.leave_one_out import GAIN, THRESHOLDS, HeldOut, fit
from apanet_jax.inference.matching.regions import MOST_ROWS, regions, smoothed
from apanet_jax.inference.matching.rules import (
    BANDWIDTHS,
    CENTRES,
    SCALES,
    USUAL,
    condensed,
    kept_positions,
    margins_of_pairs,
    pair_densities,
    ratio_margins,
    support_positions,
    without,
)

GRID = Grid(33, 5, 8)


def together(features, labels):
    return support_positions([condensed(*x, GRID) for x in zip(features, labels, strict=True)])


def support(seed):
    """Returns features `[5, 5, 6]` and a label with 1, 0 and 255."""
    features = np.random.default_rng(seed).normal(size=(5, 5, 6)).astype(np.float32)
    label = np.zeros((33, 33), np.uint8)
    label[4:20, 6:25] = 1
    label[28:] = 255
    return features, label


@pytest.mark.parametrize("shots", [2, 5])
def test_the_density_ratio_is_that_of_weighted_mean_kernels(shots):
    supports, (query, _) = [support(10 + seed) for seed in range(shots)], support(3)
    margins = ratio_margins(query, together(*zip(*supports, strict=True)))
    features = np.concatenate([x.reshape(-1, 6) for x, _ in supports])
    shares = zip(*(label_shares(label, GRID) for _, label in supports), strict=True)
    foreground, background = (np.concatenate([x.ravel() for x in y]) for y in shares)
    cosines = 1 - cdist(query.reshape(-1, 6), features, "cosine")
    for found, h, scale in zip(margins, BANDWIDTHS, SCALES.values(), strict=True):
        kernel = np.exp(cosines / h)
        means = [kernel @ x / x.sum() for x in (foreground, background)]
        expected = h / scale * np.log(means[0] / means[1])
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-4)


def test_pairs_make_up_the_margins_by_all_supports():
    """Among them are one without foreground, as negatives are, and one without background."""
    features, labels = map(list, zip(*[support(seed) for seed in (1, 2, 3, 4)], strict=True))
    labels[1] = np.where(labels[1] == 255, labels[1], 0)
    labels[2] = np.where(labels[2] == 255, labels[2], 1)
    query, _ = support(5)
    pairs = [pair_densities(query, condensed(*x, GRID)) for x in zip(features, labels, strict=True)]
    for chosen in (np.s_[:], np.s_[1:2], np.s_[2:3]):
        expected = ratio_margins(query, together(features[chosen], labels[chosen]))
        np.testing.assert_allclose(margins_of_pairs(pairs[chosen]), expected, atol=1e-4)


LARGE = Grid(185, 24, 8)


def large_support(seed, spread):
    """Returns features `[24, 24, 6]` of 40 alike groups, and a label with 1, 0 and 255."""
    groups = np.random.default_rng(0).normal(size=(40, 6))
    rng = np.random.default_rng(seed)
    chosen = groups[rng.integers(40, size=(24, 24))]
    features = (chosen + spread * rng.normal(size=chosen.shape)).astype(np.float32)
    label = np.zeros((185, 185), np.uint8)
    label[30:100, 50:130] = 1
    label[150:] = 255
    return features, label


@pytest.mark.parametrize(("spread", "off"), [(0.0, 1e-4), (0.1, 0.1)])
def test_few_centres_have_nearly_the_densities_of_all_positions(spread, off):
    (features, label), (query, _) = large_support(1, spread), large_support(2, spread)
    kept = condensed(features, label, LARGE)
    assert len(kept.features) == kept_positions(LARGE) == 2 * CENTRES < LARGE.positions**2
    found = np.asarray(ratio_margins(query, support_positions([kept])))
    cosines = 1 - cdist(query.reshape(-1, 6), features.reshape(-1, 6), "cosine")
    shares = [x.ravel() for x in label_shares(label, LARGE)]
    for margins, h, scale in zip(found, BANDWIDTHS, SCALES.values(), strict=True):
        means = [np.exp(cosines / h) @ x / x.sum() for x in shares]
        expected = h / scale * np.log(means[0] / means[1])
        assert np.abs(margins.ravel() - expected).mean() <= off * expected.std() + 1e-4
    np.testing.assert_allclose([x.sum() for x in kept[1:]], [x.sum() for x in shares], rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2])
def test_a_side_without_positions_stays_so(side):
    features, label = large_support(1, 0.1)
    kept = condensed(features, np.where(label == 2 - side, 255, label), LARGE)
    assert not kept[side].any() and kept[3 - side].any()


def test_numbers_of_supports_share_programs():
    sizes = [len(together(*[[x] * n for x in support(1)])[0]) for n in range(1, 14)]
    assert [x // 25 for x in sizes] == [1, 2, 3, 4, 6, 6, 8, 8, 12, 12, 12, 12, 16]


def test_a_support_that_is_left_out_counts_nowhere():
    features, labels = zip(*[support(seed) for seed in (1, 2, 3)], strict=True)
    others = together(features[::2], labels[::2])
    left = without(together(features, labels), 1, 3)
    found, expected = (np.asarray(ratio_margins(features[1], x)) for x in (left, others))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_regions_are_those_of_average_linkage():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 8))
    features = (centres[rng.integers(4, size=(6, 7))] + 0.4 * rng.normal(size=(6, 7, 8))).astype(
        "f"
    )
    peer = AgglomerativeClustering(
        None, metric="cosine", linkage="average", distance_threshold=0.4
    ).fit_predict(features.reshape(-1, 8))
    found = regions(features, 0.4)
    assert found.shape == (6, 7) and found.min() == 0
    assert adjusted_rand_score(found.ravel(), peer) == 1


def test_regions_of_a_large_feature_map_are_clustered_by_blocks():
    rng = np.random.default_rng(0)
    centres = 2 * np.eye(8)[:5]
    numbers = np.kron(rng.integers(5, size=(7, 8)), np.ones((7, 6), int))
    features = (centres[numbers] + 0.2 * rng.normal(size=(49, 48, 8))).astype("f")
    assert max(numbers.shape) > MOST_ROWS
    found = regions(features, 0.4)
    assert sorted(set(found.ravel())) == list(range(found.max() + 1))
    assert adjusted_rand_score(found.ravel(), numbers.ravel()) > 0.97


def test_smoothing_moves_margins_towards_their_region_s_mean():
    numbers = np.array([[0, 0, 1], [2, 1, 1]])
    margins = np.array([[[1.0, 3.0, 0.0], [5.0, 3.0, 6.0]]])
    half = smoothed(margins, numbers, 0.5)
    np.testing.assert_allclose(half, [[[1.5, 2.5, 1.5], [5.0, 3.0, 4.5]]])
    np.testing.assert_array_equal(smoothed(margins, numbers, 0.0), margins)
    np.testing.assert_array_equal(smoothed(margins[0], numbers, 0.5), half[0])


def held_out(*margins, seed=0):
    """Returns an image whose left half is the class, with the margins of some rules."""
    foreground = np.zeros((4, 6), np.float32)
    foreground[:, :3] = 1
    maps = [left * foreground + right * (1 - foreground) for left, right in margins]
    return HeldOut(np.stack(maps), foreground, 1 - foreground)


MIXTURES = {
    "usual": np.array([1.0, 0.0]),
    "other": np.array([0.0, 1.0]),
    "both": np.array([0.5, 0.5]),
}


def test_the_usual_rule_is_taken_unless_another_is_better():
    right, wrong, shifted = (1.0, -1.0), (-1.0, 1.0), (1.5, 0.6)
    assert fit([], MIXTURES, "usual")[:3:2] == ("usual", 0)
    same = fit([held_out(right, right)] * 3, MIXTURES, "usual")
    assert same.name == "usual" and same.threshold == 0
    assert same.ious == {"usual": 1, "other": 1, "both": 1}
    other = fit([held_out(wrong, shifted)] * 3, MIXTURES, "usual")
    assert other.name == "other" and other.weights.tolist() == [0, 1]
    # The lowest threshold above the background's margin.
    assert other.threshold == THRESHOLDS[THRESHOLDS >= 0.6][0]
    assert other.ious["usual"] < 1 - GAIN and other.ious["other"] == 1


def test_rules_that_err_at_different_places_are_mixed():
    image = held_out((1.0, -1.0), (1.0, -1.0))
    margins = image.margins.copy()
    margins[0, 0], margins[1, 3] = -0.4, -0.4
    margins[0, 1, 3:], margins[1, 2, 3:] = 0.6, 0.6
    found = fit([image._replace(margins=margins)] * 2, MIXTURES, "usual")
    assert found.name == "both" and found.ious["both"] == pytest.approx(1)


def test_the_usual_rule_is_one_of_them():
    assert USUAL in SCALES and len(SCALES) == len(BANDWIDTHS)
