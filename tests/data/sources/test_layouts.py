"""The layouts of published code: PFENet's, BAM's and HSNet's lists, label maps as PNG folders."""

import shutil

import numpy as np
import pytest
from PIL import Image

from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.coco import CocoSource
from apanet_jax.data.sources.coco_label_maps import CLASS_NAMES, CocoLabelMapSource
from apanet_jax.data.sources.lists import read_image_lists
from apanet_jax.data.sources.pascal import PascalSource
from apanet_jax.data.sources.source import SPLITS
from apanet_jax.runtime.errors import UserError
from tests import trees

SIZE = (40, 48)


@pytest.fixture
def pascal(tmp_path):
    """Official trees, and the same label maps in a folder `SegmentationClassAug` beside VOC's."""
    voc, sbd, _ = trees.pascal_tree(tmp_path, own=5, sbd=6, both=2, val=4, size=SIZE)
    source = PascalSource(voc, sbd, any_count=True)
    for split in SPLITS:
        for name in source.names(split):
            label = source.read(split, name).label
            trees.save_label(voc / "SegmentationClassAug" / f"{name}.png", label)
    return voc, sbd, source


def pfenets(names, labels="SegmentationClassAug"):
    return [f"JPEGImages/{name}.jpg {labels}/{name}.png" for name in names]


def hsnets(source, split):
    """A file's lines for each fold: an image once for each of the fold's classes in it."""
    folds = [[] for _ in range(4)]
    for name in source.names(split):
        for c in np.unique(source.read(split, name).label):
            if 0 < c < 255:
                folds[(c - 1) // 5].append(f"{name}__{c:02d}")
    return folds


FORMS = {
    "names": lambda source, split: [source.names(split)],
    "PFENet": lambda source, split: [pfenets(source.names(split))],
    "PFENet's val": lambda source, split: [pfenets(source.names(split), "/data/SBD/new_cls")],
    "BAM": lambda source, split: [
        [
            f"../data/VOCdevkit2012/VOC2012/JPEGImages/{n}.jpg ../data/VOC2012/Seg/{n}.png"
            for n in source.names(split)
        ]
    ],
    "HSNet": hsnets,
}


@pytest.mark.parametrize("form", FORMS)
def test_lists_of_every_form_name_the_same_images(pascal, tmp_path, form):
    _, _, source = pascal
    files = []
    for number, lines in enumerate(FORMS[form](source, "train")):
        files.append(tmp_path / "lists" / f"fold{number}.txt")
        trees.write_list(files[-1], lines)
    read = read_image_lists(files)
    assert len(read) == len(set(read)) and set(read) == set(source.names("train"))
    assert form == "HSNet" or read == source.names("train")
    assert set(read_image_lists([tmp_path / "lists"])) == set(read)


def test_label_maps_and_lists_give_the_same_records_as_the_official_trees(pascal, tmp_path):
    voc, sbd, official = pascal
    for split in SPLITS:
        trees.write_list(tmp_path / f"{split}.txt", pfenets(official.names(split)))
    given = PascalSource(
        voc,
        labels="SegmentationClassAug",
        train_list=[tmp_path / "train.txt"],
        val_list=[tmp_path / "val.txt"],
    )
    assert "9 images, the protocol's has 5953" in given.notes[0]
    shutil.copy(sbd / "dataset" / "train_noval.txt", voc / "ImageSets" / "Segmentation")
    derived = PascalSource(voc, labels="SegmentationClassAug", any_count=True)
    reports, fingerprints = [], []
    for name, source in (("a", official), ("b", given), ("c", derived)):
        report = write_records(source, tmp_path / name)
        reports.append((report.pictures, report.per_class, report.bad))
        opened = open_records(tmp_path / name)
        fingerprints.append((opened.fingerprint, opened.class_names, opened.folds))
    assert reports[0] == reports[1] == reports[2] and len(set(fingerprints)) == 1
    assert reports[0][0] == {"train": 9, "val": 4}


def test_images_of_sbd_alone_are_found_in_vocs_tree(pascal):
    voc, _, official = pascal
    derived = PascalSource(voc, voc.parents[1] / "benchmark_RELEASE", any_count=True)
    assert derived.names("train") == official.names("train")


def test_what_is_missing_is_said_with_where_it_was_looked_for(pascal, tmp_path):
    voc, sbd, _ = pascal
    with pytest.raises(UserError, match="--sbd=DIR, or .*--labels=SegmentationClassAug"):
        PascalSource(voc)
    with pytest.raises(UserError, match="looked for .*/VOC2012/Aug and Aug; .*--labels"):
        PascalSource(voc, labels="Aug")
    with pytest.raises(UserError, match="train_noval.txt in .*--train_list=FILE"):
        PascalSource(voc, labels="SegmentationClassAug")
    with pytest.raises(UserError, match="no JPEGImages folder: looked for .*nothing.*--voc"):
        PascalSource(tmp_path / "nothing", labels="SegmentationClassAug")
    with pytest.raises(UserError, match="no cls folder: looked for .*benchmark_RELEASE.*--sbd"):
        PascalSource(voc, tmp_path / "nothing")
    trees.write_list(tmp_path / "same.txt", ["2009_000000"])
    with pytest.raises(UserError, match="1 images are in the training list and in the test list"):
        PascalSource(voc, labels="SegmentationClassAug", train_list=[tmp_path / "same.txt"])
    trees.write_list(tmp_path / "none.txt", ["2010_000000"])
    source = PascalSource(
        voc,
        labels="SegmentationClassAug",
        train_list=[tmp_path / "none.txt"],
        any_count=True,
    )
    with pytest.raises(UserError, match="SegmentationClassAug/2010_000000.png cannot be read"):
        source.read("train", "2010_000000")


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ([], "names no image"),
        (["a", "b", "a"], "names 'a' more than once"),
        (["JPEGImages/a.jpg Seg/a.png 3"], "line 1 of .* has 3 fields"),
        (["a", "JPEGImages/a.jpg Seg/b.png"], "line 2 of .* the label map of another"),
        (["JPEGImages/.. Seg/.."], "plain name"),
    ],
)
def test_lists_that_make_no_sense_are_refused(tmp_path, lines, says):
    trees.write_list(tmp_path / "a.txt", lines)
    with pytest.raises(UserError, match=says):
        read_image_lists([tmp_path / "a.txt"])


def test_lists_that_are_no_text_are_refused(tmp_path):
    (tmp_path / "fold0.pkl").write_bytes(b"\x80\x03}q\x00K\x00]q\x01.\xff")
    with pytest.raises(UserError, match="fold0.pkl cannot be read"):
        read_image_lists([tmp_path / "fold0.pkl"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no list file"):
        read_image_lists([tmp_path / "empty"])


@pytest.fixture
def coco(tmp_path):
    """A tree with instance files, and label maps as in HSNet's, drawn by `CocoSource`."""
    images, annotations = trees.coco_tree(tmp_path / "COCO2014", train=4, val=3, size=SIZE)
    source = CocoSource(images, annotations, any_count=True)
    for split in SPLITS:
        for name in source.names(split):
            path = annotations / f"{split}2014" / f"{name}.png"
            trees.save_label(path, source.read(split, name).label, palette=False)
    (annotations / "train2014" / "._x.png").write_bytes(b"\0")
    return images, annotations, source


def test_cocos_label_maps_give_the_same_images_and_labels(coco, tmp_path):
    images, labels, official = coco
    lists = {}
    for split in SPLITS:
        lists[split] = tmp_path / f"{split}.txt"
        lines = [
            f"{split}2014/{name}.jpg annotations/{split}2014/{name}.png"
            for name in official.names(split)
        ]
        trees.write_list(lists[split], lines)
    given = CocoLabelMapSource(images, labels, train_list=[lists["train"]], val_list=[lists["val"]])
    folder = CocoLabelMapSource(images, labels, any_count=True)
    for split in SPLITS:
        assert given.names(split) == official.names(split)
        assert folder.names(split) == sorted(official.names(split))
        for name in official.names(split):
            expected, read = official.read(split, name), given.read(split, name)
            assert read.image == expected.image
            np.testing.assert_array_equal(read.label, expected.label)
    assert given.folds[0] == CLASS_NAMES[::4] and given.notes and not folder.notes
    consecutive = CocoLabelMapSource(images, labels, split="consecutive", any_count=True)
    assert consecutive.folds[1] == CLASS_NAMES[20:40]


def test_a_wrong_coco_tree_is_said(coco, tmp_path):
    images, labels, _ = coco
    with pytest.raises(UserError, match="4 images, .*82081: give --train_list=FILE"):
        CocoLabelMapSource(images, labels)
    for roots, flag in (((tmp_path, labels), "--images"), ((images, tmp_path), "--labels")):
        with pytest.raises(UserError, match=f"train2014 is missing: .*{flag}"):
            CocoLabelMapSource(*roots)
    name = CocoLabelMapSource(images, labels, any_count=True).names("val")[0]
    Image.fromarray(np.full(SIZE, 81, np.uint8)).save(labels / "val2014" / f"{name}.png")
    with pytest.raises(UserError, match=r"holds the ids \[81\], expected 0 to 80 or 255"):
        CocoLabelMapSource(images, labels, any_count=True).read("val", name)


def test_label_maps_as_jpeg_are_refused(pascal):
    voc, _, official = pascal
    name = official.names("val")[0]
    path = voc / "SegmentationClassAug" / f"{name}.png"
    Image.open(path).convert("L").save(path, "jpeg")
    source = PascalSource(
        voc,
        labels="SegmentationClassAug",
        val_list=[],
        train_list=[voc / "ImageSets" / "Segmentation" / "train.txt"],
        any_count=True,
    )
    with pytest.raises(UserError, match=f"{name}.png is JPEG: expected PNG"):
        source.read("val", name)
