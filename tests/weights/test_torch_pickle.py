"""Reading torch.save's files without PyTorch, and refusing what is not data."""

import argparse
import collections
import functools
import io
import os
import pathlib
import pickle
import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import torch_pickle
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.torch_pickle import read_torch

TYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.bool,
    torch.complex64,
    torch.complex128,
]
both_layouts = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])


@pytest.fixture
def save(tmp_path):
    def save(value, zipped):
        path = tmp_path / "weights.pth"
        torch.save(value, path, _use_new_zipfile_serialization=zipped)
        return path

    return save


def as_numpy(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy().astype(ml_dtypes.bfloat16)
    return tensor.numpy()


@both_layouts
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_every_type_is_read(save, zipped, dtype):
    tensor = (torch.arange(6) % 2 if dtype == torch.bool else torch.arange(6)).to(dtype)
    array = read_torch(save({"a": tensor.reshape(2, 3)}, zipped))["a"]
    expected = as_numpy(tensor.reshape(2, 3))
    assert array.dtype == expected.dtype
    np.testing.assert_array_equal(array, expected)


@both_layouts
def test_views_share_a_storage(save, zipped):
    whole = torch.arange(24.0).reshape(4, 6)
    views = {
        "transposed": whole.T,
        "row": whole[2],
        "corner": whole[1:3, 2::2],
        "scalar": whole[3, 3],
        "empty": whole[:0],
        "parameter": torch.nn.Parameter(whole),
        "channels_last": torch.arange(16.0)
        .reshape(1, 2, 2, 4)
        .to(memory_format=torch.channels_last),
    }
    read = read_torch(save(views, zipped))
    for name, view in views.items():
        np.testing.assert_array_equal(read[name], view.detach().numpy())


@settings(deadline=None, max_examples=30)
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(st.text(), inner, max_size=3)
        ),
    ),
    zipped=st.booleans(),
)
def test_containers_numbers_and_strings_survive(tmp_path_factory, value, zipped):
    path = tmp_path_factory.mktemp("saved") / "value.pth"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    assert read_torch(path) == value


@both_layouts
def test_a_module_s_state_and_an_optimizer_s_are_read(save, zipped):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1, momentum=0.9)
    module(torch.ones(2, 3, 5, 5)).sum().backward()
    optimizer.step()
    saved = {"epoch": 3, "model": module.state_dict(), "optimizer": optimizer.state_dict()}
    read = read_torch(save(saved, zipped))
    assert read["epoch"] == 3
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(read["model"][name], tensor.numpy())


def test_an_old_legacy_file_with_storage_views_is_read(tmp_path):
    # PyTorch no longer writes views of storages, but files that hold them are about.
    class Tagged:
        def __init__(self, pid):
            self.pid = pid

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.pid if isinstance(value, Tagged) else None

        def reducer_override(self, value):
            if isinstance(value, Call):
                return torch._utils._rebuild_tensor_v2, value.arguments
            return NotImplemented

    class Call:
        def __init__(self, *arguments):
            self.arguments = arguments

    pid = ("storage", torch.FloatStorage, "7", "cpu", 10, ("8", 4, 6))
    file = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(value, file, protocol=2)
    Pickler(file, protocol=2).dump({"a": Call(Tagged(pid), 1, (2,), (3,), False, {})})
    pickle.dump(["7"], file, protocol=2)
    file.write(struct.pack("<q", 10) + np.arange(10, dtype="<f4").tobytes())
    path = tmp_path / "old.pth"
    path.write_bytes(file.getvalue())
    np.testing.assert_array_equal(read_torch(path)["a"], [5, 8])


class Evil:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@both_layouts
def test_code_is_refused_and_not_run(save, tmp_path, zipped):
    target = tmp_path / "made"
    path = save({"a": torch.ones(2), "b": Evil(target)}, zipped)
    with pytest.raises(UserError, match=r"(posix|nt)\.mkdir"):
        read_torch(path)
    assert not target.exists()


def test_code_before_a_legacy_file_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps(Evil(tmp_path / "made")))
    with pytest.raises(UserError, match="mkdir"):
        read_torch(path)
    assert not (tmp_path / "made").exists()


BESIDE = {
    "a whole model": torch.nn.Linear(2, 2),
    "a number of NumPy's": np.float64(0.5),
    "an array of NumPy's": np.arange(3),
    "a Counter": collections.Counter({(50, 80): 1}),
    "a defaultdict": collections.defaultdict(dict, {(1, 2): 3}),
    "a deque": collections.deque([1, 2]),
    "a Namespace": argparse.Namespace(lr=0.1, output=pathlib.PurePosixPath("x")),
    "sets": [{1, 2}, frozenset([(1, 2)])],
    "a shape": torch.ones(2, 3).shape,
    "a device": torch.device("cpu"),
    "types": [torch.float32, torch.FloatStorage, torch.uint16],
    "a schedule": torch.optim.lr_scheduler.MultiStepLR(
        torch.optim.SGD([torch.nn.Parameter(torch.ones(1))]), [5, 8]
    ).state_dict(),
}


@both_layouts
@pytest.mark.parametrize("beside", BESIDE)
def test_other_objects_beside_the_weights_do_no_harm(save, zipped, beside):
    path = save({"more": BESIDE[beside], "state_dict": {"a.weight": torch.ones(2)}}, zipped)
    np.testing.assert_array_equal(read_torch(path)["state_dict"]["a.weight"], [1, 1])
    assert read_tensors(path).keys() == {"a.weight"}


@both_layouts
@pytest.mark.parametrize("value", [np.ones(2), torch.nn.Linear(2, 2), torch.uint16])
def test_other_objects_in_place_of_a_tensor_are_refused_by_name(save, zipped, value):
    path = save({"a.weight": torch.ones(2), "b.weight": value}, zipped)
    with pytest.raises(UserError, match=r"b.weight is an object of type [\w. ]+, expected a plain"):
        read_tensors(path)


def test_a_whole_model_is_refused_with_what_to_do(save):
    with pytest.raises(UserError, match=r"Linear, perhaps a whole model.*save its state_dict"):
        read_tensors(save(torch.nn.Linear(2, 2), True))


@pytest.mark.parametrize("value", [print, eval, os.system, pickle.loads, os.getcwd])
def test_what_would_run_something_is_refused_by_name(save, value):
    with pytest.raises(
        UserError, match=r"asks for [\w.]+, and only tensors.*do not open"
    ) as raised:
        read_torch(save({"a": torch.ones(1), "b": value}, True))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("key", [(1, 2), 0.5, None, b"a", 1 << 70, frozenset()])
def test_keys_are_strings_or_whole_numbers(save, key):
    with pytest.raises(UserError, match="a key of type"):
        read_torch(save({"a": {key: 1}}, True))


def zipped_program(path, program):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program)
    return path


NESTED = b"K\x01" + b"2\x86" * 60
"""A tuple in a tuple, sixty times, each twice: to hash or to print it takes for ever."""
REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"
HOSTILE = {
    "nested tuples as a key": b"}" + NESTED + b"Ns.",
    "nested tuples as keys of many": b"}(" + NESTED + b"Nu.",
    "nested tuples as a key of a new dict": b"(" + NESTED + b"Nd.",
    "nested tuples in a set": b"\x8f(" + NESTED + b"\x90}.",
    "nested tuples as an ordered dict": b"ccollections\nOrderedDict\n" + NESTED + b"\x85R.",
    "nested tuples as a storage": NESTED + b"Q.",
    "nested tuples as a shape": REBUILD + b"(NK\0" + NESTED + b"2tR.",
    "changed defaults": REBUILD + b"N}X\x0c\0\0\0__defaults__K\x01\x85s\x86b.",
    "a changed list": b"]}b.",
    "a changed dict": b"}}b.",
    "a called list": b"])R.",
    "a called string": b"X\1\0\0\0a)R.",
    "a large memo index": b"K\1r\xff\xff\xff\xff0h\0.",
    "a large memo index in digits": b"K\1p9999999999\n0h\0.",
    "a missing memo": b"h\7.",
    "a registry": b"\x82\1.",
    "a buffer": b"\x97.",
    "no mark": b"t.",
    "nothing": b".",
    "an empty stack": b"\x86.",
    "a huge byte array": b"\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a frame of any length": b"\x95\xff\xff\xff\xff\xff\xff\xff\x7f" + b"}a.",
    "an object": b"(cos\nsystem\nX\2\0\0\0lso.",
    "an instance": b"(X\2\0\0\0lsios\nsystem\n.",
    "a name from the stack": b"\x8c\2os\x8c\6system\x93.",
    "a name that is none": b"K\1K\2\x93.",
    "a shape of many large numbers": (
        REBUILD + b"(NK\0(" + (b"\x8a\xff" + b"\x7f" * 255) * 5000 + b"t2tR."
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_at_once_and_change_nothing(tmp_path, case):
    functions = [value.call for value in torch_pickle.KNOWN.values() if hasattr(value, "call")]
    before = [(f.__defaults__, f.__dict__.copy()) for f in functions]
    for program in (HOSTILE[case], b"\x80\x02" + HOSTILE[case], b"\x80\x04" + HOSTILE[case]):
        with pytest.raises(UserError, match="cannot read"):
            value = read_torch(zipped_program(tmp_path / "w.pth", program))
            # What holds nothing needed is read, and then refused.
            raise UserError("cannot read") if value == {} else AssertionError(value)
    assert [(f.__defaults__, f.__dict__) for f in functions] == before


def test_numbers_without_end_are_named_briefly(tmp_path):
    path = zipped_program(tmp_path / "w.pth", b"}\x8b\x00\x10\0\0" + b"\x7f" * 4096 + b"Ns.")
    with pytest.raises(UserError, match="a key of type int"):
        read_tensors(path)
    path.write_bytes(pickle.dumps(torch_pickle.LEGACY_MAGIC, 2) + b"\x80\2" + NESTED + b"." + b"}.")
    with pytest.raises(UserError, match="unknown protocol version"):
        read_torch(path)


def test_many_tensors_of_one_storage_take_its_memory_once(save):
    whole = torch.zeros(1_000_000)
    read = read_torch(save([whole[i:] for i in range(300)], False))
    starts = [array.__array_interface__["data"][0] for array in read]
    assert max(starts) - min(starts) == 299 * 4


@both_layouts
def test_a_file_cut_off_anywhere_is_refused(save, zipped):
    path = save({"weight": torch.arange(40.0), "bias": torch.zeros(3)}, zipped)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot read") as raised:
            read_torch(path)
        assert "\n" not in str(raised.value)


@functools.cache
def saved_once(zipped):
    """The same bytes each time: the older layout's storage keys are addresses."""
    file = io.BytesIO()
    torch.save(
        {"weight": torch.arange(12.0).reshape(3, 4), "step": 4},
        file,
        _use_new_zipfile_serialization=zipped,
    )
    return file.getvalue()


@both_layouts
@settings(deadline=None, max_examples=150)
@given(data=st.data())
def test_a_damaged_file_is_read_or_refused(tmp_path_factory, zipped, data):
    damaged = bytearray(saved_once(zipped))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.mktemp("damaged") / "weights.pth"
    path.write_bytes(damaged)
    try:
        read_torch(path)
    except UserError:
        pass


@pytest.mark.parametrize("content", [b"", b"PK", b"P", b"hello", bytes(1000), b"\x80\x02."])
def test_garbage_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot read"):
        read_torch(path)


def test_a_plain_pickle_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(UserError, match="not one of torch.save"):
        read_torch(path)


def rewritten(path, change, **options):
    """Writes a zip file again with the entries that `change` makes of its own."""
    with zipfile.ZipFile(path) as archive:
        entries = {entry: archive.read(entry) for entry in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return path


def test_compressed_entries_are_refused(save):
    path = save({"a": torch.zeros(100000)}, True)
    rewritten(path, lambda entries: None, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(UserError, match="compressed"):
        read_torch(path)


def test_entries_larger_than_the_file_are_refused(save):
    path = save({"a": torch.zeros(10)}, True)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")
    struct.pack_into("<II", content, entry + 20, 1 << 30, 1 << 30)
    path.write_bytes(content)
    with pytest.raises(UserError, match="larger than the file"):
        read_torch(path)


def test_tensors_beyond_their_storage_are_refused(save):
    path = save({"a": torch.zeros(1).expand(50, 1000)}, True)
    with pytest.raises(UserError, match=r"\[50, 1000\] goes beyond its storage"):
        read_torch(path)
    path = save({"a": torch.arange(40.0)}, True)
    storage = next(n for n in zipfile.ZipFile(path).namelist() if n.endswith("data/0"))
    rewritten(path, lambda entries: entries.update({storage: b"abcd"}))
    with pytest.raises(UserError, match="cut off"):
        read_torch(path)
    rewritten(path, lambda entries: entries.pop(storage))
    with pytest.raises(UserError, match="storage 0 is missing"):
        read_torch(path)


def test_big_endian_files_are_read(save):
    def swap(entries):
        for name, content in entries.items():
            if name.endswith("byteorder"):
                entries[name] = b"big"
            if name.endswith("data/0"):
                entries[name] = np.frombuffer(content, "<f4").astype(">f4").tobytes()

    path = rewritten(save({"a": torch.arange(5.0)}, True), swap)
    np.testing.assert_array_equal(read_torch(path)["a"], np.arange(5))


def test_a_huge_memo_index_does_not_fill_the_memory(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"\x80\x02" + b"K\x01r" + struct.pack("<I", 2**32 - 1) + b".")
    with pytest.raises(UserError, match="not one of torch.save"):
        read_torch(path)


def test_deep_nesting_is_refused(save):
    value = []
    for _ in range(5000):
        value = [value]
    path = save([], True)
    program = b"\x80\x02" + b"]" * 5001 + b"a" * 5000 + b"."
    name = next(n for n in zipfile.ZipFile(path).namelist() if n.endswith("data.pkl"))
    rewritten(path, lambda entries: entries.update({name: program}))
    with pytest.raises(UserError, match="nested too deeply"):
        read_torch(path)
