"""What negatives change: the presence's bias, and what counts as background."""

import numpy as np
import pytest
from scipy.special import expit

from apanet_jax.inference.matching.calibration import (
    LEAST,
    SPREAD,
    calibrated,
    negative_label,
    offset,
)
from apanet_jax.inference.matching.geometry import Grid
from apanet_jax.inference.matching.presence import Decision
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.errors import UserError
from tests.inference.test_frozen_matcher import matcher
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene

ORANGE = (230, 60, 20)


@pytest.mark.parametrize("sides", [(0, 0), (0, 4), (1, 3), (9, 5)])
def test_the_offset_is_where_the_posterior_has_no_slope(sides):
    shown, absent = (np.random.default_rng(n).normal(0, 3, n) for n in sides)
    found = offset(shown, absent)
    weights = [min(1, max(b, LEAST) / max(a, 1)) for a, b in (sides, sides[::-1])]
    hits = weights[0] * expit(-shown - found).sum()
    false = weights[1] * expit(absent + found).sum()
    assert hits - false == pytest.approx(found / SPREAD**2, abs=1e-3)


def test_without_images_nothing_is_moved_and_each_side_pulls_to_itself():
    assert offset([], []) == pytest.approx(0, abs=1e-6)
    assert offset([], [1.0]) < 0 < offset([-1.0], [])
    assert offset([], [1.0] * 3) < offset([], [1.0])


def test_the_label_of_a_negative_is_0_inside():
    label = negative_label((50, 100), Grid(64, 8, 8))
    assert (label[:32] == 0).all() and (label[32:] == 255).all()


class SureMatcher(ColourMatcher):
    """Calls a class there where its peak is above 0.3."""

    def decision(self, learned):
        return Decision(0.0, 0.1, bias=-6.0, peak_weight=20.0)


def test_a_class_that_negatives_resemble_is_found_less_often():
    images, masks = zip(scene(RED, LEFT), scene(RED, RIGHT), strict=True)
    alike, _ = scene(ORANGE, np.s_[30:75, 20:80])
    query, _ = scene(ORANGE, RIGHT)
    plain = Segmenter(SureMatcher()).fit(images, masks)
    told = Segmenter(SureMatcher()).fit(images, masks, negatives=[alike])
    assert told.decisions_[0].bias < plain.decisions_[0].bias
    assert told.scores([query])[0, 0] < plain.scores([query])[0, 0]
    assert told.decisions_[0]._replace(bias=0) == plain.decisions_[0]._replace(bias=0)


def test_what_is_in_a_negative_is_background():
    """A support shows the object before gray, the negative what would be taken for it."""
    yellow = (230, 150, 20)
    support, negative = scene(RED, LEFT), np.full((80, 120, 3), yellow, np.uint8)
    query, truth = scene(RED, LEFT)
    query[RIGHT] = yellow
    plain, told = (
        Segmenter(matcher()).fit([support[0]], [support[1]], negatives=given)
        for given in ((), [negative])
    )
    (before,), (after,) = plain.predict([query]), told.predict([query])
    wrong = np.zeros_like(truth)
    wrong[RIGHT] = True
    assert before[wrong].mean() > 0.9 and after[wrong].mean() < 0.1
    assert after[truth].mean() > 0.7, "beside its edge to what is no longer marked"


def test_an_image_left_out_is_as_if_it_had_not_been_given():
    made, features, labels = matcher(), [], []
    for colour, shows in ((RED, True), (ORANGE, True), (RED, True), (ORANGE, False), (RED, False)):
        image, mask = scene(colour, LEFT)
        features.append(made.embed(image[:64, 10:74]))
        labels.append(mask[:64, 10:74].astype(np.uint8) * shows)
    learned = made.learn(features, labels)
    for index in (1, 3):
        rest = [n for n in range(5) if n != index]
        fewer = made.learn([features[n] for n in rest], [labels[n] for n in rest])
        fewer = fewer._replace(fit=learned.fit)
        np.testing.assert_allclose(
            made.margins(features[0], made.without(learned, index)),
            made.margins(features[0], fewer),
            rtol=1e-4,
            atol=1e-4,
        )


def test_without_negatives_the_decision_is_the_matchers():
    made = ColourMatcher()
    assert calibrated(made, None, [None], [np.ones((8, 8))], [np.ones(3)]) == made.decision(None)


def test_negatives_that_cannot_be_used_are_refused():
    image, mask = scene(RED, LEFT)
    other, _ = scene(GREEN, LEFT)
    for negatives, message in (
        ([image], "negative 1 is a support too"),
        ([other, other], "negative 2 is given twice"),
        (other, "put it into brackets"),
        ([other / 255.0], "uint8"),
    ):
        with pytest.raises(UserError, match=message):
            Segmenter(ColourMatcher()).fit([image], [mask], negatives=negatives)
