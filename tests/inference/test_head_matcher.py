"""A head that takes supports one by one, against the head that is given them all at once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.inference.matching.geometry import Grid
from apanet_jax.inference.matching.head_matcher import HeadMatcher
from apanet_jax.models.apanet import APANet
from apanet_jax.models.backbones import Features
from apanet_jax.models.network import Network

GRID = Grid(64, 8, 8)


class Patches:
    """A backbone whose blocks hold other pixels of each patch."""

    def apply(self, _, images):
        pixels = images.astype(jnp.float32) / 127.5 - 1
        return Features(*(pixels[:, first::8, first::8] for first in (1, 3, 5)))


def made(**options) -> HeadMatcher:
    head = APANet(channels=4, block4_channels=3, **options)
    network = Network(Patches(), head, masked_support=False)
    features = network.of_images(network.features({}, np.zeros((1, 64, 64, 3), np.uint8)))
    support = jax.tree.map(lambda x: x[None], features)
    labels = np.ones((1, 1, 64, 64), np.uint8)
    parameters = jax.jit(head.init)(jax.random.key(0), features, support, labels)["params"]
    return HeadMatcher(network, parameters, {}, GRID)


def supports(number):
    rng = np.random.default_rng(number)
    squares, labels = rng.integers(0, 256, (2, number, 64, 64, 3), np.uint8)
    labels = (labels[..., 0] > 60).astype(np.uint8)
    labels[:, 40:] = 0
    labels[0, :8] = 255
    return squares, labels


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"priors": ("high", "contrast"), "foreground_prototypes": 2}, marks=pytest.mark.slow
        ),
        {"priors": ("middle", "density_ratio"), "unit_features": True, "stretch_prior": False},
        {"priors": ()},
    ],
)
def test_the_margins_are_the_logits_of_the_whole_head(options):
    matcher = made(**options)
    squares, labels = supports(3)
    features = [matcher.embed(x) for x in squares]
    learned = matcher.learn(features[:2], labels[:2])
    query, *given = [matcher.network.of_images(x) for x in (features[2], *features[:2])]
    together = jax.tree.map(lambda *x: np.concatenate(x)[None], *given)
    whole = jax.jit(matcher.network.head.apply)
    logits = whole({"params": matcher.parameters}, query, together, labels[None, :2]).logits[0]
    found = matcher.margins(features[2], learned)
    np.testing.assert_allclose(found, logits[..., 1] - logits[..., 0], atol=1e-4)
    # With several prototypes each number of supports is a program.
    if matcher.network.head.foreground_prototypes == 1:
        alone = matcher.margins(features[2], matcher.learn(features[1:2], labels[1:2]))
        without = matcher.margins(features[2], matcher.without(learned, 0))
        np.testing.assert_array_equal(without, alone)


def test_one_support_more_compiles_nothing():
    matcher = made(priors=("middle",))
    squares, labels = supports(4)
    features = [matcher.embed(x) for x in squares]
    for number in (1, 2, 3):
        matcher.margins(features[3], matcher.learn(features[:number], labels[:number]))
    assert [program._cache_size() for program in matcher._programs] == [1, 1, 1]


def test_the_last_support_is_never_left_out():
    matcher = made(priors=("middle",))
    squares, labels = supports(1)
    learned = matcher.learn([matcher.embed(squares[0])], labels)
    assert matcher.without(learned, 0) == matcher.without(learned, 1) == learned
