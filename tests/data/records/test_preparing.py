"""Choosing classes before records are written: which are kept, their ids, folds and images."""

import json
import types

import numpy as np
import pytest

from apanet_jax.data.episodes import episode_lists
from apanet_jax.data.records.preparing import Choices, chosen_classes, prepare
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import BadImages
from apanet_jax.data.sources.annotated import coco_file
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.source import SPLITS, Sample
from apanet_jax.runtime.errors import UserError
from tests import trees

NAMES = ("ant", "bee", "cat", "dog")
CONTENTS = {
    # Of 20 pixels each, but for the last.
    "train": [("ant",), ("ant", "bee"), ("ant", "cat"), ("cat",), ("dog",), ("bee",), ()],
    "val": [("ant", "cat"), ("cat",), ("dog", "ant"), ("ant",)],
}


def source_of(folds=(("ant", "bee"), ("cat", "dog"))):
    def label(split, name):
        values = np.zeros((10, 10), np.uint8)
        for row, class_name in enumerate(CONTENTS[split][int(name)]):
            values[2 * row : 2 * row + 2] = NAMES.index(class_name) + 1
        values[9, 9] = 255
        return values

    def read(split, name):
        if name == "6":
            raise UserError("6 is bad")
        return Sample(name, b"", label(split, name))

    def names(split):
        return [str(i) for i in range(len(CONTENTS[split]))]

    return types.SimpleNamespace(
        name="mine", class_names=NAMES, folds=folds, origin="here", names=names, read=read
    )


def test_named_classes_are_numbered_in_the_sources_order_and_others_are_background():
    chosen = chosen_classes(source_of(), Choices(classes=("cat", "ant")))
    assert chosen.class_names == ("ant", "cat") and chosen.folds == (("ant",), ("cat",))
    assert chosen.names("train") == ["0", "1", "2", "3", "6"]
    assert chosen.names("val") == ["0", "1", "2", "3"]
    label = chosen.read("train", "1").label
    assert (label[:2] == 1).all() and (label[2:4] == 0).all() and label[9, 9] == 255
    assert (chosen.read("val", "1").label[:2] == 2).all()
    assert chosen.notes == [
        "left out, 2 classes: bee, dog",
        "left out: 2 images without any of the chosen classes",
    ]


def test_classes_need_enough_listed_images_for_training_and_where_tested_for_testing():
    def kept(**options):
        folds = options.pop("folds", (("ant", "bee"), ("cat", "dog")))
        return chosen_classes(source_of(folds), Choices(min_area=20, **options)).class_names

    # train: ant 3, bee 2, cat 2, dog 1; val: ant 3, bee 0, cat 2, dog 1.
    assert kept(min_images=1) == ("ant", "cat", "dog")
    assert kept(min_images=2) == ("ant", "cat")
    assert kept(min_images=2, folds=(("ant",), ("cat",))) == ("ant", "bee", "cat")
    assert kept(min_images=1, classes=("ant", "dog")) == ("ant", "dog")
    with pytest.raises(UserError, match="1 classes of mine are left"):
        kept(min_images=3)
    with pytest.raises(UserError, match="0 classes of mine are left"):
        chosen_classes(source_of(), Choices(min_area=21, min_images=1))
    with pytest.raises(UserError, match="no fold of mine tests any"):
        kept(min_images=0, classes=("ant", "bee"), folds=(("cat",), ("dog",)))


def test_an_unknown_class_is_named_with_those_there_are():
    with pytest.raises(UserError, match="'cow', which is none of mine's: ant, bee, cat, dog"):
        chosen_classes(source_of(), Choices(classes=("ant", "cow")))


@pytest.mark.parametrize("number", [("min_area", -1), ("shots", 0), ("min_images", -1)])
def test_numbers_that_make_no_sense_are_refused(number):
    with pytest.raises(UserError, match=f"--{number[0]}={number[1]}"):
        Choices(**dict([number]))


def test_a_folder_with_chosen_classes_becomes_records(tmp_path, capsys):
    folder = trees.folder_tree(tmp_path / "mine", train=8, val=6)
    whole = FolderSource(folder)
    choices = Choices(classes=("class2", "class4"), min_area=50)
    prepare(whole, tmp_path / "out", choices)
    printed = capsys.readouterr().out
    assert "left out, 2 classes: class1, class3" in printed
    opened = open_records(tmp_path / "out")
    assert opened.class_names == ("class2", "class4") and opened.folds == (("class2",), ("class4",))
    for split in SPLITS:
        written = opened.split(split)
        for number, name in enumerate(written.names):
            label = whole.read(split, name).label
            expected = np.select([label == 2, label == 4, label == 255], [1, 2, 255])
            np.testing.assert_array_equal(written.label(number), expected)
            assert written.areas[number, 1:].any()


def test_a_file_of_eighty_categories_is_prepared_and_trained_on(tmp_path, capsys):
    """Most of its categories have no image, one has a single one."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(16):
        name = f"{number:02d}.png"
        trees.save_image(tmp_path / "images" / name, rng.integers(0, 255, (20, 30, 3), np.uint8))
        images.append({"id": number, "file_name": name, "height": 20, "width": 30})
        category = 7 if number == 5 else (3, 40, 61)[number % 3]
        box = [2, 2, 22, 2, 22, 15, 2, 15]
        annotations.append(
            {"id": number, "image_id": number, "category_id": category, "segmentation": [box]}
        )
    categories = [{"id": i, "name": f"c{i}"} for i in range(80)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "coco.json").write_text(json.dumps(content))
    source = coco_file(tmp_path / "images", tmp_path / "coco.json")
    assert source.class_names == ("c3", "c7", "c40", "c61")
    prepare(source, tmp_path / "out", Choices(min_area=50))
    assert "left out: 76 categories without an annotation" in capsys.readouterr().out
    split = open_records(tmp_path / "out").split("train")
    lists = episode_lists(split, (1, 2, 3, 4), shot=1, min_area=50)
    assert lists.left_out == (2,)
    again = chosen_classes(source, Choices(min_images=1, min_area=50))
    assert again.class_names == ("c3", "c40", "c61") and len(again.folds) == 3
    (tmp_path / "folds.json").write_text('[["c3", "c7"], ["c40"], ["c61"]]')
    source = coco_file(
        tmp_path / "images", tmp_path / "coco.json", folds=str(tmp_path / "folds.json")
    )
    assert chosen_classes(source, Choices(classes=("c3", "c61"))).folds == (("c3",), ("c61",))


DAMAGE = (
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"junk"),
    lambda path: path.write_bytes(path.read_bytes()[:-200]),
    lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n"),
    lambda path: path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    lambda path: path.unlink(),
)


def test_of_good_and_bad_images_each_bad_one_is_a_line(tmp_path, capsys):
    folder = trees.folder_tree(tmp_path / "mine", train=40, val=20, size=(24, 32))
    bad = [f"train_{i:03d}" for i in range(0, 40, 2)] + [f"val_{i:03d}" for i in range(0, 20, 2)]
    for number, name in enumerate(bad):
        DAMAGE[number % len(DAMAGE)](folder / "JPEGImages" / f"{name}.jpg")
    with pytest.raises(BadImages, match="30 images cannot be used, nothing was written"):
        prepare(FolderSource(folder), tmp_path / "out", Choices())
    lines = capsys.readouterr().err.splitlines()
    assert [name for name in bad if sum(f" {name}: " in line for line in lines) == 1] == bad
    assert len(lines) == 30 and not (tmp_path / "out").exists()
    prepare(FolderSource(folder), tmp_path / "out", Choices(skip_bad=True))
    assert len(capsys.readouterr().err.splitlines()) == 30
    opened = open_records(tmp_path / "out")
    assert (len(opened.split("train")), len(opened.split("val"))) == (20, 10)
