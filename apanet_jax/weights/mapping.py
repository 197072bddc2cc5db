"""From foreign names and layouts to a network's parameters, strict in both directions."""

import fnmatch
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from apanet_jax.runtime.errors import UserError

Parameters = Mapping[str, Any]

ALWAYS_DROPPED = ("*.num_batches_tracked",)
SHOWN = 4


class Convolution(NamedTuple):
    """One row of a network's table.

    Attributes:
      path: of our layer, such as `("layer1_0", "conv1")`; it has a `kernel` and mostly a `bias`.
      source: name of the foreign convolution, whose tensors are `<source>.weight` and perhaps
        `<source>.bias`.
      norm: name of the BatchNorm behind it, to be folded in; None if there is none.
      biased: whether the foreign convolution has a bias, in a table whose others have none.
    """

    path: tuple[str, ...]
    source: str
    norm: str | None
    biased: bool = False


class Made(NamedTuple):
    """One row of a network's table: a parameter that a function makes of foreign tensors.

    Attributes:
      path: of the parameter itself, such as `("block_1", "qkv", "kernel")`.
      sources: names and shapes of the foreign tensors.
      make: takes them in this order, and returns the parameter.
    """

    path: tuple[str, ...]
    sources: Mapping[str, tuple[int, ...]]
    make: Callable[..., np.ndarray]


class Table(NamedTuple):
    """How the names of one kind of file map to a network's parameters.

    Attributes:
      kind: what such files are called in messages.
      rows: one a convolution, or one a parameter.
      dropped: patterns (`fnmatch`) of the names that such files also hold and nothing here needs.
      epsilon: of the BatchNorms.
      biased: whether the foreign convolutions have biases of their own.
    """

    kind: str
    rows: Sequence[Convolution | Made]
    dropped: tuple[str, ...]
    epsilon: float = 0.0
    biased: bool = False


def convert(tensors: Mapping[str, np.ndarray], table: Table, shapes: Parameters) -> Parameters:
    """Returns parameters made of foreign tensors.

    Dense kernels turn from `[out, in, k, k]` to `[k, k, in, out]`, 1x1 kernels to `[in, out]` and
    depthwise ones from `[channels, 1, k, k]` to `[k, k, channels]`. A BatchNorm with weight w,
    bias b, mean m and variance v becomes a factor s = w / sqrt(v + epsilon) of the kernel, and the
    bias b + (bias of the convolution - m) s.

    Args:
      tensors: what the file holds.
      table: the names it should have.
      shapes: the parameters' tree, with anything that has a `shape` as its leaves.

    Returns:
      The same tree of float32 arrays.

    Raises:
      UserError: if names are missing or left over, a shape is not what it should be, or values
        are not finite.
    """
    expected = {
        name: shape for row in table.rows for name, shape in _foreign_shapes(row, table, shapes)
    }
    missing = [name for name in expected if name not in tensors]
    dropped = table.dropped + ALWAYS_DROPPED
    left_over = [
        name
        for name in tensors
        if name not in expected and not any(fnmatch.fnmatchcase(name, d) for d in dropped)
    ]
    if missing or left_over:
        wrong = [
            f"{what} {_few(names)}"
            for what, names in (("missing", missing), ("unexpected", left_over))
            if names
        ]
        raise UserError(f"not the weights of {table.kind}: {'; '.join(wrong)}")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise UserError(
                f"not the weights of {table.kind}: {name} has the shape "
                f"{list(tensors[name].shape)}, expected {list(shape)}"
            )
        if not np.isfinite(tensors[name]).all():
            raise UserError(f"{name} of {table.kind} is not finite everywhere: the file is damaged")
        if name.endswith(".running_var") and (tensors[name] < 0).any():
            raise UserError(f"{name} of {table.kind} is negative somewhere: the file is damaged")
    parameters = {}
    for row in table.rows:
        if isinstance(row, Made):
            made = row.make(*(tensors[name] for name in row.sources))
            parameters[row.path] = np.ascontiguousarray(made, np.float32)
            continue
        kernel, bias = _folded(row, table, tensors)
        parameters[*row.path, "kernel"] = _arranged(kernel, len(_kernel_shape(row, shapes)))
        # A bias that our layer has no place for is left out only where there is none over there.
        if _has_bias(row, table) or row.norm or "bias" in _layer(row, shapes):
            parameters[*row.path, "bias"] = bias.astype(np.float32)
    expected_shapes = {path: tuple(leaf.shape) for path, leaf in flatten_dict(shapes).items()}
    if {path: leaf.shape for path, leaf in parameters.items()} != expected_shapes:
        raise AssertionError(f"the table of {table.kind} does not name every parameter once")
    return unflatten_dict(parameters)


def foreign(parameters: Parameters, table: Table) -> dict[str, np.ndarray]:
    """Returns the foreign tensors of parameters: what `convert` makes parameters of.

    Args:
      parameters: a tree with the table's layers.
      table: without BatchNorms, which are gone once they are folded in.
    """
    tensors = {}
    for row in table.rows:
        layer = _layer(row, parameters)
        kernel = np.asarray(layer["kernel"], np.float32)
        if kernel.ndim == 2:
            kernel = kernel[None, None]
        tensors[f"{row.source}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        if _has_bias(row, table):
            tensors[f"{row.source}.bias"] = np.asarray(layer["bias"], np.float32)
    return tensors


def _layer(row: Convolution, shapes: Parameters) -> Parameters:
    layer = shapes
    for name in row.path:
        layer = layer[name]
    return layer


def _kernel_shape(row: Convolution, shapes: Parameters) -> tuple[int, ...]:
    return tuple(_layer(row, shapes)["kernel"].shape)


def _has_bias(row: Convolution, table: Table) -> bool:
    return table.biased or row.biased


def _foreign_shapes(
    row: Convolution | Made, table: Table, shapes: Parameters
) -> Iterable[tuple[str, tuple[int, ...]]]:
    """Yields the names and shapes that a row takes."""
    if isinstance(row, Made):
        yield from row.sources.items()
        return
    match _kernel_shape(row, shapes):
        case (height, width, inputs, outputs):
            shape = (outputs, inputs, height, width)
        case (height, width, outputs):
            shape = (outputs, 1, height, width)
        case (inputs, outputs):
            shape = (outputs, inputs, 1, 1)
    yield f"{row.source}.weight", shape
    if _has_bias(row, table):
        yield f"{row.source}.bias", shape[:1]
    if row.norm is not None:
        for name in ("weight", "bias", "running_mean", "running_var"):
            yield f"{row.norm}.{name}", shape[:1]


def _folded(
    row: Convolution, table: Table, tensors: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a convolution's kernel, outputs first, and bias in float64, BatchNorm folded in."""

    def get(name):
        return tensors[name].astype(np.float64)

    kernel = get(f"{row.source}.weight")
    bias = get(f"{row.source}.bias") if _has_bias(row, table) else np.zeros(kernel.shape[0])
    if row.norm is None:
        return kernel, bias
    factor = get(f"{row.norm}.weight") / np.sqrt(get(f"{row.norm}.running_var") + table.epsilon)
    bias = get(f"{row.norm}.bias") + (bias - get(f"{row.norm}.running_mean")) * factor
    return kernel * factor[:, None, None, None], bias


def _arranged(kernel: np.ndarray, dimensions: int) -> np.ndarray:
    """Turns `[out, in, k, k]` into our layout of 4 (dense), 3 (depthwise) or 2 (1x1) dimensions."""
    if dimensions == 4:
        kernel = kernel.transpose(2, 3, 1, 0)
    elif dimensions == 3:
        kernel = kernel[:, 0].transpose(1, 2, 0)
    else:
        kernel = kernel[:, :, 0, 0].T
    return np.ascontiguousarray(kernel, np.float32)


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
