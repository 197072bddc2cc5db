"""VGG-16 against torchvision's, with PFENet's pooling."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from apanet_jax.models import backbones
from apanet_jax.models.layers import Conv
from apanet_jax.models.vgg import DEPTHS, pool
from apanet_jax.weights.load import TABLES, parameter_shapes
from apanet_jax.weights.mapping import convert
from tests import torchvision_models
from tests.networks import normalised, relative_error, tensors_of

# Where PFENet's layers end; those of the plain network follow from the same pooling layers.
ENDS = {"vgg16": (5, 10, 17, 24, 30), "vgg16_bn": (7, 14, 24, 34, 43)}


@pytest.mark.parametrize(
    "name,height,width",
    [("vgg16", 65, 38), pytest.param("vgg16_bn", 51, 41, marks=pytest.mark.slow)],
)
def test_every_layer_agrees_with_torchvision(name, height, width):
    torch.manual_seed(0)
    theirs = torchvision_models.ceil_mode_vgg(name)
    last = nn.BatchNorm2d if name == "vgg16_bn" else nn.Conv2d
    before_relus = [module for module in theirs.features if isinstance(module, last)]
    names = [f"conv{b}_{n}" for b, depth in enumerate(DEPTHS, 1) for n in range(1, depth + 1)]
    modules = dict(zip(names, before_relus, strict=True))
    modules |= {end: theirs.features[end - 1] for end in ENDS[name][2:]}
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    expected = torchvision_models.outputs_of(modules, lambda: theirs.features(normalised(images)))

    @jax.jit
    def run(parameters, images):
        return backbones.create(name).apply(
            {"params": parameters},
            images,
            capture_intermediates=lambda module, _: isinstance(module, Conv),
        )

    tensors = tensors_of(theirs)
    parameters = convert(tensors, TABLES[name](tensors, "deep"), parameter_shapes(name))
    features, captured = run(parameters, images)
    assert sorted(captured["intermediates"]) == sorted(names)
    for layer, outputs in captured["intermediates"].items():
        assert relative_error(outputs["__call__"][0], expected[layer]) < 1e-4, layer
    for ours, end in zip(features, ENDS[name][2:], strict=True):
        assert relative_error(ours, expected[end]) < 1e-4


@pytest.mark.parametrize("height,width", [(1, 1), (1, 2), (2, 3), (6, 6), (7, 8), (13, 9)])
def test_pooling_rounds_up_as_pytorch_s_ceil_mode_does(height, width):
    # All below zero: a border of zeros would show.
    x = np.random.default_rng(0).uniform(-2, -1, (2, height, width, 3)).astype(np.float32)
    expected = nn.functional.max_pool2d(
        torch.from_numpy(x).permute(0, 3, 1, 2), 2, 2, ceil_mode=True
    )
    np.testing.assert_array_equal(pool(jnp.asarray(x)), expected.permute(0, 2, 3, 1))


def test_sizes_at_473():
    images = jax.ShapeDtypeStruct((1, 473, 473, 3), np.uint8)
    features = jax.eval_shape(
        backbones.create("vgg16").apply, {"params": parameter_shapes("vgg16")}, images
    )
    assert [f.shape[1:] for f in features] == [(60, 60, 256), (30, 30, 512), (30, 30, 512)]
