"""Records give back what the source gave, or they are not there at all."""

import ast
import concurrent.futures
import importlib.util
import json
import multiprocessing
import pickle
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import apanet_jax.data
from apanet_jax.data import folds
from apanet_jax.data.images.reader import read_image
from apanet_jax.data.loader import batches
from apanet_jax.data.records import reading, writing
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import BadImages, write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.runtime.errors import UserError
from tests import trees


@pytest.fixture
def folder(tmp_path):
    return trees.folder_tree(tmp_path / "mine", train=5, val=4)


@pytest.fixture
def written(folder, tmp_path):
    write_records(FolderSource(folder), tmp_path / "records")
    return open_records(tmp_path / "records")


def test_round_trip(folder, written):
    assert (written.name, written.class_names) == ("mine", ("class1", "class2", "class3", "class4"))
    for name, count in (("train", 5), ("val", 4)):
        split = written.split(name)
        assert len(split) == count
        for i in range(count):
            item = split[i]
            stored = Image.open(folder / "JPEGImages" / f"{item['name']}.jpg")
            np.testing.assert_allclose(
                item["image"].astype(int), np.asarray(stored).astype(int), atol=3
            )
            label = np.array(Image.open(folder / "SegmentationClass" / f"{item['name']}.png"))
            np.testing.assert_array_equal(item["label"], label)
            assert tuple(split.sizes[i]) == label.shape
            for c in range(5):
                assert split.areas[i, c] == (label == c).sum()


def _checksum(split, number):
    return int(split[number]["label"].sum())


def test_splits_travel_to_other_processes(written):
    split = written.split("train")
    assert _checksum(pickle.loads(pickle.dumps(split)), 2) == _checksum(split, 2)
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(_checksum, split, 3).result() == _checksum(split, 3)


def test_the_fingerprint_tells_contents_apart(folder, written, tmp_path):
    again = tmp_path / "again"
    write_records(FolderSource(folder), again)
    assert open_records(again).fingerprint == written.fingerprint
    name = written.split("train").names[0]
    path = folder / "SegmentationClass" / f"{name}.png"
    label = np.array(Image.open(path))
    label[0, 0] = 1 - label[0, 0] % 2
    Image.fromarray(label).save(path)
    assert open_records(again).split("train").label(0)[0, 0] != label[0, 0]
    write_records(FolderSource(folder), again, overwrite=True)
    opened = open_records(again)
    assert opened.fingerprint != written.fingerprint
    # Though the files from before were open in this process.
    assert opened.split("train").label(0)[0, 0] == label[0, 0]


def test_bad_pictures_are_all_named_and_nothing_is_written(folder, tmp_path):
    for i in (1, 3):
        (folder / "JPEGImages" / f"train_{i:03d}.jpg").write_bytes(b"junk")
    with pytest.raises(BadImages, match="2 images") as refused:
        write_records(FolderSource(folder), tmp_path / "records")
    assert [
        f"train_{i:03d}" in line for i, line in zip((1, 3), refused.value.report.bad, strict=True)
    ] == [
        True,
        True,
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    report = write_records(FolderSource(folder), tmp_path / "records", skip_bad=True)
    assert report.pictures == {"train": 3, "val": 4} and len(report.bad) == 2
    split = open_records(tmp_path / "records").split("train")
    assert split.names == ["train_000", "train_002", "train_004"]
    assert split[1]["name"] == "train_002"
    np.testing.assert_array_equal(
        split[1]["label"], np.array(Image.open(folder / "SegmentationClass" / "train_002.png"))
    )


def test_an_interrupted_write_leaves_nothing(folder, tmp_path, monkeypatch):
    source = FolderSource(folder)
    read = source.read

    def interrupted(split, name):
        if name == "train_003":
            raise KeyboardInterrupt
        return read(split, name)

    monkeypatch.setattr(source, "read", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_records(source, tmp_path / "records")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    monkeypatch.undo()
    write_records(FolderSource(folder), tmp_path / "records")


def test_what_is_there_is_not_overwritten_unasked(folder, written):
    with pytest.raises(UserError, match="--overwrite"):
        write_records(FolderSource(folder), written.directory)


def test_absent_or_damaged_records_say_what_to_do(written, tmp_path):
    with pytest.raises(UserError, match="apanet_jax.prepare"):
        open_records(tmp_path / "nowhere")
    index = written.directory / "index.json"
    index.write_text(index.read_text()[:50])
    with pytest.raises(UserError, match="damaged"):
        open_records(written.directory)
    index.write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="version"):
        open_records(written.directory)


def test_folds_part_the_classes(written):
    assert folds.novel_classes(written, 0) == (1, 2) and folds.base_classes(written, 0) == (3, 4)
    assert folds.novel_classes(written, -1) == () and folds.base_classes(written, -1) == (
        1,
        2,
        3,
        4,
    )
    assert folds.novel_classes(written, 1) == (3, 4)
    for wrong in (-2, 2):
        with pytest.raises(UserError, match="0 to 1"):
            folds.novel_classes(written, wrong)


def test_threads_open_records_one_after_the_other(written, monkeypatch):
    """Opening imports tensorflow-datasets, whose lazy modules two threads can lock for ever."""
    opened, at_once = tfds.builder_from_directory, []
    inside = set()

    def slowly(*arguments):
        inside.add(threading.get_ident())
        time.sleep(0.05)
        at_once.append(len(inside))
        inside.discard(threading.get_ident())
        return opened(*arguments)

    monkeypatch.setattr(tfds, "builder_from_directory", slowly)
    split = written.split("train")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        names = [picture["name"] for picture in pool.map(split.__getitem__, range(4))]
    assert names == split.names[:4] and set(at_once) == {1}


def test_records_whose_builder_lay_in_another_module_are_read(folder, tmp_path):
    write_records(FolderSource(folder), tmp_path / "records")
    (info,) = (tmp_path / "records").glob("few_shot_records/*/dataset_info.json")
    said = json.loads(info.read_text())
    assert said["moduleName"] == "apanet_jax.data.records.builder"
    info.write_text(json.dumps(said | {"moduleName": "apanet_jax.data.builder"}))
    assert open_records(tmp_path / "records").split("train")[0]["name"] == "train_000"


def test_a_label_is_read_without_decoding_its_image(written, monkeypatch):
    split = written.split("train")
    expected = [split[i]["label"] for i in range(len(split))]
    monkeypatch.setattr(reading, "decode_verified", lambda _: pytest.fail("decoded"))
    for number, label in enumerate(expected):
        np.testing.assert_array_equal(split.label(number), label)


def test_an_image_is_read_as_it_was_measured(folder, tmp_path):
    """What turns a photograph in one decoder must turn it in the other."""
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x04\0\0\0\x01\0\0\0\x06\0\0\0\0"
    path = folder / "JPEGImages" / "train_000.jpg"
    Image.open(path).save(path, exif=exif)
    write_records(FolderSource(folder), tmp_path / "records")
    item = open_records(tmp_path / "records").split("train")[0]
    assert item["image"].shape[:2] == item["label"].shape


def test_deep_gray_images_are_trained_on_as_predict_shows_them(folder, tmp_path):
    path = folder / "JPEGImages" / "train_000.jpg"
    values = np.linspace(900, 1155, 64 * 80).reshape(64, 80).astype(np.uint16)
    path.unlink()
    Image.fromarray(values).save(path.with_suffix(".png"))
    write_records(FolderSource(folder), tmp_path / "records")
    image = open_records(tmp_path / "records").split("train")[0]["image"]
    np.testing.assert_array_equal(image, read_image(path.with_suffix(".png")).image)
    assert len(np.unique(image)) == 256


def test_a_damaged_image_in_records_is_one_line(written, monkeypatch):
    damaged = {"name": b"a", "image": b"\xff\xd8\xffjunk", "label": b"junk"}
    monkeypatch.setattr(reading, "open_split", lambda *_: [damaged])
    with pytest.raises(UserError, match="image train_000 of train in .* cannot be read"):
        written.split("train")[0]


def test_where_array_record_is_missing_one_line_says_what_to_do(folder, tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "array_record" else found(name)
    )
    with pytest.raises(UserError, match="need the package array_record: pip install array_record"):
        write_records(FolderSource(folder), tmp_path / "records")
    assert not (tmp_path / "records").exists()
    with pytest.raises(UserError, match="array_record"):
        batches(len, count=1, batch_size=1)


def test_nothing_but_the_builder_imports_what_needs_array_record_when_it_is_imported():
    needing = {"array_record", "grain", "tensorflow_datasets", "builder"}
    for path in Path(apanet_jax.data.__file__).parent.rglob("*.py"):
        imported = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported |= {node.module.partition(".")[0], node.module.rpartition(".")[2]}
        assert path.name == "builder.py" or not imported & needing, path.name


@pytest.fixture(scope="module")
def of_two(tmp_path_factory):
    return trees.folder_tree(tmp_path_factory.mktemp("two") / "two", train=1, val=1)


@pytest.mark.parametrize("killed", [False, True])
def test_records_that_are_replaced_stay_until_the_new_ones_are_whole(
    of_two, tmp_path, monkeypatch, killed
):
    """They were removed first: an interruption then left neither the old nor the new ones."""
    place, source = tmp_path / "records", FolderSource(of_two)
    write_records(source, place)
    before = files_in(place)
    moved = writing.move

    def interrupted(new, target):
        if new.name == "joined":
            raise KeyboardInterrupt
        # One that is killed puts nothing back.
        if not (killed and target == place):
            moved(new, target)

    with monkeypatch.context() as patched:
        patched.setattr(writing, "move", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_records(source, place, overwrite=True)
    assert place.exists() != killed
    if killed:
        # Not taken for the new ones of the same source.
        with pytest.raises(UserError, match="is there already"):
            write_records(FolderSource(of_two), place)
    assert files_in(place) == before
    write_records(source, place, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["records"]
    open_records(place).split("train")[0]


def files_in(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
