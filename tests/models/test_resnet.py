"""ResNets against torchvision's, and with the deep stem against a PyTorch network written here."""

import jax
import numpy as np
import pytest
import torch
from torch import nn

from apanet_jax.models import backbones
from apanet_jax.models.resnet import Bottleneck
from apanet_jax.weights.load import TABLES, parameter_shapes
from apanet_jax.weights.mapping import convert
from tests import torchvision_models
from tests.networks import (
    channels_last,
    normalised,
    relative_error,
    tensors_of,
    with_random_norms,
)


def normed(inputs, outputs, size, stride=1, dilation=1):
    padding = dilation * (size - 1) // 2
    conv = nn.Conv2d(inputs, outputs, size, stride, padding, dilation, bias=False)
    return conv, nn.BatchNorm2d(outputs)


class Unit(nn.Module):
    def __init__(self, inputs, width, stride, dilation):
        super().__init__()
        self.conv1, self.bn1 = normed(inputs, width, 1)
        self.conv2, self.bn2 = normed(width, width, 3, stride, dilation)
        self.conv3, self.bn3 = normed(width, 4 * width, 1)
        if inputs != 4 * width:
            self.downsample = nn.Sequential(*normed(inputs, 4 * width, 1, stride))

    def forward(self, x):
        y = self.bn1(self.conv1(x)).relu()
        y = self.bn2(self.conv2(y)).relu()
        y = self.bn3(self.conv3(y))
        return (y + (self.downsample(x) if hasattr(self, "downsample") else x)).relu()


class DeepStemResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = normed(3, 64, 3, 2)
        self.conv2, self.bn2 = normed(64, 64, 3)
        self.conv3, self.bn3 = normed(64, 128, 3)
        inputs = 128
        rows = [(3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4)]
        for number, (count, width, stride, dilation) in enumerate(rows, start=1):
            units = [Unit(inputs, width, stride, dilation)]
            units += [Unit(4 * width, width, 1, dilation) for _ in range(count - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*units))
            inputs = 4 * width
        self.fc = nn.Linear(inputs, 10)

    def forward(self, images):
        x = self.bn1(self.conv1(normalised(images))).relu()
        x = self.bn2(self.conv2(x)).relu()
        x = self.bn3(self.conv3(x)).relu()
        x = self.layer1(nn.functional.max_pool2d(x, 3, 2, 1))
        block3 = self.layer2(x)
        block4 = self.layer3(block3)
        return [channels_last(y) for y in (block3, block4, self.layer4(block4))]


def converted(network, name, stem):
    tensors = tensors_of(network)
    return convert(tensors, TABLES[name](tensors, stem), parameter_shapes(name, stem))


def pictures(height, width):
    return np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)


@pytest.mark.slow
def test_features_of_a_deep_stem_agree_with_pytorch():
    torch.manual_seed(0)
    theirs = with_random_norms(DeepStemResNet())
    images = pictures(65, 49)
    with torch.no_grad():
        expected = theirs(images)
    apply = jax.jit(backbones.create("resnet50", stem="deep").apply)
    features = apply({"params": converted(theirs, "resnet50", "deep")}, images)
    for ours, reference in zip(features, expected, strict=True):
        assert relative_error(ours, reference) < 1e-4


@pytest.mark.parametrize(
    ("name", "height", "width"),
    [
        ("resnet50", 65, 50),
        pytest.param("resnet101", 65, 49, marks=pytest.mark.slow),
    ],
)
def test_every_block_agrees_with_torchvision(name, height, width):
    torch.manual_seed(0)
    theirs = torchvision_models.dilated_resnet(name)
    images = pictures(height, width)
    units = {
        f"layer{layer}_{number}": unit
        for layer in (1, 2, 3, 4)
        for number, unit in enumerate(getattr(theirs, f"layer{layer}"))
    }
    expected = torchvision_models.outputs_of(units, lambda: theirs(normalised(images)))

    @jax.jit
    def run(parameters, images):
        return backbones.create(name, stem="plain").apply(
            {"params": parameters},
            images,
            capture_intermediates=lambda module, _: isinstance(module, Bottleneck),
        )

    features, captured = run(converted(theirs, name, "plain"), images)
    assert captured["intermediates"].keys() == expected.keys()
    for unit, outputs in captured["intermediates"].items():
        assert relative_error(outputs["__call__"][0], expected[unit]) < 1e-4, unit
    ends = [f"layer{layer}_{len(getattr(theirs, f'layer{layer}')) - 1}" for layer in (2, 3, 4)]
    for ours, unit in zip(features, ends, strict=True):
        assert relative_error(ours, expected[unit]) < 1e-4
