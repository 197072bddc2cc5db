"""Sources: the official layouts are read as they are, and what is broken is named."""

import json
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.joined import JoinedSource
from apanet_jax.data.sources.pascal import PascalSource
from apanet_jax.runtime.errors import UserError
from tests import trees

SHARED = Path(__file__).resolve().parents[3] / "../shared/data"


@pytest.fixture
def folder(tmp_path):
    return trees.folder_tree(tmp_path / "mine", train=4, val=3)


def test_folder_gives_what_was_written(folder):
    source = FolderSource(folder)
    assert source.name == "mine" and source.class_names == ("class1", "class2", "class3", "class4")
    assert source.folds == (("class1", "class2"), ("class3", "class4"))
    for split, count in (("train", 4), ("val", 3)):
        assert len(source.names(split)) == count
        for name in source.names(split):
            sample = source.read(split, name)
            assert sample.image == (folder / "JPEGImages" / f"{name}.jpg").read_bytes()
            stored = Image.open(folder / "SegmentationClass" / f"{name}.png")
            np.testing.assert_array_equal(sample.label, np.array(stored))


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _save(path, mode, size=(80, 64)):
    Image.new(mode, size).save(path)


def _rotated(path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (80, 64)).save(path, exif=exif)


BROKEN = {
    "picture missing": ("image", lambda p: p.unlink(), "missing"),
    "picture empty": ("image", lambda p: p.write_bytes(b""), "empty"),
    "picture cut short": ("image", _truncate, "cut short"),
    "picture is text": ("image", lambda p: p.write_text("hello"), "no image"),
    "picture turned": ("image", _rotated, "EXIF"),
    "mask missing": ("mask", lambda p: p.unlink(), "cannot be read"),
    "mask cut short": ("mask", _truncate, "cut short|no image"),
    "mask RGB": ("mask", lambda p: _save(p, "RGB"), "mode RGB"),
    "mask RGBA": ("mask", lambda p: _save(p, "RGBA"), "mode RGBA"),
    "mask 16 bits": ("mask", lambda p: _save(p, "I;16"), "mode I;16"),
    "mask of another size": ("mask", lambda p: _save(p, "L", (64, 64)), "one size"),
    "mask with unknown ids": (
        "mask",
        lambda p: Image.fromarray(np.full((64, 80), 9, np.uint8)).save(p),
        r"ids \[9\]",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named_in_one_line(folder, case):
    which, break_, says = BROKEN[case]
    source = FolderSource(folder)
    name = source.names("train")[1]
    path = {
        "image": folder / "JPEGImages" / f"{name}.jpg",
        "mask": folder / "SegmentationClass" / f"{name}.png",
    }[which]
    break_(path)
    with pytest.raises(UserError, match=says) as refused:
        source.read("train", name)
    assert name in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_names_in_another_form_of_unicode_are_found(folder, stored):
    listed = unicodedata.normalize({"NFC": "NFD", "NFD": "NFC"}[stored], "käfer")
    source = FolderSource(folder)
    for place, ending in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        path = folder / place / f"train_000{ending}"
        path.rename(path.with_name(unicodedata.normalize(stored, "käfer") + ending))
    lists = folder / "ImageSets" / "Segmentation" / "train.txt"
    lists.write_text(lists.read_text().replace("train_000", listed), encoding="utf-8")
    assert source.read("train", source.names("train")[0]).label.shape == (64, 80)


@pytest.mark.parametrize("lines", ["", "../../etc/passwd", "/etc/passwd", "a\na"])
def test_lists_that_lead_elsewhere_are_refused(folder, lines):
    (folder / "ImageSets" / "Segmentation" / "train.txt").write_text(lines)
    with pytest.raises(UserError, match="list file|plain name|more than once"):
        FolderSource(folder).names("train")


@pytest.mark.parametrize(
    "folds", ["", "{", "[]", "[[]]", '["class1"]', '[["dog"]]', '[["class1"], ["class1"]]']
)
def test_folds_that_make_no_sense_are_refused(folder, folds):
    (folder / "folds.json").write_text(folds)
    with pytest.raises(UserError, match="folds.json"):
        FolderSource(folder)


@pytest.mark.parametrize("missing", ["classes.txt", "folds.json"])
def test_missing_pieces_are_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(UserError, match=missing):
        FolderSource(folder)


@pytest.mark.skipif(not SHARED.exists(), reason="the real pictures are not beside the project")
@pytest.mark.parametrize(("name", "counts"), [("scenes", (1600, 500)), ("camvid", (367, 101))])
def test_real_folders_are_read(name, counts):
    source = FolderSource(SHARED / name)
    assert tuple(len(source.names(s)) for s in ("train", "val")) == counts
    assert json.loads((SHARED / name / "folds.json").read_text()) == [list(f) for f in source.folds]
    assert source.read("val", source.names("val")[0]).label.ndim == 2


@pytest.fixture
def pascal(tmp_path):
    return trees.pascal_tree(tmp_path, own=5, sbd=6, both=2, val=4)


def test_pascal_lists_are_united_and_vocs_label_wins(pascal):
    voc, sbd, names = pascal
    source = PascalSource(voc, sbd, any_count=True)
    assert source.names("val") == names["val"]
    assert sorted(source.names("train")) == sorted(set(names["own"]) | set(names["sbd"]))
    shared = names["own"][0]
    stored = np.array(Image.open(voc / "SegmentationClass" / f"{shared}.png"))
    np.testing.assert_array_equal(source.read("train", shared).label, stored)
    only_sbd = names["sbd"][-1]
    assert source.read("train", only_sbd).label.max() in (*range(1, 21), 255)


def test_without_train_noval_the_validation_pictures_are_left_out(pascal):
    voc, sbd, names = pascal
    (sbd / "dataset" / "train_noval.txt").unlink()
    source = PascalSource(voc, sbd, any_count=True)
    assert not set(source.names("train")) & set(names["val"])
    assert sorted(source.names("train")) == sorted(set(names["own"]) | set(names["sbd"]))


def test_pascal_refuses_lists_of_another_length(pascal):
    voc, sbd, _ = pascal
    with pytest.raises(UserError, match="9 images, the protocol's has 5953"):
        PascalSource(voc, sbd)


def test_pascal_classes_are_vocs_in_alphabetical_order(pascal):
    source = PascalSource(*pascal[:2], any_count=True)
    assert list(source.class_names) == sorted(source.class_names)
    assert source.folds[1] == ("bus", "car", "cat", "chair", "cow")
    assert sum(source.folds, ()) == source.class_names


@pytest.mark.parametrize("up", [0, 1, 2])
def test_pascal_finds_the_trees_from_above(pascal, up):
    voc, sbd, _ = pascal
    roots = [voc, voc.parent, voc.parent.parent]
    others = [sbd / "dataset", sbd, sbd.parent]
    PascalSource(roots[up], others[up], any_count=True)


def test_pascal_names_what_is_missing(pascal, tmp_path):
    voc, sbd, names = pascal
    with pytest.raises(UserError, match="--voc"):
        PascalSource(tmp_path / "nothing", sbd)
    with pytest.raises(UserError, match="--sbd"):
        PascalSource(voc, tmp_path / "nothing")
    mat = sbd / "dataset" / "cls" / f"{names['sbd'][-1]}.mat"
    mat.write_bytes(b"no mat file at all")
    with pytest.raises(UserError, match="no SBD label"):
        PascalSource(voc, sbd, any_count=True).read("train", names["sbd"][-1])


def test_joined_sources_have_the_images_of_all_and_classes_by_name(tmp_path):
    first = trees.folder_tree(tmp_path / "first", train=2, val=1)
    second = trees.folder_tree(tmp_path / "second", train=3, val=2, seed=1)
    (second / "classes.txt").write_text("class5\nclass2\nclass6\nclass7\n")
    (second / "folds.json").write_text('[["class2", "class5"], ["class6"]]')
    joined = JoinedSource([FolderSource(first), FolderSource(second)])
    assert joined.class_names == tuple(f"class{i}" for i in range(1, 8))
    assert joined.folds == (("class1", "class2"), ("class3", "class4"), ("class5",), ("class6",))
    assert joined.names("train")[1:3] == ["first-train_001", "second-train_000"]
    assert len(joined.names("val")) == 3
    theirs = FolderSource(second).read("train", "train_000").label
    ours = joined.read("train", "second-train_000")
    assert ours.name == "second-train_000"
    for own, number in ((0, 0), (1, 5), (2, 2), (3, 6), (4, 7), (255, 255)):
        np.testing.assert_array_equal(ours.label == number, theirs == own)


def test_sources_of_one_name_are_not_joined(folder):
    with pytest.raises(UserError, match="mine, mine: .*different names"):
        JoinedSource([FolderSource(folder), FolderSource(folder)])


def test_a_joined_source_whose_name_begins_like_anothers_is_read_itself(tmp_path):
    first = trees.folder_tree(tmp_path / "set", train=2, val=1)
    second = trees.folder_tree(tmp_path / "set-2", train=2, val=1, seed=1)
    joined = JoinedSource([FolderSource(first), FolderSource(second)])
    for name in joined.names("train"):
        of = FolderSource(second if name.startswith("set-2-") else first)
        own = of.read("train", name.removeprefix(f"{of.name}-"))
        assert joined.read("train", name).image == own.image


def test_joined_images_that_would_have_one_name_are_refused(tmp_path):
    first = trees.folder_tree(tmp_path / "set", train=1, val=1)
    second = trees.folder_tree(tmp_path / "set-2", train=1, val=1)
    (first / "ImageSets/Segmentation/train.txt").write_text("2-train_000\n")
    with pytest.raises(UserError, match="'set-2-train_000', one of set and one of set-2: rename"):
        JoinedSource([FolderSource(first), FolderSource(second)])
