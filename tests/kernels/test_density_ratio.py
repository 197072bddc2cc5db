"""The density ratio against SciPy in float64, its gradient against the plain formula's."""

import functools
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp

from apanet_jax.kernels import density_ratio

MODULE = sys.modules["apanet_jax.kernels.density_ratio"]
QUERIES, POSITIONS, CHANNELS = 6, 22, 4
BANDWIDTHS = np.array([0.02, 0.05, 0.3], np.float32)


def exact(query, support, foreground, background, bandwidth):
    """Returns [queries] in float64; both weights are positive somewhere."""

    def unit(x):
        x = np.asarray(x, np.float64)
        norm = np.linalg.norm(x, axis=-1, keepdims=True)
        return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)

    exponents = unit(query) @ unit(support).T / float(bandwidth)

    def density(weights):
        weights = np.asarray(weights, np.float64)
        return logsumexp(exponents, b=weights, axis=-1) - np.log(weights.sum())

    return density(foreground) - density(background)


def problem(seed, *batch, positions=POSITIONS, dtype=np.float32):
    """Returns features and weights: of positions with one weight, with both, and with none."""
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((*batch, QUERIES, CHANNELS))
    support = rng.standard_normal((*batch, positions, CHANNELS))
    weights = rng.random((2, *batch, positions)) * (rng.random((2, *batch, positions)) < 0.6)
    weights[..., :2] = [0.3, 0.7]
    query, support = (jnp.asarray(x, dtype) for x in (query, support))
    return query, support, *weights.astype(np.float32)


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
def test_agrees_with_scipy_in_float64(dtype):
    problem_ = problem(0, dtype=dtype)
    found = density_ratio(*problem_, BANDWIDTHS)
    assert found.shape == (QUERIES, 3) and found.dtype == jnp.float32
    for number, bandwidth in enumerate(BANDWIDTHS):
        expected = exact(*problem_, bandwidth)
        np.testing.assert_allclose(found[:, number], expected, atol=1e-6 / bandwidth)
    np.testing.assert_allclose(density_ratio(*problem_), found[:, 1], atol=1e-5)


def test_small_bandwidths_do_not_underflow():
    query, support = np.eye(3, dtype=np.float32)[:2], -np.eye(3, dtype=np.float32)
    weights = np.array([1, 0, 0], np.float32), np.array([0, 1, 1], np.float32)
    # All that is near the first query position is background, and as far as can be: cosine -1.
    found = density_ratio(query, support, *weights, 1e-3)
    np.testing.assert_allclose(found, exact(query, support, *weights, 1e-3), rtol=1e-5)
    assert found[0] < -900 and found[1] == pytest.approx(np.log(2), rel=1e-3)


@pytest.mark.parametrize(
    ("dtype", "plan"),
    [
        (jnp.float32, MODULE._Plan(4 * QUERIES * 5, True)),
        (jnp.bfloat16, MODULE._Plan(4 * QUERIES * 5, False)),
        (jnp.bfloat16, MODULE._ACCELERATOR),
    ],
)
def test_every_plan_gives_the_same(dtype, plan):
    query, support, *weights = problem(1, dtype=dtype)
    weights = jnp.stack(weights)
    gradient = np.random.default_rng(2).standard_normal((1, 2, QUERIES)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def run(plan):
        bandwidths = BANDWIDTHS[1:2]
        log_sums = MODULE._forward(plan, query, support, weights, bandwidths)
        kept = query, support, weights, bandwidths, log_sums
        return log_sums, MODULE._backward(plan, *kept, gradient)

    (whole, whole_gradients), (log_sums, gradients) = run(MODULE._CPU), run(plan)
    np.testing.assert_allclose(log_sums, whole, rtol=1e-5)
    tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-4
    for a, b in zip(gradients, whole_gradients, strict=True):
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_what_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    half = POSITIONS // 2
    query, support, *weights = (np.array(x) for x in problem(seed))
    for x in weights:
        x[half:] = 0
    expected = np.asarray(density_ratio(query, support, *weights))
    same = functools.partial(np.testing.assert_allclose, desired=expected, atol=2e-4)
    first = exact(query, support[:half], *(w[:half] for w in weights), 0.05)
    same(first)
    order = rng.permutation(POSITIONS)
    same(density_ratio(query, support[order], *(w[order] for w in weights)))
    lengths = rng.uniform(0.1, 10, (QUERIES + POSITIONS, 1)).astype(np.float32)
    same(density_ratio(query * lengths[:QUERIES], support * lengths[QUERIES:], *weights))
    same(density_ratio(query, support, weights[0] * 3, weights[1] * np.float32(0.5)))
    twice = (np.concatenate([x[:half], x[:half]]) for x in (support, *weights))
    same(density_ratio(query, *twice))
    support[half:] = rng.choice([np.nan, np.inf, 1e30, 0, 1], (half, CHANNELS))
    same(density_ratio(query, support, *weights))
    swapped = density_ratio(query, support, *weights[::-1])
    np.testing.assert_allclose(swapped, -expected, atol=1e-5)


def plain(query, support, foreground, background, bandwidths):
    """The formula as it stands, with all cosines at once: [queries, bandwidths]."""

    def unit(x):
        x = x.astype(jnp.float32)
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

    cosine = jnp.einsum("qc,pc->qp", unit(query), unit(support))[..., None] / bandwidths
    densities = (
        jax.scipy.special.logsumexp(cosine, b=w[:, None], axis=1) - jnp.log(w.sum())
        for w in (foreground, background)
    )
    return next(densities) - next(densities)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_those_of_the_plain_formula(dtype):
    query, support, *weights = problem(2, dtype=dtype)
    towards = np.random.default_rng(3).standard_normal((QUERIES, 3)).astype(np.float32)

    @functools.partial(jax.jit, static_argnums=0)
    def gradients(function):
        def loss(query, support, bandwidths):
            return jnp.sum(function(query, support, *weights, bandwidths) * towards)

        return jax.grad(loss, (0, 1, 2))(query, support, BANDWIDTHS)

    for found, expected in zip(gradients(density_ratio), gradients(plain), strict=True):
        assert found.dtype == expected.dtype
        found, expected = (np.asarray(x, np.float32) for x in (found, expected))
        tolerance = 1e-2 if found.dtype == dtype == jnp.bfloat16 else 1e-4
        np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    of_weights = jax.grad(lambda w: density_ratio(query, support, *w).sum())(weights)
    assert not np.any(of_weights)


class TestEdgeCases:
    """What is defined where there is little or nothing to compare with."""

    def test_no_weight_counts_as_one_opposite_position(self):
        query, support, foreground, background = problem(4)
        nothing = np.zeros_like(foreground)

        def opposite(weights):
            # Each query position is compared with a support position opposite to it.
            return np.array(
                [
                    exact(
                        q[None],
                        np.concatenate([support, -q[None]]),
                        np.append(weights, 0),
                        np.append(nothing, 1),
                        0.1,
                    )[0]
                    for q in np.asarray(query)
                ]
            )

        without = density_ratio(query, support, foreground, nothing, 0.1)
        np.testing.assert_allclose(without, opposite(foreground), rtol=1e-4)
        without = density_ratio(query, support, nothing, background, 0.1)
        np.testing.assert_allclose(without, -opposite(background), rtol=1e-4)
        assert not density_ratio(query, support, nothing, nothing, 0.1).any()

    def test_zero_vectors_have_cosine_0_and_gradient_0(self):
        query, support, *weights = problem(5)
        query, support = query.at[1].set(0), support.at[0].set(0)
        found = density_ratio(query, support, *weights, 0.1)
        np.testing.assert_allclose(found, exact(query, support, *weights, 0.1), atol=1e-4)
        assert found[1] == pytest.approx(0, abs=1e-5)
        gradients = jax.grad(lambda *x: density_ratio(*x, *weights, 0.1).sum(), (0, 1))(
            query, support
        )
        assert all(np.isfinite(x).all() for x in gradients)
        assert not gradients[0][1].any() and not gradients[1][0].any()

    def test_gradients_are_finite_without_weights(self):
        query, support, foreground, _ = problem(6)
        for weights in ((foreground, 0 * foreground), (0 * foreground, 0 * foreground)):
            gradients = jax.grad(lambda *x, w=weights: density_ratio(*x, *w).sum(), (0, 1))(
                query, support
            )
            assert all(np.isfinite(x).all() for x in gradients)

    def test_nan_stays_in_its_problem(self):
        query, support, *weights = problem(7, 2)
        found = density_ratio(query, support.at[0, 0, 0].set(np.nan), *weights)
        assert np.isnan(found[0]).all() and np.isfinite(found[1]).all()

    def test_one_position_each(self):
        vectors = np.array([[1, 0], [0, 2]], np.float32)
        found = density_ratio(vectors, vectors, np.array([1, 0]), np.array([0, 1]), 0.5)
        np.testing.assert_allclose(found, [2, -2], rtol=1e-6)


def test_a_batch_agrees_with_one_by_one():
    """With a support of its own for each query, or one that all share, as in leave-one-out."""
    query, support, *weights = problem(8, 2)
    problems = query, support, *weights
    expected = np.array([density_ratio(*(x[i] for x in problems)) for i in range(2)])
    loss = jax.jit(jax.value_and_grad(lambda *x: density_ratio(*x).sum(), (0, 1)))
    value, gradients = loss(*problems)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    for i in range(2):
        for whole, one in zip(gradients, loss(*(x[i] for x in problems))[1], strict=True):
            np.testing.assert_allclose(whole[i], one, atol=1e-4)
    shared = density_ratio(query[0], support[:1], *weights)
    np.testing.assert_allclose(shared[0], expected[0], atol=1e-5)
    other = density_ratio(query[0], support[0], *(w[1] for w in weights))
    np.testing.assert_allclose(shared[1], other, atol=1e-5)


def test_leading_axes_broadcast():
    query, support, foreground, background = problem(9)
    many = np.stack([foreground, foreground[::-1], background])
    found = density_ratio(query[None], support, many, many[:2, None])
    assert found.shape == (2, 3, QUERIES)
    for i in range(2):
        for j in range(3):
            expected = density_ratio(query, support, many[j], many[i])
            np.testing.assert_allclose(found[i, j], expected, atol=1e-5)


def test_each_problem_may_have_a_bandwidth_of_its_own():
    problem_ = problem(10)
    each = jax.vmap(functools.partial(density_ratio, *problem_))(BANDWIDTHS)
    np.testing.assert_allclose(each.T, density_ratio(*problem_, BANDWIDTHS), atol=1e-5)


def shapes(supports, batch=(), dtype="float32"):
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=dtype)
    positions = 37 * 37
    weights = jax.ShapeDtypeStruct((*batch, supports * positions), "float32")
    query = shape((*batch, positions, 384))
    return query, shape((*batch, supports * positions, 384)), weights, weights


def test_memory_does_not_grow_with_the_supports():
    """Of 50 supports of 37 x 37 positions, the cosines alone would take 375 MB."""
    temporary = [
        jax.jit(density_ratio).lower(*shapes(n)).compile().memory_analysis().temp_size_in_bytes
        for n in (2, 50)
    ]
    assert temporary[1] < 40e6 and temporary[1] - temporary[0] < 4e6


def test_a_gradient_stays_within_200_megabytes_beside_its_input():
    gradient = jax.jit(jax.grad(lambda *x: density_ratio(*x).sum(), (0, 1)))
    memory = gradient.lower(*shapes(50)).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 200e6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowers_for_every_platform(dtype):
    def both(*operands):
        return jax.value_and_grad(lambda *x: density_ratio(*x).sum(), (0, 1))(*operands)

    operands = shapes(2, (3,), dtype)
    jax.export.export(jax.jit(both), platforms=["cpu", "cuda", "tpu"])(*operands)


def test_float64_changes_nothing():
    problem_ = problem(11)
    expected = density_ratio(*problem_, BANDWIDTHS)
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in problem_]
        found = density_ratio(*wide, BANDWIDTHS.astype(np.float64))
        gradient = jax.grad(lambda x: density_ratio(x, *wide[1:]).sum())(wide[0])
    assert found.dtype == np.float32 and gradient.dtype == np.float64
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": np.ones(4)}, "query has shape"),
        ({"query": np.ones((6, 5))}, "as many channels"),
        ({"support": np.ones((0, 4))}, "empty"),
        ({"foreground": np.ones(21)}, "foreground has shape"),
        ({"background": np.float32(1)}, "background has shape"),
        ({"bandwidth": 0}, "expected above 0"),
        ({"bandwidth": [0.1, np.nan]}, "expected above 0"),
        ({"bandwidth": []}, "bandwidth has shape"),
        ({"query": np.ones((2, 6, 4)), "support": np.ones((3, 22, 4))}, "ncompatible shapes"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    names = ("query", "support", "foreground", "background")
    with pytest.raises(ValueError, match=message):
        density_ratio(**dict(zip(names, problem(0), strict=True)) | changes)
