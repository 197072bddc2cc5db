"""Reads PyTorch's `.pth` files without PyTorch and without running what they hold.

A `.pth` file is a pickle, and a pickle is a program, which is not run (`pickle_data`): a file can
make nothing but tensors, containers, numbers and strings. Both layouts that `torch.save` has
written are read: the zip archive (`data.pkl` and a file a storage), and the older sequence of
pickles with the storages behind them. Source: `torch/serialization.py` of PyTorch.
"""

import io
import math
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, NamedTuple

import ml_dtypes
import numpy as np

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.pickle_data import (
    Dict,
    Function,
    NotRead,
    OrderedDict,
    Refused,
    read_pickle,
)

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001
_MOST_AXES = 32

STORAGE_TYPES = {
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
# Types without a storage class of their own: their tensors name the type, and lie in bytes.
NAMED_TYPES = {"uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64}


class _ElementType(NamedTuple):
    """Stands for one of PyTorch's storage classes or dtypes."""

    dtype: np.dtype


class _Storage(NamedTuple):
    """Numbers that lie in the file, not read yet: `count` of them from `start` of storage `key`."""

    key: str
    dtype: np.dtype
    start: int
    count: int


class _Tensor(NamedTuple):
    """A view of a storage, not read yet. Offset and strides count elements."""

    storage: _Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_torch(path: Path) -> Any:
    """Returns what `torch.save` put into a file, with arrays for its tensors.

    Args:
      path: a file of either layout.

    Returns:
      Dicts, lists, tuples, numbers, strings, NumPy arrays (read-only views), and a `NotRead` for
      each object of another kind.

    Raises:
      UserError: if the file is not of these layouts, is cut off or damaged, or asks for what runs
        programs.
    """
    try:
        with path.open("rb") as file:
            start = file.read(2)
            file.seek(0)
            if start == b"PK":
                return _read_zip(file)
            return _read_legacy(file)
    except RecursionError:
        reason = "its containers are nested too deeply"
    except (Refused, OSError, MemoryError, zipfile.BadZipFile) as error:
        reason = str(error) or type(error).__name__
    except Exception as error:  # A damaged archive can raise nearly anything.
        reason = f"it is damaged ({type(error).__name__})"
    raise UserError(f"cannot read {path}: {reason}; expected weights saved by torch.save")


def _read_zip(file: io.BufferedReader) -> Any:
    length = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        packed = [e for e in entries.values() if e.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise Refused(f"{packed[0].filename:.80} in it is compressed, as torch.save never does")
        # Entries that overlap, or claim more than there is, could fill the memory.
        if sum(entry.file_size for entry in entries.values()) > length:
            raise Refused("its entries claim to be larger than the file")
        roots = [name.removesuffix("data.pkl") for name in entries if name.endswith("/data.pkl")]
        if len(roots) != 1:
            raise Refused("it is a zip archive without one data.pkl")
        root = roots[0]
        order = "little"
        if root + "byteorder" in entries:
            order = archive.read(root + "byteorder").decode("ascii", "replace").strip()
        program = io.BytesIO(archive.read(root + "data.pkl"))
        value = _unpickle(program)

        def read_storage(key: str) -> bytes:
            name = f"{root}data/{key}"
            if name not in entries:
                raise Refused(f"storage {key} is missing")
            return archive.read(name)

        return _with_arrays(value, read_storage, order)


def _read_legacy(file: io.BufferedReader) -> Any:
    try:
        magic = _unpickle(file)
    except Refused as error:
        raise Refused(f"it is neither a zip archive nor a torch pickle ({error})") from error
    if magic != LEGACY_MAGIC:
        raise Refused("it is a pickle, but not one of torch.save")
    protocol, system = _unpickle(file), _unpickle(file)
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict):
        # Only a number: the text of nested containers can be endless.
        shown = f" {protocol}" if _is_count(protocol) else ""
        raise Refused(f"it has the unknown protocol version{shown}")
    order = "little" if system.get("little_endian", True) else "big"
    storages: dict[str, _Storage] = {}
    value = _unpickle(file, storages)
    keys = _unpickle(file)
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise Refused("its list of storages is broken")
    contents = {}
    for key in keys:
        if key not in storages:
            raise Refused(f"storage {key:.40} belongs to no tensor")
        (count,) = struct.unpack("<q", _exactly(file, 8))
        if count != storages[key].count:
            raise Refused(f"storage {key:.40} has {count} elements, not {storages[key].count}")
        contents[key] = _exactly(file, count * storages[key].dtype.itemsize)

    def read_storage(key: str) -> bytes:
        if key not in contents:
            raise Refused(f"storage {key:.40} is missing")
        return contents[key]

    return _with_arrays(value, read_storage, order)


def _exactly(file: io.BufferedReader, length: int) -> bytes:
    here = file.tell()
    left = file.seek(0, io.SEEK_END) - here
    if not 0 <= length <= left:
        raise Refused(f"it is cut off or damaged: {length} bytes expected, {left} left")
    file.seek(here)
    return file.read(length)


def _unpickle(file: IO[bytes], storages: dict[str, _Storage] | None = None) -> Any:
    """Reads one pickle of a file and leaves the file behind it.

    Args:
      file: stands at the pickle's start.
      storages: takes the storages that the pickle names, by key.
    """
    named = {} if storages is None else storages
    return read_pickle(file, KNOWN, lambda pid: _outside(pid, named))


def _outside(pid: Any, storages: dict[str, _Storage]) -> _Storage | NotRead:
    """Returns what an id of an object beside the pickle stands for; notes whole storages."""
    if isinstance(pid, tuple) and pid[:1] == ("module",) and isinstance(pid[1], NotRead):
        # A class with its source, as early versions saved whole models.
        return pid[1]
    if not isinstance(pid, tuple) or len(pid) < 5:
        raise Refused("it refers to something that is not a storage")
    kind, element, key, _, count, *view = pid
    view = view[0] if view else None
    if (
        kind != "storage"
        or not isinstance(element, _ElementType)
        or not isinstance(key, str)
        or not _is_count(count)
    ):
        raise Refused("it refers to something that is not a storage")
    storages.setdefault(key, _Storage(key, element.dtype, 0, count))
    if view is None:
        return _Storage(key, element.dtype, 0, count)
    _, start, length = view
    if not _is_count(start) or not _is_count(length) or start + length > count:
        raise Refused(f"a view of storage {key:.40} goes beyond its end")
    return _Storage(key, element.dtype, start, length)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _rebuild_tensor(
    storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
) -> _Tensor:
    return _tensor(storage, offset, shape, strides, storage.dtype)


def _rebuild_tensor_of_type(
    storage: _Storage,
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    _requires_grad: bool,
    _hooks: Any,
    element: _ElementType,
    *_: Any,
) -> _Tensor:
    return _tensor(storage, offset, shape, strides, element.dtype)


def _ordered_dict(items: Any = ()) -> OrderedDict:
    """Python 2 wrote a list of keys and values; later versions set them behind."""
    if not isinstance(items, list | tuple) or not all(
        isinstance(item, list | tuple) and len(item) == 2 for item in items
    ):
        raise Refused("an ordered dict in it is damaged")
    ordered = OrderedDict()
    ordered.fill([part for item in items for part in item])
    return ordered


def _size(axes: Any = ()) -> tuple[int, ...]:
    if not isinstance(axes, list | tuple):
        raise Refused("a shape in it is damaged")
    return tuple(axes)


def _rebuild_parameter(tensor: _Tensor, *_: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise Refused("a parameter in it is not a tensor")
    return tensor


def _tensor(storage, offset, shape, strides, dtype) -> _Tensor:
    if (
        not isinstance(storage, _Storage)
        or not isinstance(shape, tuple)
        or not isinstance(strides, tuple)
        or not len(shape) == len(strides) <= _MOST_AXES
        or not all(map(_is_count, (offset, *shape, *strides)))
    ):
        raise Refused("a tensor in it is damaged")
    size = math.prod(shape)
    available = storage.count * storage.dtype.itemsize // dtype.itemsize
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) if size else 0
    # A tensor that repeats its storage could be of any size.
    if size > available or (size and last >= available):
        raise Refused(f"a tensor of shape {list(shape)} goes beyond its storage")
    return _Tensor(storage, dtype, offset, shape, strides)


def _with_arrays(value: Any, read_storage: Callable[[str], bytes], order: str) -> Any:
    """Replaces the tensors in nested containers by arrays."""
    if order not in ("little", "big"):
        raise Refused(f"it has the unknown byte order {order!r:.40}")
    contents: dict[str, bytes] = {}
    seen: dict[int, Any] = {}

    def array(tensor: _Tensor) -> np.ndarray:
        storage = tensor.storage
        if storage.key not in contents:
            contents[storage.key] = read_storage(storage.key)
        start, width = storage.start * storage.dtype.itemsize, storage.dtype.itemsize
        # A view, no copy: there may be many tensors of one storage.
        data = memoryview(contents[storage.key])[start : start + storage.count * width]
        if len(data) != storage.count * width:
            raise Refused(f"storage {storage.key:.40} is cut off")
        dtype = tensor.dtype if order == "little" else tensor.dtype.newbyteorder(">")
        try:
            flat = np.frombuffer(data, dtype)[tensor.offset :]
            strides = [stride * dtype.itemsize for stride in tensor.strides]
            return np.lib.stride_tricks.as_strided(flat, tensor.shape, strides, writeable=False)
        except (ValueError, OverflowError) as error:
            raise Refused(f"a tensor in it is damaged ({error})") from error

    def replaced(value: Any) -> Any:
        if isinstance(value, _Tensor):
            return array(value)
        if isinstance(value, _Storage | _ElementType | Function):
            return NotRead("torch storage or type")
        if not isinstance(value, dict | list | tuple):
            return value
        # Containers may stand in a pickle many times over, or contain themselves.
        if id(value) not in seen:
            seen[id(value)] = None
            if isinstance(value, Dict):
                if value.left_out:
                    raise Refused(
                        f"a dict in it has a key of type {value.left_out}, and only strings and "
                        "whole numbers of 64 bits are read"
                    )
                seen[id(value)] = {key: replaced(item) for key, item in value.items()}
            else:
                seen[id(value)] = type(value)(replaced(item) for item in value)
        return seen[id(value)]

    return replaced(value)


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): Function(_ordered_dict),
    ("torch._utils", "_rebuild_tensor"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v2"): Function(_rebuild_tensor),
    ("torch._utils", "_rebuild_tensor_v3"): Function(_rebuild_tensor_of_type),
    ("torch._utils", "_rebuild_parameter"): Function(_rebuild_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): Function(_rebuild_parameter),
    ("torch", "Size"): Function(_size),
    ("torch.storage", "UntypedStorage"): _ElementType(np.dtype(np.uint8)),
    **{
        ("torch", name): _ElementType(np.dtype(dtype))
        for name, dtype in (STORAGE_TYPES | NAMED_TYPES).items()
    },
}
"""Every name that a pickle gets something for."""
