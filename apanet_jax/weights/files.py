"""Named tensors from weight files, whoever saved them and however deep they lie in there."""

import os
from pathlib import Path

import numpy as np
from safetensors import safe_open

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.pickle_data import NotRead
from apanet_jax.weights.torch_pickle import read_torch

TORCH_SUFFIXES = (".pth", ".pt", ".bin", ".tar")
LEVELS = ("state_dict", "model_state_dict", "model")
"""Keys under which training programs put the weights beside optimizer state and counters."""

_PAGE = (b"<!doctype html", b"<html", b"<?xml", b"<head")
_POINTER = b"version https://git-lfs"

WRAPPER = "module."
"""What PyTorch's data parallelism puts before every name."""


def read_tensors(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Returns the named tensors of a weight file.

    Args:
      path: `.safetensors`, or what `torch.save` wrote (`.pth`, `.pt`, `.bin`, `.pth.tar`): a state
        dict, or a checkpoint that holds one as `state_dict`, `model_state_dict` or `model`, whose
        other contents are ignored. Neither needs PyTorch, and neither runs code from the file.

    Returns:
      The arrays by name, without a common `module.` before the names; perhaps read-only.

    Raises:
      UserError: if there is no such file, it is damaged, holds no named tensors, or something else
        where a layer's tensor should be, or its pickle asks for what runs programs.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no weight file {path}: expected a .safetensors, .pth or .pt file")
    refuse_text(path)
    if path.suffix == ".safetensors":
        return _unwrapped(_read_safetensors(path))
    if path.suffix not in TORCH_SUFFIXES:
        raise UserError(
            f"cannot tell what {path} holds: expected a name that ends in .safetensors or "
            + ", ".join(TORCH_SUFFIXES)
        )
    value = read_torch(path)
    while isinstance(value, dict):
        inner = next((value[k] for k in LEVELS if isinstance(value.get(k), dict)), None)
        if inner is None:
            break
        value = inner
    if isinstance(value, NotRead):
        raise UserError(
            f"{path} holds an object of type {value.kind}, perhaps a whole model: expected named "
            "tensors, save its state_dict()"
        )
    if not isinstance(value, dict):
        raise UserError(f"{path} holds a {type(value).__name__}: expected named tensors")
    for name, item in value.items():
        if isinstance(item, NotRead) and _is_of_layer(name):
            raise UserError(
                f"{path}: {name} is an object of type {item.kind}, expected a plain tensor: save "
                "it as one"
            )
    tensors = {
        name: item
        for name, item in value.items()
        if isinstance(name, str) and isinstance(item, np.ndarray)
    }
    if not tensors:
        names = ", ".join(str(name)[:40] for name in list(value)[:5]) or "nothing"
        raise UserError(f"{path} holds no named tensors (but {names}): expected a state dict")
    return _unwrapped(tensors)


def _is_of_layer(name: str | int) -> bool:
    """Returns whether this is the name of a layer's parameter, not of a number beside them."""
    return isinstance(name, str) and "." in name and not name.endswith("._extra_state")


def refuse_text(path: Path) -> None:
    """Raises UserError where a file is a web page, or Git LFS's note of where the weights are.

    Both are what a download without a login, or without its second step, leaves under the name of
    a weight file.
    """
    with path.open("rb") as file:
        start = file.read(1024).lstrip().lower()
    if start.startswith(_PAGE):
        raise UserError(
            f"{path} is a web page, perhaps one that asks for a login: expected weights; download "
            "it again, logged in"
        )
    if start.startswith(_POINTER):
        raise UserError(
            f"{path} only says where Git LFS keeps the weights: fetch them by `git lfs pull`"
        )


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        with safe_open(path, framework="np") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # A damaged header can raise nearly anything.
        raise UserError(
            f"cannot read {path}: {error}; expected a whole .safetensors file"
        ) from None


def _unwrapped(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    while tensors and all(name.startswith(WRAPPER) for name in tensors):
        tensors = {name.removeprefix(WRAPPER): tensor for name, tensor in tensors.items()}
    return tensors
