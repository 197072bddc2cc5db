"""Whatever bytes the readers are given, only `UserError` ever comes out of them, in one line."""

import io
import json
import pickle
import struct
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save as save_safetensors

from apanet_jax.config.definitions import NO_FOLD
from apanet_jax.config.saved import of_run
from apanet_jax.data.episode_files import read_episodes
from apanet_jax.data.folds import base_classes
from apanet_jax.data.sources.folder import _read_classes, read_folds
from apanet_jax.data.sources.source import read_image_size, read_label, read_names
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.files import read_tensors

fuzz = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CLASSES = ("cat", "dog", "cow")


def torch_bytes(zipped):
    file = io.BytesIO()
    state = {"state_dict": {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)}}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def picture_bytes(image, kind):
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


SAFETENSORS = save_safetensors({"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3))})
MASK = picture_bytes(Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8) % 4), "png")
JPEG = picture_bytes(Image.new("RGB", (8, 6), (200, 10, 30)), "jpeg")


def damaged(whole):
    """Whole files with bytes replaced, cut off, or put in; and any bytes at all."""
    place, some = st.integers(0, len(whole)), st.binary(max_size=12)

    def replaced(edits):
        content = bytearray(whole)
        for start, new in edits:
            content[start : start + len(new)] = new
        return bytes(content)

    return st.one_of(
        st.lists(st.tuples(place, some), min_size=1, max_size=4).map(replaced),
        place.map(lambda stop: whole[:stop]),
        st.tuples(place, some).map(lambda x: whole[: x[0]] + x[1] + whole[x[0] :]),
        st.binary(max_size=200),
    )


def only_user_errors(read, *arguments):
    """Returns what is read, or None where it is refused in one line."""
    try:
        return read(*arguments)
    except UserError as error:
        assert len(str(error).splitlines()) == 1
        return None


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("w.pth", torch_bytes(True)),
        ("w.pt", torch_bytes(False)),
        ("w.safetensors", SAFETENSORS),
    ],
    ids=["zip", "legacy", "safetensors"],
)
def test_weights(tmp_path, name, whole):
    path = tmp_path / name

    @fuzz
    @given(damaged(whole))
    def check(content):
        path.write_bytes(content)
        tensors = only_user_errors(read_tensors, path)
        for array in (tensors or {}).values():
            assert array.sum() is not None and array.nbytes <= len(content)

    check()


def test_headers_of_safetensors_of_any_content(tmp_path):
    path = tmp_path / "w.safetensors"
    numbers = st.integers(-3, 2**65)
    entry = st.fixed_dictionaries(
        {},
        optional={
            "dtype": st.sampled_from(["F32", "BF16", "I64", "BOOL", "F8_E4M3", "U1"]) | numbers,
            "shape": st.lists(numbers, max_size=3),
            "data_offsets": st.lists(numbers, max_size=3),
        },
    )

    @fuzz
    @given(st.dictionaries(st.text(max_size=5), entry, max_size=3), st.binary(max_size=40))
    def check(header, data):
        text = json.dumps(header).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + data)
        only_user_errors(read_tensors, path)

    check()


def test_pickles_of_any_content_in_either_layout(tmp_path):
    plain = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            | st.tuples(inner, inner)
        ),
        max_leaves=6,
    )

    @fuzz
    @given(plain, st.booleans())
    def check(value, zipped):
        path = tmp_path / "w.pth"
        content = pickle.dumps(value, 2)
        if zipped:
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("archive/data.pkl", content)
        else:
            path.write_bytes(content)
        assert only_user_errors(read_tensors, path) is None

    check()


def test_masks(tmp_path):
    path = tmp_path / "mask.png"

    @fuzz
    @given(damaged(MASK))
    def check(content):
        path.write_bytes(content)
        label = only_user_errors(read_label, path, 3)
        assert label is None or set(np.unique(label)) <= {0, 1, 2, 3, 255}

    check()


@pytest.mark.parametrize("whole", [JPEG, MASK], ids=["jpeg", "png"])
def test_pictures(tmp_path, whole):
    @fuzz
    @given(damaged(whole))
    def check(content):
        size = only_user_errors(read_image_size, content, tmp_path / "picture")
        assert size is None or min(size) > 0

    check()


def test_lists(tmp_path):
    path, inside = tmp_path / "train.txt", tmp_path / "JPEGImages"
    pieces = st.sampled_from(["..", "/", ".", "a", "\n", " ", "\x00", "~", "é", "\\"])

    @fuzz
    @given(st.binary(max_size=60) | st.lists(pieces, max_size=8).map(lambda x: "".join(x).encode()))
    def check(content):
        path.write_bytes(content)
        for name in only_user_errors(read_names, path) or ():
            assert (inside / name).resolve().is_relative_to(inside.resolve())
            assert (inside / name).with_name(f"{(inside / name).name}.jpg").exists() is False

    check()


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from([*CLASSES, "", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
folds = st.lists(st.lists(st.sampled_from(CLASSES), max_size=3), max_size=3)


def test_folds(tmp_path):
    path = tmp_path / "folds.json"

    @fuzz
    @given((anything | folds).map(lambda x: json.dumps(x).encode()) | st.binary(max_size=40))
    def check(content):
        path.write_bytes(content)
        read = only_user_errors(read_folds, path, CLASSES)
        if read is None:
            return
        flat = [name for fold in read for name in fold]
        assert set(flat) <= set(CLASSES) and len(flat) == len(set(flat)) and all(read)
        records = SimpleNamespace(name="mine", class_names=CLASSES, folds=read)
        for fold in range(-1, len(read) + 1):
            base = only_user_errors(base_classes, records, fold)
            novel = () if fold == NO_FOLD else read[fold : fold + 1]
            assert base is None or len(base) + sum(map(len, novel)) == len(CLASSES)

    check()


def test_classes(tmp_path):
    path = tmp_path / "classes.txt"

    @fuzz
    @given(st.binary(max_size=40) | st.text(max_size=40).map(lambda x: x.encode(errors="replace")))
    def check(content):
        path.write_bytes(content)
        names = only_user_errors(_read_classes, path)
        assert names is None or len(set(names)) == len(names) > 0

    check()


def test_lists_of_episodes(tmp_path):
    path = tmp_path / "episodes.jsonl"
    split = SimpleNamespace(names=["p0", "p1", "p2"], areas=np.ones((3, 4), int))
    records = SimpleNamespace(class_names=CLASSES, split=lambda _: split)
    name = st.sampled_from(["p0", "p1", "p2", "p3"])
    line = st.fixed_dictionaries(
        {},
        optional={
            "query": name | anything,
            "class": st.sampled_from(CLASSES) | anything,
            "supports": st.lists(name, max_size=2) | anything,
        },
    )

    @fuzz
    @given(
        st.lists(line | anything, max_size=3).map(
            lambda lines: "\n".join(map(json.dumps, lines)).encode()
        )
        | st.binary(max_size=60)
    )
    def check(content):
        path.write_bytes(content)
        for episode in only_user_errors(read_episodes, path, records, (1, 2)) or ():
            assert episode.query not in episode.supports and episode.class_id in (1, 2)

    check()


def test_configs_that_a_run_left(tmp_path):
    @fuzz
    @given(anything.map(lambda x: json.dumps(x).encode()) | st.binary(max_size=40))
    def check(content):
        (tmp_path / "config.json").write_bytes(content)
        only_user_errors(of_run, tmp_path)

    check()
