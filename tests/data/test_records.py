"""Records give back what the source gave, or they are not there at all."""

import concurrent.futures
import json
import multiprocessing
import pickle
import threading
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from apanet_jax.data import folds, records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.runtime.errors import UserError
from tests import trees


@pytest.fixture
def folder(tmp_path):
    return trees.folder_tree(tmp_path / "mine", train=5, val=4)


@pytest.fixture
def written(folder, tmp_path):
    records.write(FolderSource(folder), tmp_path / "records")
    return records.open_records(tmp_path / "records")


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
    records.write(FolderSource(folder), again)
    assert records.open_records(again).fingerprint == written.fingerprint
    name = written.split("train").names[0]
    path = folder / "SegmentationClass" / f"{name}.png"
    label = np.array(Image.open(path))
    label[0, 0] = 1 - label[0, 0] % 2
    Image.fromarray(label).save(path)
    records.write(FolderSource(folder), again, overwrite=True)
    assert records.open_records(again).fingerprint != written.fingerprint


def test_bad_pictures_are_all_named_and_nothing_is_written(folder, tmp_path):
    for i in (1, 3):
        (folder / "JPEGImages" / f"train_{i:03d}.jpg").write_bytes(b"junk")
    with pytest.raises(records.BadImages, match="2 images") as refused:
        records.write(FolderSource(folder), tmp_path / "records")
    assert [
        f"train_{i:03d}" in line for i, line in zip((1, 3), refused.value.report.bad, strict=True)
    ] == [
        True,
        True,
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    report = records.write(FolderSource(folder), tmp_path / "records", skip_bad=True)
    assert report.pictures == {"train": 3, "val": 4} and len(report.bad) == 2
    split = records.open_records(tmp_path / "records").split("train")
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
        records.write(source, tmp_path / "records")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]
    monkeypatch.undo()
    records.write(FolderSource(folder), tmp_path / "records")


def test_what_is_there_is_not_overwritten_unasked(folder, written):
    with pytest.raises(UserError, match="--overwrite"):
        records.write(FolderSource(folder), written.directory)


def test_absent_or_damaged_records_say_what_to_do(written, tmp_path):
    with pytest.raises(UserError, match="apanet_jax.prepare"):
        records.open_records(tmp_path / "nowhere")
    index = written.directory / "index.json"
    index.write_text(index.read_text()[:50])
    with pytest.raises(UserError, match="damaged"):
        records.open_records(written.directory)
    index.write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="version"):
        records.open_records(written.directory)


def test_folds_part_the_classes(written):
    assert folds.novel_classes(written, 0) == (1, 2) and folds.base_classes(written, 0) == (3, 4)
    assert folds.novel_classes(written, 1) == (3, 4)
    for wrong in (-1, 2):
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
