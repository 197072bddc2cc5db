"""What all backbones have in common, and the table of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.errors import UserError
from apanet_jax.models import backbones
from apanet_jax.models.backbones import Features
from apanet_jax.weights.load import load_backbone

CASES = [
    (name, stem) for name, row in backbones.BACKBONES.items() for stem in row.stems or ("deep",)
]
SMALL = [case for case in CASES if case[0] != "resnet101"]


@functools.cache
def weights(name, stem):
    return load_backbone(name, "random", stem=stem)


def pictures(*shape):
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize("name,stem", CASES)
def test_shapes_are_those_of_the_table(name, stem):
    row = backbones.spec(name)
    network = backbones.create(name, stem=stem)
    parameters = load_shapes(name, stem)
    images = jax.ShapeDtypeStruct((2, 65, 97, 3), jnp.uint8)
    features = jax.eval_shape(network.apply, {"params": parameters}, images)
    assert features.block5.shape == (2, 9, 13, row.high_channels)
    assert jax.eval_shape(backbones.middle, features).shape == (2, 9, 13, row.middle_channels)
    assert {f.dtype for f in features} == {jnp.dtype(jnp.float32)}


def load_shapes(name, stem):
    from apanet_jax.weights.load import parameter_shapes

    return parameter_shapes(name, stem)


@pytest.mark.parametrize("name,stem", SMALL)
def test_half_precision_is_close(name, stem):
    images = pictures(1, 49, 65)
    variables = {"params": weights(name, stem)}
    full = jax.jit(backbones.create(name, stem=stem).apply)(variables, images)
    half = jax.jit(backbones.create(name, stem=stem, dtype=jnp.bfloat16).apply)(variables, images)
    for exact, rounded in zip(full, half, strict=True):
        assert rounded.dtype == jnp.bfloat16
        error = jnp.linalg.norm(rounded.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
        assert error < 0.05


@pytest.mark.parametrize("name,stem", [("efficientnet_lite0", "deep"), ("resnet50", "plain")])
def test_last_block_gives_block5_of_block4(name, stem):
    network = backbones.create(name, stem=stem)
    variables = {"params": weights(name, stem)}
    features = jax.jit(network.apply)(variables, pictures(1, 33, 41))
    again = jax.jit(functools.partial(network.apply, method=network.last_block))(
        variables, features.block4
    )
    np.testing.assert_allclose(again, features.block5, rtol=1e-4, atol=1e-4)


def test_pictures_may_be_bytes_or_floats():
    network = backbones.create("efficientnet_lite0")
    variables = {"params": weights("efficientnet_lite0", "deep")}
    images = pictures(1, 33, 33)
    apply = jax.jit(network.apply)
    np.testing.assert_array_equal(
        apply(variables, images).block5, apply(variables, images.astype(np.float32)).block5
    )


def test_middle_is_block_4_then_block_3_at_its_size():
    block3 = jnp.arange(9.0).reshape(1, 3, 3, 1)
    block4 = 100 + jnp.arange(2 * 2 * 2.0).reshape(1, 2, 2, 2)
    middle = backbones.middle(Features(block3, block4, block4))
    np.testing.assert_array_equal(middle[..., :2], block4)
    # Aligned corners: two samples of three are the first and the last.
    np.testing.assert_allclose(middle[0, :, :, 2], [[0, 2], [6, 8]])


def test_unknown_names_and_stems_are_explained():
    with pytest.raises(UserError, match="'resnet18'.*efficientnet_lite0, resnet50"):
        backbones.create("resnet18")
    with pytest.raises(UserError, match="no stem 'shallow'.*deep, plain"):
        backbones.create("resnet50", stem="shallow")
