"""The segmenter: its rules with a matcher in NumPy, and the real one on drawn pictures."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.ndimage import map_coordinates

import apanet_jax
from apanet_jax.data.sources.synthetic import CLASS_NAMES, draw_image
from apanet_jax.inference.matchers import (
    DECISION,
    GENERAL_HEAD,
    HeadMatcher,
    PrototypeMatcher,
    cell_shares,
)
from apanet_jax.inference.presence import Decision
from apanet_jax.inference.segmenter import Segmenter, upsample
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.checkpoints import abstract_state
from apanet_jax.weights.load import load_backbone
from apanet_jax.weights.network import make_network
from configs import folder


class ColourMatcher:
    """Looks for the mean colour of the foreground: 1 less the distance, with no network."""

    size, adapts = 256, False

    def decision(self, shots):
        return Decision(0.0, 0.1)

    def embed(self, square):
        return square[::8, ::8].astype(float) / 255

    def appearance(self, features):
        return features

    def learn(self, features, labels):
        inside = [x[y[::8, ::8] == 1] for x, y in zip(features, labels, strict=True)]
        return np.concatenate(inside).mean(0)

    def margins(self, features, learned):
        return 0.5 - np.abs(features - learned).max(-1)


def scene(colour, where, size=(80, 120)):
    image, mask = np.full((*size, 3), 20, np.uint8), np.zeros(size, bool)
    mask[where] = True
    image[mask] = colour
    return image, mask


RED, GREEN = (230, 20, 20), (20, 230, 20)
LEFT, RIGHT = np.s_[20:70, 10:60], np.s_[20:70, 70:115]


def test_one_thing_is_found_where_it_is_and_nothing_where_it_is_not():
    segmenter = Segmenter(ColourMatcher()).fit(*([x] for x in scene(RED, LEFT)))
    other, truth = scene(RED, RIGHT)
    without, _ = scene(GREEN, RIGHT)
    found, nothing = segmenter.predict([other, without])
    assert found.dtype == bool and found.shape == truth.shape
    assert (found & truth).sum() / (found | truth).sum() > 0.8
    assert not nothing.any()
    scores = segmenter.scores([other, without])
    assert scores.shape == (2, 1) and scores[0, 0] > 0.5 > scores[1, 0]
    assert segmenter.predict_margins([other])[0].shape == (1, *truth.shape)


def test_several_classes_make_one_label_map():
    supports = [scene(GREEN, LEFT), scene(RED, RIGHT)]
    segmenter = Segmenter(ColourMatcher()).fit(*zip(*supports, strict=True), ["leaf", "beetle"])
    both, truth = scene(GREEN, LEFT)
    both[RIGHT] = RED
    (labels,) = segmenter.predict([both])
    assert segmenter.classes_ == ["leaf", "beetle"] and labels.dtype == np.uint8
    assert labels[45, 35] == 1 and labels[45, 95] == 2 and labels[5, 5] == 0


def test_clusters_are_what_looks_alike():
    class WithHigh(ColourMatcher):
        def high(self, features):
            return features.astype(np.float32)

    image = np.full((80, 120, 3), RED, np.uint8)
    image[:, 60:] = GREEN
    clusters = Segmenter(WithHigh()).clusters(image, 2)
    assert clusters.shape == (80, 120) and set(np.unique(clusters)) == {0, 1}
    # Within a cell of the edge either may be nearer.
    left, right = clusters[:, :55], clusters[:, 65:]
    assert len(np.unique(left)) == len(np.unique(right)) == 1 and left[0, 0] != right[0, 0]
    with pytest.raises(UserError, match="a head's features"):
        Segmenter(ColourMatcher()).clusters(image)


def test_pictures_are_looked_at_one_by_one():
    segmenter = Segmenter(ColourMatcher()).fit(*([x] for x in scene(RED, LEFT)))
    taken = []

    def stream():
        for number in range(1000):
            taken.append(number)
            yield scene(RED, RIGHT)[0]

    next(segmenter.answers(stream()))
    assert taken == [0]


def test_margins_between_cells_are_linear():
    cells = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    height, width = 33, 90
    rows = np.clip(((np.arange(height) + 0.5) * 40 / height - 0.5) / 8, 0, 4)
    columns = np.clip(((np.arange(width) + 0.5) * 56 / width - 0.5) / 8, 0, 6)
    expected = map_coordinates(cells, np.meshgrid(rows, columns, indexing="ij"), order=1)
    np.testing.assert_allclose(upsample(cells, (height, width)), expected, atol=1e-5)


def test_no_pixel_is_lost_between_the_cells():
    label = np.random.default_rng(1).choice([0, 1, 255], size=(65, 65)).astype(np.uint8)
    foreground, background = cell_shares(label)
    assert foreground.shape == (9, 9)
    np.testing.assert_allclose(64 * foreground.sum(), (label == 1).sum(), rtol=1e-4)
    np.testing.assert_allclose(64 * background.sum(), (label == 0).sum(), rtol=1e-4)
    np.testing.assert_allclose(foreground[1, 1], (label[4:12, 4:12] == 1).mean(), rtol=1e-5)


def test_what_cannot_be_used_is_told():
    image, mask = scene(RED, LEFT)
    for images, masks, message in (
        ([], [], "no support"),
        ([image], [mask, mask], "1 support pictures, 2 masks"),
        ([image], [mask[:-1]], "one size"),
        ([image], [mask & False], "no foreground"),
        ([image], [mask | True], "covers all"),
        ([image, image], [mask, mask], "given twice"),
        ([image / 255.0], [mask], "uint8"),
    ):
        with pytest.raises(UserError, match=message):
            Segmenter(ColourMatcher()).fit(images, masks)
    with pytest.raises(UserError, match="call fit first"):
        Segmenter(ColourMatcher()).predict([image])


def test_a_head_s_decision_lies_beside_it(tmp_path):
    with pytest.raises(UserError, match="none at once"):
        apanet_jax.load("mine", trained=False)
    head = Path(shutil.copytree(GENERAL_HEAD, tmp_path / "head"))
    first = Decision(threshold=0.5, scale=2, bias=-1, peak_weight=3, likeness_weight=4)
    other = first._replace(bias=1)
    content = {"size": 97, "decisions": {"1": first._asdict(), "5": other._asdict()}}
    (head / DECISION).write_text(json.dumps(content))
    matcher = apanet_jax.load(head).matcher
    assert matcher.size == 97
    assert matcher.decision(1) == matcher.decision(2) == first
    assert matcher.decision(4) == matcher.decision(9) == other
    assert apanet_jax.load(head, size=65).matcher.size == 65
    (head / DECISION).unlink()
    matcher = apanet_jax.load(head).matcher
    assert matcher.size == 193 and matcher.decision(5) == Decision(threshold=0.0, scale=1.0)
    for damaged in ("{", "[]", '{"size": 97}', '{"size": "x", "decisions": {}}'):
        (head / DECISION).write_text(damaged)
        with pytest.raises(UserError, match="decision.json holds no size"):
            apanet_jax.load(head)


def test_the_head_that_comes_along_is_the_default_and_names_no_folder_of_its_maker():
    assert isinstance(apanet_jax.load().matcher, HeadMatcher)
    assert isinstance(apanet_jax.load(trained=False).matcher, PrototypeMatcher)
    config = json.loads((GENERAL_HEAD / "config.json").read_text())
    assert not config["data"]["records"] and not config["features"]["directory"]
    size = sum(path.stat().st_size for path in GENERAL_HEAD.iterdir())
    assert size < 1 << 20


@pytest.mark.slow
def test_a_head_whose_cells_lie_16_pixels_apart_finds_things_at_the_same_places(monkeypatch):
    """VGG's do; the margins stay where the network's are."""
    config = folder.get_config("backbone=vgg16,weights=random,channels=8")
    network = make_network(config)
    rng = np.random.default_rng(0)
    shapes = abstract_state(network.head, "vgg16").parameters
    parameters = jax.tree.map(lambda x: rng.normal(scale=0.1, size=x.shape).astype("f"), shapes)
    matcher = HeadMatcher(network, parameters, load_backbone("vgg16", "random"), 65)
    images = [rng.integers(0, 255, (48, 96, 3), np.uint8) for _ in range(2)]
    mask = np.zeros((48, 96), bool)
    mask[8:40, 16:64] = True
    segmenter = Segmenter(matcher).fit(images[:1], [mask])
    coarse = []
    compare = matcher._compare
    monkeypatch.setattr(
        matcher, "_compare", lambda *x: coarse.append(np.asarray(compare(*x))) or coarse[-1]
    )
    (answer,) = segmenter.answers(images[1:])
    assert coarse[0].shape == (5, 5)
    # The picture is 64x32 pixels in its square: 4 by 2 cells, seen at 8 by 4.
    seen = answer._cells[0]
    assert seen.shape == (4, 8)
    np.testing.assert_allclose(seen[::2, ::2], coarse[0][:2, :4], rtol=1e-5)
    np.testing.assert_allclose(seen[0, 1], coarse[0][0, :2].mean(), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("trained", [True, False])
def test_drawn_things_are_seen_where_they_are(trained):
    ious, shares = [], []
    # The head was trained on the things from number 5 on.
    for thing in (0, 1, 2, 3, 4) if trained else (0, 3, 7, 11):
        rng = np.random.default_rng(5)
        others = [c for c in range(len(CLASS_NAMES)) if c != thing]
        drawn = [draw_image(rng, [thing], 192) for _ in range(9)]
        absent = [draw_image(rng, [c], 192)[0] for c in others[:4]]
        images, labels = zip(*drawn, strict=True)
        truths = [label == thing + 1 for label in labels]
        segmenter = apanet_jax.load(size=193, trained=trained).fit(images[:5], truths[:5])
        pairs = list(zip(segmenter.predict(images[5:]), truths[5:], strict=True))
        ious.append(sum((f & t).sum() for f, t in pairs) / sum((f | t).sum() for f, t in pairs))
        shares.append(np.mean([truth.mean() for _, truth in pairs]))
        # The head's scores hardly tell, see experiments/results/general_head.md.
        assert trained or segmenter.scores(images[5:]).mean() > segmenter.scores(absent).mean()
    # The share is what a mask of the whole picture would score.
    assert np.mean(ious) > np.mean(shares)
