"""Writing goes on where it was stopped, and the records are the same as without a stop."""

import hashlib
import pickle

import numpy as np
import pytest

from apanet_jax.data.records import building
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.synthetic import SyntheticSource
from apanet_jax.runtime.errors import UserError
from tests import trees

TRAIN, VAL = 7, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("parts") / "mine"
    return trees.folder_tree(root, train=TRAIN, val=VAL)


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    directory = tmp_path_factory.mktemp("parts") / "records"
    write_records(FolderSource(folder), directory)
    return directory


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(building, "MOST_IMAGES", 3)


def content(directory):
    """Everything that can be read from records, with a hash for the pictures' pixels."""
    opened = open_records(directory)
    pictures = {}
    for name in ("train", "val"):
        split = opened.split(name)
        pictures[name] = [
            (item["name"], hashlib.sha256(item["image"].tobytes() + item["label"].tobytes()))
            for item in map(split.__getitem__, range(len(split)))
        ]
        pictures[name] = [(n, h.hexdigest()) for n, h in pictures[name]]
        pictures[name] += [split.names, split.areas.tolist(), split.sizes.tolist()]
    return opened.fingerprint, pictures


class StoppingSource(FolderSource):
    """Counts its reads, and stops at one of them."""

    def __init__(self, directory, stop_at=None, error=KeyboardInterrupt):
        super().__init__(directory)
        self.reads, self.stop_at, self.error = [], stop_at, error

    def read(self, split, name):
        if len(self.reads) == self.stop_at:
            raise self.error
        self.reads.append(name)
        return super().read(split, name)


def test_parts_make_the_same_records_as_one_piece(folder, whole, tmp_path, small_parts):
    write_records(FolderSource(folder), tmp_path / "records")
    assert content(tmp_path / "records") == content(whole)
    files = sorted(p.name for p in tmp_path.glob("records/few_shot_records/*/*train*"))
    assert files == [f"few_shot_records-train.array_record-0000{i}-of-00003" for i in range(3)]
    assert [p.name for p in tmp_path.iterdir()] == ["records"]


def test_parts_are_bounded_in_bytes(folder, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "MOST_BYTES", 1)
    write_records(FolderSource(folder), tmp_path / "records")
    assert len(list(tmp_path.glob("records/few_shot_records/*/*train*"))) == TRAIN
    assert content(tmp_path / "records") == content(whole)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
@pytest.mark.parametrize(("stop_at", "kept"), [(2, 0), (3, 3), (8, 7), (10, 10)])
def test_a_stopped_write_is_gone_on_with(
    folder, whole, tmp_path, small_parts, capsys, stop_at, kept, error
):
    stopped = StoppingSource(folder, stop_at, error)
    with pytest.raises((KeyboardInterrupt, UserError)) as ended:
        write_records(stopped, tmp_path / "records")
    said = capsys.readouterr().out + str(ended.value)
    assert ("same command goes on" in said) == (kept > 0)
    left = [p.name for p in tmp_path.iterdir()]
    assert left == (["records.unfinished"] if kept else [])

    again = StoppingSource(folder)
    write_records(again, tmp_path / "records")
    assert content(tmp_path / "records") == content(whole)
    taken_over = {0: 0, 3: 1, 7: 3, 10: 4}[kept]  # parts, of which one picture is read again
    assert len(again.reads) == TRAIN + VAL - kept + taken_over
    said = capsys.readouterr().out
    assert ("train: going on, 3 of 7 are written" in said) == (kept == 3)
    assert ("train: all 7 are written" in said) == (kept >= 7)
    assert [p.name for p in tmp_path.iterdir()] == ["records"]


def test_a_stop_while_parts_are_joined_does_no_harm(
    folder, whole, tmp_path, small_parts, monkeypatch
):
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez_compressed", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            write_records(FolderSource(folder), tmp_path / "records")
    assert not (tmp_path / "records").exists()
    write_records(FolderSource(folder), tmp_path / "records")
    assert content(tmp_path / "records") == content(whole)


def test_parts_of_another_source_are_not_taken_over(tmp_path, small_parts, monkeypatch, capsys):
    def source(seed):
        return SyntheticSource(seed=seed, train=5, val=3, size=64)

    first = source(0)
    read = first.read

    def stopping(split, name):
        if name == "train_000004":
            raise KeyboardInterrupt
        return read(split, name)

    monkeypatch.setattr(first, "read", stopping)
    with pytest.raises(KeyboardInterrupt):
        write_records(first, tmp_path / "mixed")
    write_records(source(1), tmp_path / "mixed")
    assert "another source" in capsys.readouterr().out
    write_records(source(1), tmp_path / "pure")
    assert content(tmp_path / "mixed") == content(tmp_path / "pure")


def test_a_part_whose_picture_changed_is_made_again(tmp_path, small_parts):
    folder = trees.folder_tree(tmp_path / "mine", train=5, val=3)
    with pytest.raises(KeyboardInterrupt):
        write_records(StoppingSource(folder, stop_at=4), tmp_path / "records")
    trees.save_label(folder / "SegmentationClass" / "train_000.png", np.zeros((64, 80), np.uint8))
    write_records(FolderSource(folder), tmp_path / "records")
    assert open_records(tmp_path / "records").split("train")[0]["label"].max() == 0


def test_parts_with_bad_pictures_are_read_again(tmp_path, small_parts):
    folder = trees.folder_tree(tmp_path / "mine", train=5, val=3)
    path = folder / "JPEGImages" / "train_001.jpg"
    good = path.read_bytes()
    path.write_bytes(b"junk")
    with pytest.raises(KeyboardInterrupt):
        write_records(StoppingSource(folder, stop_at=4), tmp_path / "records", skip_bad=True)
    path.write_bytes(good)
    report = write_records(FolderSource(folder), tmp_path / "records", skip_bad=True)
    assert not report.bad and report.pictures == {"train": 5, "val": 3}


def test_a_part_without_a_usable_picture_is_passed_over(tmp_path, small_parts):
    folder = trees.folder_tree(tmp_path / "mine", train=7, val=3)
    for i in (3, 4, 5):
        (folder / "JPEGImages" / f"train_{i:03d}.jpg").write_bytes(b"junk")
    write_records(FolderSource(folder), tmp_path / "records", skip_bad=True)
    split = open_records(tmp_path / "records").split("train")
    assert [split[i]["name"] for i in range(4)] == split.names
    for i in range(3):
        (folder / "JPEGImages" / f"val_{i:03d}.jpg").write_bytes(b"junk")
    with pytest.raises(UserError, match="no usable image in its val list"):
        write_records(FolderSource(folder), tmp_path / "none", skip_bad=True)
    assert not list(tmp_path.glob("none*"))


def test_parts_of_an_earlier_version_are_gone_on_with(folder, whole, tmp_path, small_parts):
    """Their index had no notes."""
    with pytest.raises(KeyboardInterrupt):
        write_records(StoppingSource(folder, stop_at=4), tmp_path / "records")
    (index,) = tmp_path.glob("records.unfinished/parts/*/part.npz")
    with np.load(index) as arrays:
        kept = {name: arrays[name] for name in arrays.files if name != "notes"}
    np.savez(index, **kept)
    source = StoppingSource(folder)
    write_records(source, tmp_path / "records")
    assert len(source.reads) == TRAIN + VAL - 3 + 1
    assert content(tmp_path / "records") == content(whole)


def test_a_split_travels_without_its_index(whole):
    split = open_records(whole).split("train")
    assert len(split.names) == len(split.areas) == len(split.sizes) == TRAIN
    packed = pickle.dumps(split)
    assert len(packed) < 300 + len(str(whole))
    np.testing.assert_array_equal(pickle.loads(packed).areas, split.areas)
