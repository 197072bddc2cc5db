"""The prior mask against its definition, position by position."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from apanet_jax.models.prior import (
    CONTRAST_GAIN,
    _all_positions,
    _foreground_alone,
    contrast_prior,
    density_prior,
    largest_cosine,
    prior_mask,
    shot_prior,
)

jitted_prior_mask = jax.jit(prior_mask)
jitted_ways = jax.jit(_foreground_alone), jax.jit(_all_positions)


def _by_hand(query, support, foreground):
    batch, height, width, _ = query.shape
    result = np.zeros((batch, height, width))
    for b in range(batch):
        for features, mask in zip(support[b], foreground[b], strict=True):
            similarity = np.zeros((height, width))
            for i in range(height):
                for j in range(width):
                    q = query[b, i, j]
                    cosines = [
                        q @ s / (np.linalg.norm(q) * np.linalg.norm(s)) for s in features[mask > 0]
                    ]
                    similarity[i, j] = max([0.0, *cosines])
            spread = similarity.max() - similarity.min()
            result[b] += (similarity - similarity.min()) / (spread + 1e-7) / len(support[b])
    return result


def test_agrees_with_the_definition():
    rng = np.random.default_rng(0)
    query = rng.standard_normal((2, 3, 4, 5))
    support = rng.standard_normal((2, 3, 3, 4, 5))
    foreground = rng.random((2, 3, 3, 4)) * (rng.random((2, 3, 3, 4)) > 0.5)
    np.testing.assert_allclose(
        prior_mask(
            query.astype(np.float32), support.astype(np.float32), foreground.astype(np.float32)
        ),
        _by_hand(query, support, foreground),
        atol=1e-4,
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_lies_between_0_and_1_and_reaches_both(seed):
    rng = np.random.default_rng(seed)
    query, support = rng.standard_normal((2, 1, 4, 4, 6)).astype(np.float32)
    mask = jitted_prior_mask(query, support[:, None], np.ones((1, 1, 4, 4), np.float32))
    assert mask.min() == 0 and mask.max() <= 1
    np.testing.assert_allclose(mask.max(), 1, atol=1e-3)


def test_a_support_without_foreground_gives_zeros():
    features = np.ones((1, 2, 2, 3), np.float32)
    assert not largest_cosine(features, features, np.zeros((1, 2, 2), np.float32)).any()
    assert not prior_mask(features, features[:, None], np.zeros((1, 1, 2, 2), np.float32)).any()


def test_zero_features_are_not_nan():
    zeros = np.zeros((1, 2, 2, 3), np.float32)
    assert np.isfinite(prior_mask(zeros, zeros[:, None], np.ones((1, 1, 2, 2), np.float32))).all()


def test_not_stretched_it_is_the_mean_of_the_largest_cosines():
    rng = np.random.default_rng(0)
    query = rng.standard_normal((1, 2, 3, 5)).astype(np.float32)
    support = rng.standard_normal((1, 2, 2, 3, 5)).astype(np.float32)
    foreground = np.ones((1, 2, 2, 3), np.float32)
    expected = np.mean(
        [
            largest_cosine(
                query.reshape(1, 6, 5), support[:, k].reshape(1, 6, 5), np.ones((1, 6), np.float32)
            )
            for k in range(2)
        ],
        0,
    )
    raw = prior_mask(query, support, foreground, stretch=False)
    np.testing.assert_allclose(raw, expected.reshape(1, 2, 3), rtol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_foreground_alone_gives_what_all_positions_give(seed, share):
    rng = np.random.default_rng(seed)
    query, support = rng.standard_normal((2, 3, 70, 6)).astype(np.float32)
    inside = rng.random((3, 70)) < share
    expected = np.maximum(
        np.where(inside[:, None], np.einsum("bpc,bsc->bps", query, support), -np.inf).max(-1), 0
    )
    for way in jitted_ways:
        np.testing.assert_allclose(way(query, support, inside), expected, atol=1e-4)


def test_contrast_is_the_cosine_to_the_thing_above_that_to_its_surroundings():
    rng = np.random.default_rng(0)
    # Foreground and three kinds of background, well apart, so that any k-means finds them.
    kinds = np.eye(6)[:4]
    which = rng.integers(0, 4, (2, 3, 5, 5))
    support = (kinds[which] + 0.05 * rng.standard_normal((2, 3, 5, 5, 6))).astype(np.float32)
    query = rng.standard_normal((2, 5, 5, 6)).astype(np.float32)
    foreground = (which == 0).astype(np.float32)
    found = contrast_prior(query, support, foreground, 1 - foreground)
    expected = np.zeros((2, 5, 5))
    for b in range(2):
        for k in range(3):
            behind = support[b, k][which[b, k] > 0]
            units = behind / np.linalg.norm(behind, axis=-1, keepdims=True)
            labels = KMeans(3, n_init=10, random_state=0).fit_predict(units)
            means = [support[b, k][which[b, k] == 0].mean(0)]
            means += [behind[labels == cluster].mean(0) for cluster in range(3)]
            unit = np.stack([mean / np.linalg.norm(mean) for mean in means])
            cosine = query[b] / np.linalg.norm(query[b], axis=-1, keepdims=True) @ unit.T
            difference = cosine[..., 0] - cosine[..., 1:].max(-1)
            expected[b] += np.clip(0.5 + CONTRAST_GAIN * difference, 0, 1) / 3
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_density_ratio_is_the_share_of_the_foregrounds_density():
    rng = np.random.default_rng(0)
    query, support = rng.standard_normal((2, 3, 4, 5)), rng.standard_normal((2, 2, 3, 4, 5))
    foreground = rng.random((2, 2, 3, 4)) * (rng.random((2, 2, 3, 4)) > 0.3)
    background = np.where(rng.random((2, 2, 3, 4)) > 0.2, 1 - foreground, 0)
    found = density_prior(query, support, foreground, background, 0.2)
    expected = np.zeros((2, 3, 4))
    for b, k in np.ndindex(2, 2):
        unit = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (query[b], support[b, k])]
        kernel = np.exp(np.einsum("ijc,uvc->ijuv", *unit) / 0.2)
        before, behind = (
            (kernel * shares[b, k]).sum((2, 3)) / shares[b, k].sum()
            for shares in (foreground, background)
        )
        expected[b] += before / (before + behind) / 2
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_contrast_without_background_or_foreground_is_a_number():
    features = np.random.default_rng(0).standard_normal((1, 3, 3, 4)).astype(np.float32)
    nothing, everything = np.zeros((1, 1, 3, 3), np.float32), np.ones((1, 1, 3, 3), np.float32)
    for shares in ((nothing, everything), (everything, nothing), (nothing, nothing)):
        found = np.asarray(contrast_prior(features, features[:, None], *shares))
        assert np.isfinite(found).all() and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("foreground", [None, np.ones((2, 7), np.float32)])
def test_the_precision_of_cosines_is_not_the_platforms(foreground):
    query, support = np.ones((2, 5, 3), np.float32), np.ones((2, 7, 3), np.float32)
    program = str(jax.make_jaxpr(largest_cosine)(query, support, foreground))
    products = [line for line in program.splitlines() if "dot_general" in line]
    assert products and program.count("HIGHEST") >= len(products)


def test_zeros_beside_a_foreground_change_nothing():
    rng = np.random.default_rng(0)
    query, support = (rng.normal(size=(n, 4)).astype(np.float32) for n in (6, 9))
    inside = (np.arange(9) < 5).astype(np.float32)
    alone = support * inside[:, None]
    np.testing.assert_allclose(
        shot_prior(query, alone, None), shot_prior(query, support, inside), atol=1e-6
    )
