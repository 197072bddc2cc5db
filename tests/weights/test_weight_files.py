"""Named tensors from files of all kinds."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.files import read_tensors

STATE = {"conv.weight": torch.arange(12.0).reshape(3, 4), "bn.steps": torch.tensor(7)}


def assert_state(tensors):
    assert set(tensors) == set(STATE)
    for name, tensor in STATE.items():
        np.testing.assert_array_equal(tensors[name], tensor.numpy())


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".pth.tar"])
def test_torch_files_of_any_usual_name(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    torch.save(STATE, path)
    assert_state(read_tensors(path))
    assert_state(read_tensors(str(path)))


@pytest.mark.parametrize("level", ["state_dict", "model", "model_state_dict"])
@pytest.mark.parametrize("wrapper", ["", "module.", "module.module."])
def test_checkpoints_are_unwrapped(tmp_path, level, wrapper):
    path = tmp_path / "checkpoint.pth"
    state = {wrapper + name: tensor for name, tensor in STATE.items()}
    optimizer = {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 9, level: state, "optimizer": optimizer}, path)
    assert_state(read_tensors(path))


def test_nested_levels_are_unwrapped(tmp_path):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": {"state_dict": STATE, "best": 0.5}}, path)
    assert_state(read_tensors(path))


def test_only_a_common_prefix_is_taken_off(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, path)
    assert set(read_tensors(path)) == {"module.a", "b"}


def test_safetensors(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({f"module.{name}": tensor for name, tensor in STATE.items()}, path)
    assert_state(read_tensors(path))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8])
def test_safetensors_types(tmp_path, dtype):
    path = tmp_path / "weights.safetensors"
    tensor = torch.tensor([0, 1, 1, 0]).to(dtype)
    save_file({"a": tensor}, path)
    array = read_tensors(path)["a"]
    assert array.dtype.name == str(dtype).removeprefix("torch.")
    np.testing.assert_array_equal(array.astype(np.float32), tensor.float().numpy())


def one_line(path, match):
    with pytest.raises(UserError, match=match) as raised:
        read_tensors(path)
    assert "\n" not in str(raised.value)
    assert str(path) in str(raised.value)


def test_bad_safetensors_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(STATE, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    one_line(path, "cannot read")
    path.write_bytes(b"nothing of the kind")
    one_line(path, "cannot read")
    path.write_bytes(b"")
    one_line(path, "cannot read")
    header = json.dumps({"a": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    one_line(path, "cannot read")


def test_files_without_named_tensors_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save([torch.ones(2)], path)
    one_line(path, "holds a list: expected named tensors")
    torch.save({"epoch": 3, "state_dict": {}}, path)
    one_line(path, "holds no named tensors")
    torch.save({"epoch": 3}, path)
    one_line(path, r"holds no named tensors \(but epoch\)")


def test_absent_and_unknown_files_are_refused(tmp_path):
    one_line(tmp_path / "absent.pth", "no weight file")
    one_line(tmp_path, "no weight file")
    path = tmp_path / "weights.h5"
    path.write_bytes(b"x")
    one_line(path, "expected a name that ends in .safetensors or .pth")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize(
    "content,says",
    [
        ("\n<!DOCTYPE html>\n<html><title>Log in</title></html>", "is a web page.*login"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
    ],
)
def test_what_a_download_without_a_login_leaves_is_told(tmp_path, suffix, content, says):
    path = tmp_path / f"weights{suffix}"
    path.write_text(content)
    one_line(path, says)
