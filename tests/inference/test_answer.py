"""Answers: masks, label maps and probabilities of margins that are known."""

import numpy as np
import pytest
from scipy import ndimage

from apanet_jax.inference.answers import answer as answers
from apanet_jax.inference.answers.answer import Answer
from apanet_jax.inference.answers.mask_options import DEFAULT_OPTIONS, MaskOptions, without_specks
from apanet_jax.inference.matching.geometry import Grid, upsample
from apanet_jax.inference.matching.presence import Decision

GRID, SIZE = Grid(64, 8, 8), (96, 128)


def made(*margins, decisions=None, options=DEFAULT_OPTIONS, presence=1.0):
    """Makes an answer; `presence` is the likeness, which alone decides what was found."""
    decisions = decisions or [Decision(0.1, 0.5, peak_weight=0.0, likeness_weight=1.0)] * 10
    return Answer(
        margins,
        [presence] * len(margins),
        decisions[: len(margins)],
        SIZE,
        [GRID] * len(margins),
        options,
    )


@pytest.fixture
def margins():
    rng = np.random.default_rng(0)
    return [rng.normal(size=GRID.inside(SIZE)).astype(np.float32) for _ in range(3)]


def test_strips_are_the_whole(margins, monkeypatch):
    whole = made(*margins)
    results = [whole.mask(1), whole.labels(), whole.probability_levels(2), whole.margin(0)]
    monkeypatch.setattr(answers, "_STRIP", 5 * SIZE[1])
    strips = made(*margins)
    found = [strips.mask(1), strips.labels(), strips.probability_levels(2), strips.margin(0)]
    for expected, got in zip(results, found, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-6)
    assert strips.area(1) == results[0].sum()


def test_the_threshold_is_a_probability(margins):
    pixels = upsample(margins[0], SIZE, GRID)
    for threshold in (0.2, 0.5, 0.9):
        answer = made(margins[0], options=MaskOptions(threshold))
        probability = 1 / (1 + np.exp(-(pixels - 0.1) / 0.5))
        sure = np.abs(probability - threshold) > 1e-5
        np.testing.assert_array_equal(answer.mask(0)[sure], (probability > threshold)[sure])
        np.testing.assert_allclose(answer.probability(0), probability, atol=1e-5)
        np.testing.assert_array_equal(answer.labels()[sure], answer.mask(0)[sure])


def test_a_label_map_has_the_most_probable_class(margins):
    """Margins of different scales do not compare; their log-odds do."""
    scales = (0.5, 2.0, 8.0)
    decisions = [Decision(0.0, scale, likeness_weight=9.0) for scale in scales]
    odds = np.stack([upsample(x, SIZE, GRID) / y for x, y in zip(margins, scales, strict=True)])
    expected = np.where(odds.max(0) > 0, odds.argmax(0) + 1, 0)
    labels = made(*margins, decisions=decisions).labels()
    assert (labels == expected).mean() > 0.999 and set(np.unique(labels)) == {0, 1, 2, 3}


def test_where_ranks_are_known_the_highest_of_the_classes_that_claim_a_pixel_has_it(margins):
    """A class that claims no pixel, or was not found, takes none from the others."""
    rng = np.random.default_rng(1)
    ranks = [rng.normal(size=margins[0].shape).astype(np.float32) for _ in margins]
    decisions = [Decision(0.0, 0.5, peak_weight=0.0, likeness_weight=1.0)] * 3
    for present in ([1.0, 1.0, 1.0], [1.0, -1.0, 1.0]):
        answer = Answer(margins, present, decisions, SIZE, [GRID] * 3, ranks=ranks)
        claims = np.stack([upsample(x, SIZE, GRID) > 0 for x in margins])
        claims &= (np.array(present) > 0)[:, None, None]
        highest = np.stack([upsample(x, SIZE, GRID) for x in ranks])
        expected = np.where(claims, highest, -np.inf).argmax(0) + 1
        assert (answer.labels() == np.where(claims.any(0), expected, 0)).mean() > 0.999


def test_what_was_not_found_has_no_label(margins):
    decisions = [Decision(0.0, 1.0, bias=bias, peak_weight=0.0) for bias in (1, -1, 1)]
    answer = made(*margins, decisions=decisions)
    assert answer.found.tolist() == [True, False, True]
    assert set(np.unique(answer.labels())) == {0, 1, 3} and answer.mask(1).any()
    nothing = made(*margins, decisions=[decisions[1]] * 3)
    assert not nothing.labels().any()


def test_only_what_was_found_is_marked_if_asked(margins):
    missed = made(margins[0], presence=-1.0, options=MaskOptions(only_found=True))
    assert not missed.mask(0).any() and missed.area(0) == 0
    assert made(margins[0], presence=-1.0).mask(0).any()
    assert made(margins[0], options=MaskOptions(only_found=True)).mask(0).any()


@pytest.mark.parametrize("smallest", [0, 1, 2, 30, 10_000])
def test_small_regions_are_left_out(smallest):
    mask = np.random.default_rng(3).random((60, 80)) < 0.3
    regions, count = ndimage.label(mask, np.ones((3, 3)))
    expected = np.zeros_like(mask)
    for number in range(1, count + 1):
        region = regions == number
        expected |= region & (region.sum() >= smallest)
    np.testing.assert_array_equal(without_specks(mask, smallest), expected)


def test_label_maps_leave_out_small_regions_of_each_class(margins):
    smallest = 700
    plain, cleaned = made(*margins), made(*margins, options=MaskOptions(smallest=smallest))
    for label in (1, 2, 3):
        expected = without_specks(plain.labels() == label, smallest)
        np.testing.assert_array_equal(cleaned.labels() == label, expected)
    assert (cleaned.labels() == 0).sum() > (plain.labels() == 0).sum()


def test_the_quality_of_an_answer_is_that_of_its_worst_class(margins):
    answer = made(*margins[:2])
    probability = 1 / (1 + np.exp(-(margins[0] - 0.1) / 0.5))
    marked = probability > 0.5
    assert answer.qualities[0] == pytest.approx(probability[marked].mean(), rel=1e-5)
    assert answer.found.all() and answer.quality == answer.qualities.min()
    assert made(np.full_like(margins[0], -9.0)).qualities[0] == 0
    # What was not found is right where the image does not show it.
    missed = made(margins[0], presence=-2.0)
    assert not missed.found[0] and missed.quality == pytest.approx(1 - missed.scores[0])
