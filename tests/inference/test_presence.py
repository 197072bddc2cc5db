"""Whether an image shows a class: the two measures by hand, and what is made of them."""

import numpy as np
import pytest
from scipy.spatial.distance import cosine

from apanet_jax.inference.presence import (
    Decision,
    likeness,
    peak,
    support_appearance,
)

RED, BLUE, GREEN = np.eye(3, dtype=np.float32)


def halves(left, right):
    """Returns features and the share of foreground of an image whose left half is the object."""
    appearance = np.stack([left, left, right, right]).reshape(1, 4, 3).repeat(2, 0)
    inside = np.array([[1.0, 1.0, 0.0, 0.0]] * 2, np.float32)
    return appearance, inside, 1 - inside


def test_with_one_support_the_object_itself_is_1_and_its_background_0():
    appearance, inside, outside = halves(RED, RED + 2 * BLUE)
    supports = support_appearance([appearance], [inside], [outside])
    assert supports.similarity == pytest.approx(1 / np.sqrt(5))
    marked = np.where(inside > 0, 1.0, -1.0)
    assert likeness(supports, appearance, marked, 0.0) == pytest.approx(1.0)
    assert likeness(supports, appearance, -marked, 0.0) == pytest.approx(0.0, abs=1e-6)


def test_with_several_supports_0_is_as_similar_as_they_are():
    colours = np.random.default_rng(0).uniform(size=(3, 3)).astype(np.float32)
    drawn = [halves(colour, BLUE) for colour in colours]
    supports = support_appearance(*zip(*drawn, strict=True))
    pairs = [1 - cosine(colours[i], colours[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert supports.similarity == pytest.approx(np.mean(pairs), rel=1e-5)
    found, inside, _ = halves(GREEN, BLUE)
    expected = np.mean([1 - cosine(GREEN, colour) for colour in colours])
    expected = (expected - np.mean(pairs)) / max(1 - np.mean(pairs), 0.5)
    assert likeness(supports, found, inside, 0.5) == pytest.approx(expected, rel=1e-4)


def test_where_nothing_is_marked_the_highest_position_counts():
    appearance, inside, outside = halves(RED, BLUE)
    supports = support_appearance([appearance], [inside], [outside])
    margins = np.full((2, 4), -3.0)
    margins[0, 0] = -2.0
    assert likeness(supports, appearance, margins, 0.0) == pytest.approx(1.0)
    margins[0, 0], margins[1, 3] = -3.0, -2.0
    assert likeness(supports, appearance, margins, 0.0) == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(likeness(supports, appearance, np.full((2, 4), -3.0), 0.0))


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


@pytest.mark.parametrize("shots", [1, 3])
def test_with_prototypes_likeness_is_by_how_much_more_the_supports_are_alike(shots):
    rng = np.random.default_rng(0)
    colours = rng.uniform(size=(shots, 3)).astype(np.float32)
    prototypes = rng.normal(size=(50, 3)).astype(np.float32)
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    drawn = zip(*[halves(colour, BLUE) for colour in colours], strict=True)
    supports = support_appearance(*drawn, prototypes)
    found, inside, _ = halves(GREEN, BLUE)
    alike = sorted((1 - cosine(GREEN, x) for x in prototypes), reverse=True)[1:5]
    expected = np.mean([1 - cosine(GREEN, x) for x in colours]) - np.mean(alike)
    if shots > 1:
        pairs = [1 - cosine(colours[i], colours[j]) for i in range(3) for j in range(i)]
        expected -= 0.5 * np.mean(pairs)
    assert likeness(supports, found, inside, 0.5) == pytest.approx(expected, abs=1e-5)
