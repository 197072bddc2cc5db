"""ResNets against PyTorch networks written here, and against what PFENet computes."""

import importlib.util
import json
import os
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from torch import nn

from apanet_jax.models import backbones
from apanet_jax.weights import resnet
from apanet_jax.weights.load import parameter_shapes
from apanet_jax.weights.mapping import convert

REFERENCE = Path(
    os.environ.get(
        "APANET_REFERENCE_DIR", Path(__file__).resolve().parents[2] / "../shared/reference"
    )
)
BACKBONES = {"resnet50": "resnet50", "resnet101": "resnet101"}
TABLES = {"resnet50": resnet.resnet50_table, "resnet101": resnet.resnet101_table}


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


class DilatedResNet(nn.Module):
    def __init__(self, deep):
        super().__init__()
        if deep:
            self.conv1, self.bn1 = normed(3, 64, 3, 2)
            self.conv2, self.bn2 = normed(64, 64, 3)
            self.conv3, self.bn3 = normed(64, 128, 3)
        else:
            self.conv1, self.bn1 = normed(3, 64, 7, 2)
        inputs = 128 if deep else 64
        rows = [(3, 64, 1, 1), (4, 128, 2, 1), (6, 256, 1, 2), (3, 512, 1, 4)]
        for number, (count, width, stride, dilation) in enumerate(rows, start=1):
            units = [Unit(inputs, width, stride, dilation)]
            units += [Unit(4 * width, width, 1, dilation) for _ in range(count - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*units))
            inputs = 4 * width
        self.fc = nn.Linear(inputs, 10)
        self.deep = deep

    def forward(self, images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        x = self.bn1(self.conv1((x - mean) / deviation)).relu()
        if self.deep:
            x = self.bn2(self.conv2(x)).relu()
            x = self.bn3(self.conv3(x)).relu()
        x = self.layer1(nn.functional.max_pool2d(x, 3, 2, 1))
        block3 = self.layer2(x)
        block4 = self.layer3(block3)
        return [y.permute(0, 2, 3, 1).numpy() for y in (block3, block4, self.layer4(block4))]


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("stem,height,width", [("deep", 65, 49), ("plain", 72, 50)])
def test_features_agree_with_pytorch(stem, height, width):
    torch.manual_seed(0)
    theirs = DilatedResNet(stem == "deep").eval()
    with torch.no_grad():
        for module in theirs.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(0, 0.2)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    parameters = convert(
        tensors, resnet.resnet50_table(tensors, stem), parameter_shapes("resnet50", stem)
    )
    apply = jax.jit(backbones.create("resnet50", stem=stem).apply)
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    with torch.no_grad():
        expected = theirs(images)
    features = apply({"params": parameters}, images)
    for ours, reference in zip(features, expected, strict=True):
        assert relative_error(ours, reference) < 1e-4


def reference_cases():
    return [
        path
        for path in sorted(REFERENCE.glob("pfenet_*.npz"))
        if path.stem.split("_")[1] in BACKBONES
    ]


def seeded_weights(name):
    spec = importlib.util.spec_from_file_location("seeded", REFERENCE / "seeded_weights.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    shapes = json.loads((REFERENCE / "state_dict.json").read_text())[name]
    return {key: module.seeded_parameter(key, tuple(shape)) for key, shape in shapes.items()}


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference cases beside the project")
def test_features_agree_with_pfenet():
    cases = reference_cases()
    assert cases, f"no case of a ResNet in {REFERENCE}"
    for path in cases:
        name = BACKBONES[path.stem.split("_")[1]]
        tensors = seeded_weights(name)
        parameters = convert(tensors, TABLES[name](tensors, "deep"), parameter_shapes(name))
        case = np.load(path)
        features = jax.jit(backbones.create(name).apply)(
            {"params": parameters}, case["query_image"][None]
        )
        for ours, layer in zip(features, ("layer2", "layer3", "layer4"), strict=True):
            seen = np.moveaxis(np.asarray(ours[0, :, :, :8]), -1, 0)
            assert relative_error(seen, case[layer]) < 1e-3, (path.name, layer)
