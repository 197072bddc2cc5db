"""Two matchers as one, on backbones that see colours: one at every eighth pixel, one coarser."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.interpolate import RegularGridInterpolator

from apanet_jax.inference.heads import bundled
from apanet_jax.inference.heads.head_choice import HeadSource
from apanet_jax.inference.matching import frozen_matcher
from apanet_jax.inference.matching.frozen_matcher import FrozenMatcher
from apanet_jax.inference.matching.geometry import Grid
from apanet_jax.inference.matching.joint_matcher import JointMatcher
from apanet_jax.inference.matching.presence import Decision
from apanet_jax.inference.segmenter import Segmenter, from_bytes
from apanet_jax.models.backbones import Features
from tests.inference.test_frozen_matcher import Colours, StoringHead
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, scene

PATCHES, CONVOLUTIONS = Grid(64, 8, 8, 3.5), Grid(57, 8, 8)
DECISIONS = {1: Decision(0.1, 0.5, likeness_weight=2.0)}
QUERIES = [scene(RED, np.s_[30:75, 20:80])[0], scene(GREEN, RIGHT)[0]]
SUPPORTS = [scene(RED, LEFT), scene(RED, RIGHT), scene(RED, np.s_[10:40, 40:90])]


class Shades:
    """A backbone whose features are squares of colours, which tell them apart less well."""

    def apply(self, variables, images):
        features = (images[:, ::8, ::8].astype(jnp.float32) / 255) ** 2
        return Features(features, features, features)


def joint(head=False):
    of_head = StoringHead() if head else None
    first = FrozenMatcher(Colours(), {"gray": np.full(3, 0.3)}, PATCHES, DECISIONS, of_head)
    second = FrozenMatcher(Shades(), {"none": np.zeros(1)}, CONVOLUTIONS, DECISIONS)
    return JointMatcher(first, second)


def fitted(matcher, supports=SUPPORTS, **others):
    source = HeadSource(None, "dinov2", True)
    made = Segmenter(matcher, head="dinov2", source=source)
    return made.fit(*zip(*supports, strict=True), **others)


def log_odds(matcher, margins, learned):
    decision = matcher.decision(learned)
    return (np.asarray(margins) - decision.threshold) / decision.scale


def test_margins_are_the_mean_of_the_log_odds_of_both():
    made = joint()
    first, second = made._first, made._second
    segmenter = fitted(made)
    learned = segmenter._learned[""].learned
    square = np.zeros((64, 64, 3), np.uint8)
    square[:40, :56] = np.random.default_rng(0).integers(0, 255, (40, 56, 3))
    features = made.embed(square)
    of_first = log_odds(first, first.margins(features.first, learned.first), learned.first)
    # The second sees the square at 56 of its 57 pixels: `fit_square` takes multiples of 8.
    smaller = np.zeros((57, 57, 3), np.uint8)
    smaller[:56, :56] = cv2.resize(square, (56, 56), interpolation=cv2.INTER_LINEAR)
    found = second.margins(second.embed(smaller), learned.second)
    of_second = log_odds(second, found, learned.second)
    between = RegularGridInterpolator((8 * np.arange(8),) * 2, of_second)
    places = np.clip((8 * np.arange(8) + 3.5 + 0.5) * 56 / 64 - 0.5, 0, 56)
    at_first = between(np.stack(np.meshgrid(places, places, indexing="ij"), -1))
    expected = (of_first + at_first) / 2
    np.testing.assert_allclose(made.margins(features, learned), expected, rtol=1e-4, atol=1e-4)
    assert made.decision(learned) == first.decision(learned.first)._replace(threshold=0, scale=1)


def test_a_class_is_found():
    segmenter = fitted(joint())
    truth = scene(RED, np.s_[30:75, 20:80])[1]
    (found,) = segmenter.predict(QUERIES[:1])
    assert (found & truth).sum() / (found | truth).sum() > 0.7
    assert segmenter.scores(QUERIES[:1])[0, 0] > segmenter.scores(QUERIES[1:])[0, 0]


@pytest.mark.parametrize("negatives", [0, 1])
def test_a_saved_segmenter_answers_and_learns_on_as_the_first(monkeypatch, negatives):
    monkeypatch.setattr(bundled, "open_matcher", lambda *_, **__: ("dinov2", joint(head=True)))
    others = [scene(GREEN, LEFT)[0]] * negatives
    first = fitted(joint(head=True), negatives=others)
    content = first.to_bytes()
    second = from_bytes(content)
    assert second.to_bytes() == content
    np.testing.assert_array_equal(*(x.predict_margins(QUERIES) for x in (first, second)))
    compared, pair_densities = [], frozen_matcher.pair_densities
    monkeypatch.setattr(
        frozen_matcher, "pair_densities", lambda *x: compared.append(1) or pair_densities(*x)
    )
    new = scene(RED, np.s_[5:30, 5:60])
    second.partial_fit(*([x] for x in new))
    # The new one with three others, both ways, and with the negatives, by each of two matchers.
    assert len(compared) == 2 * (2 * 3 + negatives)
    at_once = fitted(joint(head=True), [*SUPPORTS, new], negatives=others)
    assert second.decisions_ == at_once.decisions_
    np.testing.assert_array_equal(*(x.predict_margins(QUERIES) for x in (second, at_once)))


def test_a_segmenter_of_an_earlier_version_is_learned_again(monkeypatch, capsys):
    """Its file has one network alone, and other features."""
    others = [scene(GREEN, LEFT)[0]]
    first = joint()._first
    before = fitted(first, negatives=others)
    content = before.to_bytes()
    monkeypatch.setattr(bundled, "open_matcher", lambda *_, **__: ("dinov2", joint()))
    found = from_bytes(content, "red.apanet")
    err = capsys.readouterr().err
    assert err == "note: red.apanet is of an earlier version: it is learned again\n"
    anew = fitted(joint(), negatives=others)
    assert found.decisions_ == anew.decisions_ and found.classes_ == before.classes_
    np.testing.assert_array_equal(*(x.predict_margins(QUERIES) for x in (found, anew)))
