"""VGG-16 against PyTorch networks written here, and against what PFENet computes."""

import importlib.util
import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from apanet_jax.models import backbones
from apanet_jax.models.vgg import pool
from apanet_jax.weights import vgg
from apanet_jax.weights.load import parameter_shapes
from apanet_jax.weights.mapping import convert

REFERENCE = Path(
    os.environ.get(
        "APANET_REFERENCE_DIR", Path(__file__).resolve().parents[2] / "../shared/reference"
    )
)
TABLES = {"vgg16": vgg.vgg16_table, "vgg16_bn": vgg.vgg16_bn_table}
LAYOUT = [64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M"]
# Where PFENet's layers end; those of the plain network follow from the same pooling layers.
ENDS = {"vgg16": (5, 10, 17, 24, 30), "vgg16_bn": (7, 14, 24, 34, 43)}


class TorchVGG(nn.Module):
    """Torchvision's modules, in its order, with PFENet's pooling."""

    def __init__(self, name):
        super().__init__()
        modules, inputs = [], 3
        for outputs in LAYOUT:
            if outputs == "M":
                modules.append(nn.MaxPool2d(2, 2, ceil_mode=True))
                continue
            modules.append(nn.Conv2d(inputs, outputs, 3, padding=1))
            if name == "vgg16_bn":
                modules.append(nn.BatchNorm2d(outputs))
            modules.append(nn.ReLU())
            inputs = outputs
        self.features = nn.Sequential(*modules)
        self.classifier = nn.Sequential(nn.Linear(512, 10))
        self.ends = ENDS[name]

    def forward(self, images):
        x = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
        mean = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
        deviation = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
        x = (x - mean) / deviation
        outputs, start = [], 0
        for end in self.ends:
            x = self.features[start:end](x)
            outputs.append(x.permute(0, 2, 3, 1).numpy())
            start = end
        return outputs[2:]


def relative_error(ours, theirs):
    assert ours.shape == theirs.shape
    return np.abs(np.asarray(ours) - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize("name,height,width", [("vgg16", 65, 38), ("vgg16_bn", 51, 41)])
def test_features_agree_with_pytorch(name, height, width):
    torch.manual_seed(0)
    theirs = TorchVGG(name).eval()
    with torch.no_grad():
        for module in theirs.features:
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                module.bias.normal_(0, 0.2)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
                module.bias.normal_(0, 0.2)
    tensors = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    parameters = convert(tensors, TABLES[name](tensors, "deep"), parameter_shapes(name))
    images = np.random.default_rng(0).integers(0, 256, (2, height, width, 3), np.uint8)
    with torch.no_grad():
        expected = theirs(images)
    features = jax.jit(backbones.create(name).apply)({"params": parameters}, images)
    for ours, reference in zip(features, expected, strict=True):
        assert relative_error(ours, reference) < 1e-4


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


@pytest.mark.slow
@pytest.mark.skipif(not REFERENCE.is_dir(), reason="no reference cases beside the project")
def test_features_agree_with_pfenet():
    cases = sorted(REFERENCE.glob("pfenet_vgg16bn_*.npz"))
    assert cases, f"no case of VGG-16 in {REFERENCE}"
    spec = importlib.util.spec_from_file_location("seeded", REFERENCE / "seeded_weights.py")
    seeded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(seeded)
    shapes = json.loads((REFERENCE / "state_dict.json").read_text())["vgg16_bn"]
    tensors = {key: seeded.seeded_parameter(key, tuple(shape)) for key, shape in shapes.items()}
    parameters = convert(tensors, vgg.vgg16_bn_table(tensors, "deep"), parameter_shapes("vgg16_bn"))
    for path in cases:
        case = np.load(path)
        features = jax.jit(backbones.create("vgg16_bn").apply)(
            {"params": parameters}, case["query_image"][None]
        )
        for ours, layer in zip(features, ("layer2", "layer3", "layer4"), strict=True):
            seen = np.moveaxis(np.asarray(ours[0, :, :, :8]), -1, 0)
            assert relative_error(seen, case[layer]) < 1e-3, (path.name, layer)
