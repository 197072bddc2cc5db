"""Several prototypes of a foreground and their allocation, position by position in NumPy."""

import functools

import jax
import numpy as np
import pytest
import torch

from apanet_jax.models.apanet import APANet, ImageFeatures
from apanet_jax.models.prototypes import allocation, foreground_parts, over_shots, part_means
from apanet_jax.models.resize import at_size
from tests.literal import BATCH, CHANNELS, MIDDLE, SHOT, SIZE, Literal, drawn, episode


def parameters_of(head, *inputs):
    return drawn(jax.eval_shape(head.init, jax.random.key(0), *inputs)["params"])


def kinds_of_position(rng, *shape, kinds=3):
    """Returns the kind of each position, and features that are well apart between kinds."""
    which = rng.integers(0, kinds, shape)
    noise = 0.05 * rng.standard_normal((*shape, MIDDLE))
    return which, (4 * np.eye(MIDDLE)[which] + noise).astype(np.float32)


def test_parts_are_the_kinds_of_position_that_a_foreground_has():
    rng = np.random.default_rng(0)
    which, middle = kinds_of_position(rng, 2, 3, 6, 6)
    foreground = (rng.random(which.shape) * (rng.random(which.shape) > 0.4)).astype(np.float32)
    # What stands behind is like none of them, and must have no say.
    middle[foreground == 0] = rng.standard_normal(MIDDLE)
    parts = np.asarray(foreground_parts(middle, foreground, 3))
    np.testing.assert_allclose(parts.sum(-1), foreground, rtol=1e-6)
    means = np.asarray(part_means(middle, parts))
    for place in np.ndindex(2, 3):
        inside = foreground[place] > 0
        for part in range(3):
            (kind,) = set(which[place][inside & (parts[place][..., part] > 0)])
            shares = foreground[place] * (which[place] == kind)
            np.testing.assert_allclose(parts[place][..., part], shares, rtol=1e-6)
            mean = np.average(middle[place].reshape(-1, MIDDLE), 0, shares.ravel())
            np.testing.assert_allclose(means[place][part], mean, rtol=1e-4, atol=1e-5)
        alone = foreground_parts(middle[place], foreground[place], 3)
        np.testing.assert_array_equal(alone, parts[place])


def test_in_place_of_an_empty_part_stands_the_largest():
    rng = np.random.default_rng(0)
    which, middle = kinds_of_position(rng, 5, 5, kinds=2)
    middle = 4 * np.eye(MIDDLE, dtype=np.float32)[which]
    which[0, :3] = 0
    middle[0, :3] = middle[0, 0]
    foreground = np.ones((5, 5), np.float32)
    parts = np.asarray(foreground_parts(middle, foreground, 4))
    areas = parts.sum((0, 1))
    assert (areas > 0).all()
    assert sorted(areas)[1:] == [areas.max()] * 3
    nothing = np.asarray(foreground_parts(middle, 0 * foreground, 2))
    assert not nothing.any() and not np.asarray(part_means(middle, nothing)).any()


def test_one_part_is_the_foreground():
    foreground = np.random.default_rng(0).random((2, 3, 4, 4)).astype(np.float32)
    parts = foreground_parts(np.ones((2, 3, 4, 4, 5), np.float32), foreground, 1)
    np.testing.assert_array_equal(parts, foreground[..., None])


def test_a_position_is_given_the_part_with_the_largest_cosine_and_shots_are_averaged():
    rng = np.random.default_rng(0)
    middle = rng.standard_normal((2, 4, 5, 6)).astype(np.float32)
    means = rng.standard_normal((2, 3, 2, 6)).astype(np.float32)
    prototypes = rng.standard_normal((2, 3, 2, 7)).astype(np.float32)
    compared, weights = over_shots(prototypes, allocation(middle[:, None], means))
    seen = np.einsum("bhwn,bnc->bhwc", weights, compared)
    for b, y, x in np.ndindex(2, 4, 5):
        given = []
        for shot in range(3):
            cosines = means[b, shot] @ middle[b, y, x] / np.linalg.norm(means[b, shot], axis=-1)
            given.append(prototypes[b, shot, int(cosines[1] > cosines[0])])
        np.testing.assert_allclose(seen[b, y, x], np.mean(given, 0), atol=1e-5)
    np.testing.assert_allclose(np.sum(weights, -1), 1, rtol=1e-6)


@pytest.mark.parametrize("train", [False, True])
def test_the_head_compares_each_position_with_the_prototypes_it_was_given(train):
    query, support, labels, label = episode()
    labels = np.zeros_like(labels)
    labels[:, :, : labels.shape[2] // 2] = 1
    rng = np.random.default_rng(1)
    which, of_support = kinds_of_position(rng, BATCH, SHOT, SIZE, SIZE, kinds=2)
    in_query, of_query = kinds_of_position(rng, BATCH, SIZE, SIZE, kinds=2)
    query, support = query._replace(middle=of_query), support._replace(middle=of_support)
    head = APANet(
        channels=CHANNELS, foreground_prototypes=2, reduction_dropout=0.0, comparison_dropout=0.0
    )
    parameters = parameters_of(head, query, support, labels)
    keys = {"cluster": jax.random.key(0), "dropout": jax.random.key(1)} if train else {}
    outputs = jax.jit(functools.partial(head.apply, train=train))(
        {"params": parameters}, *(query, support, labels, label if train else None), rngs=keys
    )
    literal = Literal(parameters)
    reduced = literal.reduce("reduce_support", of_support).detach().numpy()
    foreground = np.asarray(at_size(labels == 1, (SIZE, SIZE)))
    expanded = np.zeros((BATCH, SIZE, SIZE, CHANNELS), np.float32)
    for b, y, x in np.ndindex(BATCH, SIZE, SIZE):
        for shot in range(SHOT):
            shares = foreground[b, shot] * (which[b, shot] == in_query[b, y, x])
            assert shares.any()
            total = np.einsum("hw,hwc->c", shares, reduced[b, shot])
            expanded[b, y, x] += total / (shares.sum() + 0.0005) / SHOT
    expected = literal.compare(
        literal.reduce("reduce_query", of_query), torch.from_numpy(expanded), outputs.prior
    )
    np.testing.assert_allclose(outputs.logits, expected.detach(), atol=1e-5)


def test_a_foreground_that_looks_the_same_everywhere_has_one_prototype_however_many_are_asked_for():
    query, support, labels, _ = episode()
    support = ImageFeatures(np.ones_like(support.middle), support.high)
    inputs = query, support, labels
    one, three = (APANet(channels=CHANNELS, foreground_prototypes=n) for n in (1, 3))
    parameters = parameters_of(one, *inputs)
    expected, found = (
        jax.jit(x.apply)({"params": parameters}, *inputs).logits for x in (one, three)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5)
