"""What all backbones have in common, and the table of them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from apanet_jax.models import backbones
from apanet_jax.models.backbones import Features
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import load_backbone, parameter_shapes

# Both depths and both stems of a ResNet, each once.
LATER = {("resnet50", "plain"), ("resnet101", "deep")}
CASES = [
    pytest.param(name, stem, marks=[pytest.mark.slow] * ((name, stem) in LATER))
    for name, row in backbones.BACKBONES.items()
    # One vision transformer stands for them all; see test_vit.
    if row.patch is None or name == "dinov2_vits14"
    for stem in row.stems or ("deep",)
]


@pytest.mark.parametrize("name,stem", CASES)
def test_shapes_are_those_of_the_table(name, stem):
    row = backbones.spec(name)
    network = backbones.create(name, stem=stem)
    parameters = parameter_shapes(name, stem)
    height, width = (4 * row.patch, 6 * row.patch) if row.patch else (65, 97)
    images = jax.ShapeDtypeStruct((2, height, width, 3), jnp.uint8)
    features = jax.eval_shape(network.apply, {"params": parameters}, images)
    # Positions are the centres of patches, or begin with the first pixel.
    size = -(-height // row.stride), -(-width // row.stride)
    assert features.block3.shape[:3] == (2, *size) if row.patch else (2, 9, 13)
    assert hasattr(network, "last_block") == row.has_last_block
    assert features.block4.shape == (2, *size, row.block4_channels)
    assert features.block5.shape == (2, *size, row.high_channels)
    assert jax.eval_shape(backbones.middle, features).shape == (2, *size, row.middle_channels)
    assert {f.dtype for f in features} == {jnp.dtype(jnp.float32)}


@pytest.mark.parametrize(
    "name",
    ["efficientnet_lite0"]
    + [pytest.param(x, marks=pytest.mark.slow) for x in ("resnet50", "vgg16")],
)
def test_half_precision_and_last_block(name):
    images = np.random.default_rng(0).integers(0, 256, (1, 33, 49, 3), np.uint8)
    variables = {"params": load_backbone(name, "random")}
    network = backbones.create(name)
    full = jax.jit(network.apply)(variables, images)
    again = jax.jit(functools.partial(network.apply, method=network.last_block))(
        variables, full.block4
    )
    np.testing.assert_allclose(again, full.block5, rtol=1e-4, atol=1e-3)
    half = jax.jit(backbones.create(name, dtype=jnp.bfloat16).apply)(variables, images)
    for exact, rounded in zip(full, half, strict=True):
        assert rounded.dtype == jnp.bfloat16
        error = jnp.linalg.norm(rounded.astype(jnp.float32) - exact) / jnp.linalg.norm(exact)
        assert error < 0.05


def test_middle_is_block_4_then_block_3_at_its_size():
    block3 = jnp.arange(9.0).reshape(1, 3, 3, 1)
    block4 = 100 + jnp.arange(2 * 2 * 2.0).reshape(1, 2, 2, 2)
    middle = backbones.middle(Features(block3, block4, block4))
    np.testing.assert_array_equal(middle[..., :2], block4)
    # Aligned corners: two samples of three are the first and the last.
    np.testing.assert_allclose(middle[0, :, :, 2], [[0, 2], [6, 8]])


def test_unknown_names_and_stems_are_explained():
    with pytest.raises(UserError, match="'resnet18'.*efficientnet_lite0, .*lite2, resnet50"):
        backbones.create("resnet18")
    with pytest.raises(UserError, match="no stem 'shallow'.*deep, plain"):
        backbones.create("resnet50", stem="shallow")
