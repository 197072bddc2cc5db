"""ONNX files written field by field, as the format's own description says."""

import numpy as np

from apanet_jax.weights.onnx import _fields


def number(value: int) -> bytes:
    written = b""
    while True:
        value, low = value >> 7, value & 127
        written += bytes([low | (128 if value else 0)])
        if not value:
            return written


def field(index: int, value: int | bytes) -> bytes:
    """A field of a message: a number, or bytes with their length before them."""
    if isinstance(value, int):
        return number(index << 3) + number(value)
    return number(index << 3 | 2) + number(len(value)) + value


def tensor(name: str, array: np.ndarray, *, packed: bool = False, kind: int = 1) -> bytes:
    sides = b"".join(field(1, side) for side in array.shape)
    if packed:
        sides = field(1, b"".join(map(number, array.shape)))
    return sides + field(2, kind) + field(8, name.encode()) + field(9, array.tobytes())


def node(name: str, operation: str, inputs: list[str]) -> bytes:
    given = b"".join(field(1, text.encode()) for text in inputs)
    return given + field(2, b"result") + field(3, name.encode()) + field(4, operation.encode())


def model(nodes: list[bytes], tensors: list[bytes]) -> bytes:
    graph = b"".join(field(1, x) for x in nodes) + b"".join(field(5, x) for x in tensors)
    # A version, and a producer with a fixed-width field that nobody asks for.
    return field(1, 7) + field(2, b"a test") + number(9 << 3 | 5) + bytes(4) + field(7, graph)


def with_outputs(content: bytes, names: list[str]) -> bytes:
    """Returns a model whose values of these names are outputs too, and whose input has any size."""
    changed = b""
    for index, value in _fields(memoryview(content)):
        if index == 7:
            value = b"".join(
                field(inner, _without_shape(bytes(part)) if inner == 11 else bytes(part))
                for inner, part in _fields(value)
            ) + b"".join(field(12, field(1, name.encode())) for name in names)
        changed += field(index, value if isinstance(value, int) else bytes(value))
    return changed


def _without_shape(value: bytes) -> bytes:
    """A graph's input: its name, and float32 of no particular shape."""
    name = next(bytes(part) for index, part in _fields(memoryview(value)) if index == 1)
    return field(1, name) + field(2, field(1, field(1, 1)))
