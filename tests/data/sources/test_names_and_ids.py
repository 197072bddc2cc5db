"""Names and ids of annotation files that tools write in several ways, and those that collide."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from apanet_jax.data.annotations.masks import read_mask
from apanet_jax.data.annotations.outline_files import coco_outlines
from apanet_jax.data.annotations.outlines import segmentation_mask, shape_mask
from apanet_jax.data.images.reader import UprightImage
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.annotated import coco_file, labelme
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.runtime.errors import UserError
from tests import trees

HEIGHT, WIDTH = 40, 60
LARGE, SMALL = [5, 5, 50, 5, 50, 35, 5, 35], [10, 10, 20, 10, 20, 20, 10, 20]
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "käfer") for form in ("NFC", "NFD"))


def coco(annotations, images=None, categories=None):
    images = images or [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}]
    categories = categories or [{"id": 1, "name": "x"}, {"id": 2, "name": "y"}]
    return {"images": images, "categories": categories, "annotations": annotations}


def annotation(number=1, outline=LARGE, **more):
    given = {"id": number, "image_id": 1, "category_id": number, "segmentation": [outline]}
    return given | more


@pytest.mark.parametrize("form", [str, float, lambda number: f" {number} "])
def test_ids_are_the_same_as_numbers_and_as_text(form):
    """They were counted as annotations of no image, and of no category."""
    annotations = [annotation(n, category_id=form(n), image_id=form(1)) for n in (1, 2)]
    file = coco_outlines(coco(annotations))
    assert [x.label for x in file.images[0].outlines] == ["x", "y"] and not file.left_out
    file = coco_outlines(
        coco(
            [annotation(1), annotation(2)],
            [{"id": form(1), "file_name": "a.jpg"}],
            [{"id": form(1), "name": "x"}, {"id": form(2), "name": "y"}],
        )
    )
    assert [x.label for x in file.images[0].outlines] == ["x", "y"] and not file.left_out


def test_ids_of_words_and_numbers_may_be_mixed():
    annotations = [annotation(1, category_id="ball"), annotation(2)]
    categories = [{"id": "ball", "name": "x"}, {"id": 2, "name": "y"}]
    assert coco_outlines(coco(annotations, None, categories)).class_names == ["y", "x"]


@pytest.mark.parametrize("crowd", [0, 1, False, True, "0", "1", None, 0.0, 1.0])
def test_iscrowd_may_be_text(crowd):
    """The text "0" was a crowd."""
    file = coco_outlines(coco([annotation(iscrowd=crowd), annotation(2)]))
    assert file.images[0].outlines[0].crowd == (str(crowd) in ("1", "True", "1.0"))


@pytest.mark.parametrize(
    ("images", "categories", "says"),
    [
        ([{"id": 1, "file_name": "a.jpg"}, {"id": "1", "file_name": "b.jpg"}], None, "images have"),
        (None, [{"id": 1, "name": "x"}, {"id": 1, "name": "z"}], "two of its categories have the"),
        (None, [{"id": 1, "name": None}, {"id": 2, "name": "y"}], "category 1 has a label without"),
        (None, [{"id": 1, "name": " "}, {"id": 2, "name": "y"}], "category 1 has a label without"),
        (None, [{"id": 1, "name": COMPOSED}, {"id": 2, "name": DECOMPOSED}], "two categories that"),
    ],
)
def test_what_cannot_be_told_apart_is_refused(images, categories, says):
    """The last of two won without a word, and a name that is missing became the class None."""
    with pytest.raises(ValueError, match=says):
        coco_outlines(coco([annotation(1), annotation(2)], images, categories))


def labelme_file(path, *shapes):
    given = [
        {"label": label, "shape_type": "polygon", "points": np.reshape(outline, (-1, 2)).tolist()}
        for label, outline in shapes
    ]
    path.write_text(json.dumps({"shapes": given, "imagePath": "a.jpg"}))
    return path


@pytest.mark.parametrize("stored", [COMPOSED, DECOMPOSED, f" {COMPOSED} "])
def test_labels_are_the_same_in_either_form_of_unicode(tmp_path, stored):
    image = UprightImage(np.zeros((HEIGHT, WIDTH, 3), np.uint8), tmp_path / "a.jpg")
    path = labelme_file(tmp_path / "a.json", (stored, LARGE), ("other", SMALL))
    for chosen, name in ((f":{COMPOSED}", None), (f":{DECOMPOSED}", None), ("", DECOMPOSED)):
        mask = read_mask(path.with_name(f"a.json{chosen}"), image, name)
        assert mask.sum() == 45 * 30
    one = labelme_file(tmp_path / "one.json", (stored, LARGE), (DECOMPOSED, SMALL))
    assert read_mask(one, image).sum() == 45 * 30
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "a.jpg")
    assert labelme(tmp_path).class_names == (COMPOSED, "other")


def test_a_label_without_a_name_names_its_shape(tmp_path):
    image = UprightImage(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    path = labelme_file(tmp_path / "a.json", ("x", LARGE), (None, SMALL))
    with pytest.raises(UserError, match="shape 2 has a label without a name"):
        read_mask(path, image, "x")


@pytest.mark.parametrize("size", [40, "40", [40], [[40, 60]], {"height": 40}, None, [60, 40]])
def test_a_size_of_run_lengths_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match="do not make up its image"):
        segmentation_mask({"size": size, "counts": [HEIGHT * WIDTH]}, HEIGHT, WIDTH)


@pytest.mark.parametrize("polygon", [{"x": 1}, ["a"] * 6, "abcdef", [[1, 2], [3]], 5, None])
def test_a_polygon_without_numbers_says_what_was_expected(polygon):
    with pytest.raises(ValueError, match="no list of x, y"):
        segmentation_mask([polygon], HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("mask", "points", "says"),
    [
        (None, [[0, 0], [9, 9]], "no image in base64"),
        (5, [[0, 0], [9, 9]], "no image in base64"),
        ("ü", [[0, 0], [9, 9]], "no image in base64"),
        ("", [[float("nan"), 0], [9, 9]], "no list of"),
        ("", [[float("inf"), 0], [9, 9]], "no list of"),
        ("", [{"x": 1}], "no list of"),
    ],
)
def test_a_patch_that_is_none_says_what_was_expected(mask, points, says):
    with pytest.raises(ValueError, match=says):
        shape_mask({"shape_type": "mask", "points": points, "mask": mask}, HEIGHT, WIDTH)


def test_names_in_a_list_file_may_have_spaces(tmp_path):
    """They were split there, and the parts missed."""
    tree = trees.folder_tree(tmp_path / "tree", train=4, val=4)
    for file in [*tree.glob("*/val_*"), *tree.glob("*/train_*")]:
        file.rename(file.with_name(file.name.replace("_0", " käfer 0")))
    for file in tree.glob("ImageSets/*/*.txt"):
        file.write_text(f" {file.read_text()}\n".replace("_0", " käfer 0").replace("\n", "\r\n"))
    source = FolderSource(tree)
    assert source.names("train") == [f"train käfer 0{n:02d}" for n in range(4)]
    assert all(source.read("val", name).name == name for name in source.names("val"))
    write_records(source, tmp_path / "records", min_area=1)
    assert open_records(tmp_path / "records").split("train").names[0] == "train käfer 000"


def test_a_list_of_tests_may_have_spaces(tmp_path):
    for name in ("a b", "c d", "e"):
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{name}.jpg")
        path = labelme_file(tmp_path / f"{name}.json", ("x", LARGE), ("y", SMALL))
        path.write_text(path.read_text().replace("a.jpg", f"{name}.jpg"))
    (tmp_path / "test.txt").write_text("c d\n")
    assert labelme(tmp_path, test=str(tmp_path / "test.txt")).names("val") == ["c d"]


def test_names_that_differ_by_case_are_two_images_unless_they_are_one_file(tmp_path):
    images = [{"id": n, "file_name": f"{x}.jpg"} for n, x in ((1, "a"), (2, "A"), (3, "b"))]
    outlines = [annotation(1), annotation(2, image_id=2), annotation(3, image_id=3, category_id=1)]
    file = tmp_path / "all.json"
    file.write_text(json.dumps(coco(outlines, images)))
    for name in "ab":
        Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / f"{name}.jpg")
    # As a disk without case has it.
    os.link(tmp_path / "a.jpg", tmp_path / "A.jpg")
    with pytest.raises(UserError, match="the images a and A are one file"):
        coco_file(tmp_path, file)
    (tmp_path / "A.jpg").unlink()
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "A.jpg")
    source = coco_file(tmp_path, file)
    assert sorted(source.names("train") + source.names("val")) == ["A", "a", "b"]
