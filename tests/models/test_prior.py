"""The prior mask against its definition, position by position."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.models.prior import largest_cosine, prior_mask


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
    mask = prior_mask(query, support[:, None], np.ones((1, 1, 4, 4), np.float32))
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
