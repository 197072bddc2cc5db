"""The comparison against its literal form: expand, concatenate, convolve (Eq. 2, 3, 7, 8)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from apanet_jax.models.comparison import ConvComparison
from tests.literal import drawn

BATCH, SIZE, CHANNELS, CLUSTERS = 2, (5, 6), 7, 3


def _inputs(seed=0):
    rng = np.random.default_rng(seed)
    query = rng.standard_normal((BATCH, *SIZE, CHANNELS)).astype(np.float32)
    prototypes = rng.standard_normal((BATCH, CLUSTERS, CHANNELS)).astype(np.float32)
    assignment = np.eye(CLUSTERS, dtype=np.float32)[rng.integers(0, CLUSTERS, (BATCH, *SIZE))]
    prior = rng.random((BATCH, *SIZE, 2)).astype(np.float32)
    return query, prototypes, assignment, prior


def _literal(parameters, query, prototypes, assignment, prior):
    expanded = np.einsum("bnc,bhwn->bhwc", prototypes, assignment)
    x = torch.tensor(np.concatenate([query, expanded, prior], -1)).permute(0, 3, 1, 2)
    kernel = torch.tensor(np.asarray(parameters["kernel"])).permute(3, 2, 0, 1)
    bias = torch.tensor(np.asarray(parameters["bias"]))
    hidden = torch.relu(torch.nn.functional.conv2d(x, kernel, bias, padding=1))
    output = torch.tensor(np.asarray(parameters["output"]["kernel"]))
    return hidden.permute(0, 2, 3, 1) @ output + torch.tensor(
        np.asarray(parameters["output"]["bias"])
    )


def _apply(module, parameters, query, *rest, **options):
    def both(module, query, *rest):
        return module(module.encode_query(query), *rest, **options)

    return jax.jit(functools.partial(module.apply, method=both))(
        {"params": parameters}, query, *rest
    )


@pytest.mark.parametrize("priors", [0, 2])
def test_equals_the_literal_concatenation(priors):
    query, prototypes, assignment, prior = _inputs()
    module = ConvComparison(CHANNELS, priors)
    inputs = (query, prototypes, assignment, prior[..., :priors])

    def both(module, query, *rest):
        return module(module.encode_query(query), *rest)

    shapes = jax.eval_shape(functools.partial(module.init, method=both), jax.random.key(0), *inputs)
    parameters = drawn(shapes["params"])
    compared = _apply(module, parameters, *inputs, levels=True)
    np.testing.assert_allclose(compared.logits, _literal(parameters, *inputs), atol=1e-5)
    assert compared.levels == ()


def test_starts_as_pytorch_does():
    module = ConvComparison(64, 1)
    inputs = [
        np.zeros(s, np.float32) for s in ((1, 3, 3, 64), (1, 1, 64), (1, 3, 3, 1), (1, 3, 3, 1))
    ]

    def both(module, query, *rest):
        return module(module.encode_query(query), *rest)

    init = jax.jit(functools.partial(module.init, method=both))
    parameters = init(jax.random.key(1), *inputs)["params"]
    reference = torch.nn.Conv2d(129, 64, 3)
    for ours, theirs in (
        (parameters["kernel"], reference.weight),
        (parameters["bias"], reference.bias),
    ):
        bound = (129 * 9) ** -0.5
        assert np.abs(ours).max() <= bound and theirs.abs().max() <= bound
        np.testing.assert_allclose(np.std(ours), theirs.std().item(), rtol=0.25)


def test_bfloat16_features_are_convolved_as_they_are():
    rng = np.random.default_rng(0)
    channels = 512
    query = jnp.asarray(rng.standard_normal((1, 4, 4, channels)), jnp.bfloat16)
    module = ConvComparison(channels, 0)
    kernel = rng.standard_normal((3, 3, 2 * channels, channels)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    parameters = {"kernel": kernel, "bias": bias}
    found = jax.jit(functools.partial(module.apply, method="encode_query"))(
        {"params": parameters}, query
    )
    factors = jnp.asarray(kernel[:, :, :channels], jnp.bfloat16)
    x, factors = (np.asarray(a).astype(np.float64) for a in (query, factors))
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    products = [
        x[:, row : row + 4, column : column + 4] @ factors[row, column]
        for row in range(3)
        for column in range(3)
    ]
    expected = sum(products)
    assert found.dtype == jnp.float32
    # The sum is rounded once: sums of 4,608 products in bfloat16 would be off by a tenth.
    off = np.abs(np.asarray(found) - bias - expected)
    assert (off <= 2.0**-8 * np.abs(expected) + 1e-3 * np.abs(expected).max()).all()
