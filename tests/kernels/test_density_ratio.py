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
# Most tests share these, so that few programs are compiled.
QUERIES, POSITIONS, CHANNELS = 6, 22, 4
BANDWIDTHS = np.array([0.02, 0.05, 0.3], np.float32)


def exact(query, support, foreground, background, bandwidth=0.05):
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


def problem(seed, *batch, dtype=np.float32):
    """Returns features and weights: of positions with one weight, with both, and with none."""
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((*batch, QUERIES, CHANNELS))
    support = rng.standard_normal((*batch, POSITIONS, CHANNELS))
    weights = rng.random((2, *batch, POSITIONS)) * (rng.random((2, *batch, POSITIONS)) < 0.6)
    weights[..., :2] = [0.3, 0.7]
    query, support = (jnp.asarray(x, dtype) for x in (query, support))
    return query, support, *weights.astype(np.float32)


@jax.jit
def gradients(*operands):
    """Of the sum over all query positions, with respect to every operand."""
    return jax.grad(lambda *x: density_ratio(*x).sum(), range(len(operands)))(*operands)


BLOCK_OF_5 = 4 * QUERIES * 5


@pytest.mark.parametrize(
    ("dtype", "plan"),
    [
        (jnp.float32, MODULE._CPU),
        (jnp.float32, MODULE._Plan(BLOCK_OF_5, True)),
        (jnp.bfloat16, MODULE._Plan(BLOCK_OF_5, False)),
    ],
)
def test_agrees_with_scipy_and_gradients_with_the_plain_formula(monkeypatch, dtype, plan):
    monkeypatch.setattr(MODULE, "_CPU", plan)
    query, support, *weights = problem(0, dtype=dtype)
    towards = np.random.default_rng(1).standard_normal((QUERIES, 3)).astype(np.float32)

    def loss(function, query, support, bandwidths):
        found = function(query, support, *weights, bandwidths)
        return jnp.sum(found * towards), found

    def gradients(function):
        grad = jax.grad(functools.partial(loss, function), (0, 1, 2), has_aux=True)
        return jax.jit(grad)(query, support, BANDWIDTHS)

    ours, found = gradients(MODULE._density_ratio.__wrapped__)
    assert found.dtype == jnp.float32
    for number, bandwidth in enumerate(BANDWIDTHS):
        expected = exact(query, support, *weights, bandwidth)
        np.testing.assert_allclose(found[:, number], expected, atol=1e-6 / bandwidth)
    for a, b in zip(ours, gradients(plain)[0], strict=True):
        assert a.dtype == b.dtype
        tolerance = 1e-2 if b.dtype == jnp.bfloat16 else 1e-4
        a, b = (np.asarray(x, np.float32) for x in (a, b))
        np.testing.assert_allclose(a, b, atol=tolerance * np.abs(b).max())


def test_the_log_densities_are_scipys():
    query, support, *weights = problem(4)
    weights[1][:] = 0
    both = MODULE.log_densities(query, support, *weights, BANDWIDTHS)
    for number, bandwidth in enumerate(BANDWIDTHS):
        beside = np.concatenate([support, np.zeros((1, CHANNELS))])
        zero = np.arange(POSITIONS + 1) == POSITIONS
        # A vector of norm 0 has cosine 0 to everything, and so the log density 0.
        expected = exact(query, beside, np.append(weights[0], 0), zero, bandwidth)
        np.testing.assert_allclose(both[0, :, number], expected, atol=1e-6 / bandwidth)
        np.testing.assert_allclose(both[1, :, number], -1 / bandwidth)
    one = MODULE.log_densities(query, support, *weights, 0.05)
    np.testing.assert_allclose(one, both[..., 1], atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.int32])
def test_other_types_are_converted(dtype):
    query, support, *weights = problem(2)
    query, support = ((10 * x).astype(dtype) for x in (query, support))
    found = density_ratio(query, support, *weights)
    np.testing.assert_allclose(found, exact(query, support, *weights), atol=2e-5)


def test_small_bandwidths_do_not_underflow():
    query, support, *weights = problem(3)
    support = support.at[2:].set(query[0])
    # For the first query position all background has cosine -1, and all foreground cosine 1.
    support = support.at[:2].set(-query[0])
    weights = np.arange(POSITIONS) >= 2, np.arange(POSITIONS) < 2
    found = density_ratio(query, support, *weights, 1e-3)
    np.testing.assert_allclose(found, exact(query, support, *weights, 1e-3), rtol=1e-5)
    assert found[0] == pytest.approx(2000)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6))
def test_what_changes_nothing(seed):
    rng = np.random.default_rng(seed)
    half = POSITIONS // 2
    query, support, *weights = (np.array(x) for x in problem(seed))
    for x in weights:
        x[half:] = 0
    expected = exact(query, support[:half], *(w[:half] for w in weights))
    same = functools.partial(np.testing.assert_allclose, desired=expected, atol=2e-4)
    same(density_ratio(query, support, *weights))
    order = rng.permutation(POSITIONS)
    same(density_ratio(query, support[order], *(w[order] for w in weights)))
    lengths = rng.uniform(0.1, 10, (QUERIES + POSITIONS, 1)).astype(np.float32)
    same(density_ratio(query * lengths[:QUERIES], support * lengths[QUERIES:], *weights))
    same(density_ratio(query, support, weights[0] * 3, weights[1] * np.float32(0.5)))
    same(density_ratio(query, *(np.concatenate([x[:half], x[:half]]) for x in (support, *weights))))
    support[half:] = rng.choice([np.nan, np.inf, 1e30, 0, 1], (half, CHANNELS))
    same(density_ratio(query, support, *weights))
    np.testing.assert_allclose(-density_ratio(query, support, *weights[::-1]), expected, atol=2e-4)


class TestEdgeCases:
    """What is defined where there is little or nothing to compare with."""

    def test_no_weight_counts_as_one_opposite_position(self):
        query, support, foreground, background = problem(4)
        nothing = np.zeros_like(foreground)

        def opposite(q, weights):
            # q is compared with a position opposite to it, as the background.
            more = np.concatenate([support, -q[None]])
            return exact(q[None], more, np.append(weights, 0), np.append(nothing, 1))[0]

        def expected(weights):
            return [opposite(q, weights) for q in np.asarray(query)]

        without = density_ratio(query, support, foreground, nothing)
        np.testing.assert_allclose(without, expected(foreground), rtol=1e-4)
        without = density_ratio(query, support, nothing, background)
        np.testing.assert_allclose(without, np.negative(expected(background)), rtol=1e-4)
        assert not density_ratio(query, support, nothing, nothing).any()
        for weights in ((foreground, nothing), (nothing, nothing)):
            assert all(np.isfinite(x).all() for x in gradients(query, support, *weights))

    def test_zero_vectors_have_cosine_0_and_gradient_0(self):
        query, support, *weights = problem(5)
        query, support = query.at[1].set(0), support.at[0].set(0)
        found = density_ratio(query, support, *weights)
        np.testing.assert_allclose(found, exact(query, support, *weights), atol=1e-4)
        assert found[1] == pytest.approx(0, abs=1e-5)
        of_query, of_support, *_ = gradients(query, support, *weights)
        assert np.isfinite(of_query).all() and np.isfinite(of_support).all()
        assert not of_query[1].any() and not of_support[0].any()

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_gradients_take_no_notice_of_positions_without_weight(self, value):
        query, support, *weights = problem(8)
        weights = [jnp.asarray(weight).at[3].set(0) for weight in weights]
        expected = gradients(query, support, *weights)
        found = gradients(query, jnp.asarray(support).at[3].set(value), *weights)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)

    def test_nan_stays_in_its_query_position(self):
        query, support, *weights = problem(6)
        found = density_ratio(query.at[0, 0].set(np.nan), support, *weights)
        assert np.isnan(found[0]) and np.isfinite(found[1:]).all()

    def test_no_gradient_flows_to_weights(self):
        assert not np.any(gradients(*problem(7))[2:])


def test_a_batch_agrees_with_one_by_one():
    problems = problem(8, 2)
    expected = [density_ratio(*(x[i] for x in problems)) for i in range(2)]
    np.testing.assert_allclose(density_ratio(*problems), expected, atol=1e-5)
    for i in range(2):
        one = gradients(*(x[i] for x in problems))
        for a, b in zip(gradients(*problems), one, strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-4)


def test_leading_axes_broadcast_as_in_leave_one_out():
    query, support, foreground, background = problem(9)
    many = np.stack([foreground, foreground[::-1], background])
    found = density_ratio(query[None], support, many, many[:2, None])
    assert found.shape == (2, 3, QUERIES)
    for i in range(2):
        for j in range(3):
            expected = exact(query, support, many[j], many[i])
            np.testing.assert_allclose(found[i, j], expected, atol=2e-5)


def test_vmap_over_bandwidths_agrees_with_several_at_once():
    problem_ = problem(10)
    each = jax.vmap(functools.partial(density_ratio, *problem_))(BANDWIDTHS)
    np.testing.assert_allclose(each.T, density_ratio(*problem_, BANDWIDTHS), atol=1e-5)


def shapes(supports, *batch, dtype="float32"):
    """Of 37 x 37 positions and 384 channels."""
    shape = jax.ShapeDtypeStruct
    positions = supports * 37 * 37
    weights = shape((*batch, positions), "float32")
    query, support = (shape((*batch, n, 384), dtype) for n in (37 * 37, positions))
    return query, support, weights, weights


@pytest.mark.parametrize(("function", "most"), [(density_ratio, 40e6), (gradients, 200e6)])
def test_memory_beside_inputs_and_results_of_50_supports(function, most):
    """The cosines alone would take 375 MB, the unit vectors 105 MB."""
    program = jax.jit(function).lower(*shapes(50)).compile()
    assert program.memory_analysis().temp_size_in_bytes < most


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_lowers_for_every_platform(dtype):
    platforms = ["cpu", "cuda", "tpu"]
    jax.export.export(gradients, platforms=platforms)(*shapes(2, 3, dtype=dtype))


def test_float64_changes_nothing():
    problem_ = problem(11)
    expected = density_ratio(*problem_)
    with jax.enable_x64(True):
        wide = [np.asarray(x, np.float64) for x in problem_]
        found = density_ratio(*wide)
        gradient = jax.jit(jax.grad(lambda x: density_ratio(x, *wide[1:]).sum()))(wide[0])
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
