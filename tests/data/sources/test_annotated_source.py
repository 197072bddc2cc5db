"""LabelMe's files and COCO's format become the label maps that they outline."""

import base64
import io
import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from apanet_jax.data.records.writing import BadImages, write_records
from apanet_jax.data.sources.annotated import coco_file, labelme
from apanet_jax.runtime.errors import UserError
from tests import trees

HEIGHT, WIDTH = 40, 60
# left, top, right, bottom: the leaf lies on the beetle, and is given first.
THINGS = [("leaf", (10, 12, 20, 22)), ("beetle", (5, 5, 45, 35)), ("moth", (50, 2, 58, 30))]


def expected(names=("beetle", "leaf", "moth")):
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name in ("beetle", "leaf", "moth"):
        left, top, right, bottom = dict(THINGS)[name]
        label[top:bottom, left:right] = names.index(name) + 1
    return label


def shape(label, box, kind="rectangle"):
    left, top, right, bottom = box
    points = [[left, top], [right, bottom]]
    if kind == "polygon":
        points = [[left, top], [right, top], [right, bottom], [left, bottom]]
    return {"label": label, "points": points, "shape_type": kind}


def write_picture(path, size=(HEIGHT, WIDTH), **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(path, **how)


def write_labelme(root, name, shapes, **fields):
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    path.write_text(json.dumps(content | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | fields))
    return path


@pytest.fixture
def labelled(tmp_path):
    """Eight pictures in two folders, all with the same things."""
    for number in range(8):
        name = f"{'ab'[number % 2]}/{number}"
        write_picture(tmp_path / "mine" / f"{name}.jpg")
        kind = "polygon" if number % 3 else "rectangle"
        write_labelme(tmp_path / "mine", name, [shape(*thing, kind) for thing in THINGS])
    return tmp_path / "mine"


def test_labelme_files_are_label_maps_with_the_smaller_thing_on_top(labelled):
    source = labelme(labelled, folds="2")
    assert source.name == "mine" and source.class_names == ("beetle", "leaf", "moth")
    assert source.folds == (("beetle", "moth"), ("leaf",))
    assert source.names("val") == ["a/6", "b/7"]
    assert source.names("train") == ["a/0", "a/2", "a/4", "b/1", "b/3", "b/5"]
    for split in ("train", "val"):
        for name in source.names(split):
            sample = source.read(split, name)
            np.testing.assert_array_equal(sample.label, expected())
            assert sample.image == (labelled / f"{name}.jpg").read_bytes()


def test_labelme_masks_and_its_words_for_ignore_and_background(labelled):
    patch = np.zeros((6, 7), bool)
    patch[1:4, 2:6] = True
    encoded = io.BytesIO()
    Image.fromarray(patch).save(encoded, "PNG")
    drawn = {
        "label": "moth",
        "shape_type": "mask",
        "points": [[30, 20], [36, 25]],
        "mask": base64.b64encode(encoded.getvalue()).decode(),
    }
    shapes = [
        shape("beetle", (0, 0, 20, 20)),
        shape("__ignore__", (2, 2, 8, 8)),
        shape("_background_", (10, 10, 14, 14)),
        drawn,
    ]
    write_labelme(labelled, "a/0", shapes, imageHeight=None, imageWidth=None)
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    label[:20, :20] = 1
    label[2:8, 2:8] = 255
    label[10:14, 10:14] = 0
    label[21:24, 32:36] = 3
    np.testing.assert_array_equal(labelme(labelled).read("train", "a/0").label, label)


def test_an_imagepath_of_windows_in_another_folder_is_found(labelled):
    write_picture(labelled / "pictures" / "x.png")
    write_labelme(labelled, "a/0", [shape(*THINGS[2])], imagePath="..\\pictures\\x.png")
    sample = labelme(labelled).read("train", "a/0")
    assert sample.image == (labelled / "pictures" / "x.png").read_bytes()


@pytest.mark.parametrize("lying", [False, True])
def test_outlines_of_a_turned_photograph_may_be_upright_or_as_it_lies(labelled, lying):
    exif = Image.Exif()
    exif[0x0112] = 6  # upright after a quarter turn clockwise
    write_picture(labelled / "a" / "0.jpg", exif=exif)
    size = {"imageHeight": HEIGHT, "imageWidth": WIDTH}
    box, upright = (50, 2, 58, 30), np.zeros((WIDTH, HEIGHT), np.uint8)
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[2:30, 50:58] = 3
    upright = np.rot90(stored, -1)
    if not lying:
        size = {"imageHeight": WIDTH, "imageWidth": HEIGHT}
        rows, columns = np.nonzero(upright)
        box = tuple(map(int, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)))
    write_labelme(labelled, "a/0", [shape("moth", box)], **size)
    np.testing.assert_array_equal(labelme(labelled).read("train", "a/0").label, upright)


def test_folds_and_tests_may_be_files(labelled, tmp_path):
    (tmp_path / "folds.json").write_text('[["moth"], ["leaf"]]')
    (tmp_path / "test.txt").write_text("b/1\na/4\n")
    chosen = {"folds": str(tmp_path / "folds.json"), "test": str(tmp_path / "test.txt")}
    source = labelme(labelled, **chosen)
    assert source.folds == (("moth",), ("leaf",)) and source.names("val") == ["a/4", "b/1"]
    (tmp_path / "test.txt").write_text("b/9\n")
    with pytest.raises(UserError, match="'b/9', of which there is no outlined image"):
        labelme(labelled, **chosen)


BROKEN_FILES = {
    "cut short": (lambda path: path.write_text('{"shapes": ['), "cut short or no JSON"),
    "no picture": (lambda path: path.with_suffix(".jpg").unlink(), "0.jpg cannot be read"),
    "another size": (
        lambda path: write_picture(path.with_suffix(".jpg"), (20, 20)),
        "20x20 pixels, and 60x40 by its outlines",
    ),
    "a line": (
        lambda path: path.write_text(
            json.dumps({"shapes": [shape("leaf", (1, 2, 3, 4), kind="line")]})
        ),
        "'line' with 2 points encloses nothing",
    ),
    "no points": (
        lambda path: path.write_text('{"shapes": [{"label": "leaf"}]}'),
        "'points' is missing",
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_a_broken_file_is_named_when_its_picture_is_read(labelled, case):
    break_, says = BROKEN_FILES[case]
    break_(labelled / "a" / "0.json")
    source = labelme(labelled)
    with pytest.raises(UserError, match=says) as refused:
        source.read("train", "a/0")
    assert "0.j" in str(refused.value)
    np.testing.assert_array_equal(source.read("train", "a/2").label, expected())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"folds": "1"}, "--folds=1"),
        ({"test": "1"}, "--test=1"),
        ({"folds": "nowhere.json"}, "nowhere.json is missing"),
        ({"test": "nowhere.txt"}, "nowhere.txt cannot be read"),
    ],
)
def test_folds_and_tests_that_make_no_sense_are_refused(labelled, options, says):
    with pytest.raises(UserError, match=says):
        labelme(labelled, **options)


def test_folders_without_outlines_and_with_one_class_are_refused(tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        labelme(tmp_path / "nowhere")
    (tmp_path / "folds.json").write_text("[]")
    with pytest.raises(UserError, match="holds no JSON of LabelMe"):
        labelme(tmp_path)
    write_labelme(tmp_path, "a", [shape(*THINGS[0])])
    with pytest.raises(UserError, match="has 1 classes, expected 2"):
        labelme(tmp_path)


def coco(root, names=("moth", "beetle", "leaf"), **changes):
    """A file of four pictures and one without annotation; categories are not in order."""
    categories = [{"id": 10 * i, "name": name} for i, name in enumerate(names, 1)]
    images, annotations = [], []
    for number in range(5):
        images.append(
            {"id": number, "file_name": f"in/{number}.jpg", "height": HEIGHT, "width": WIDTH}
        )
        write_picture(root / "pictures" / "in" / f"{number}.jpg")
        for name, (left, top, right, bottom) in THINGS if number < 4 else ():
            polygon = [left, top, right, top, right, bottom, left, bottom]
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": 10 * (names.index(name) + 1),
                    "segmentation": [polygon],
                }
            )
    content = {"images": images, "annotations": annotations, "categories": categories[::-1]}
    (root / "mine.json").write_text(json.dumps(content | changes))
    return content


def test_a_coco_file_is_label_maps_with_classes_in_the_order_of_their_ids(tmp_path):
    content = coco(tmp_path)
    crowd = np.zeros((HEIGHT, WIDTH), bool)
    crowd[30:40, 30:60] = True
    content["annotations"].append(
        {
            "id": 99,
            "image_id": 0,
            "category_id": 10,
            "iscrowd": 1,
            "segmentation": {"size": [HEIGHT, WIDTH], "counts": trees.run_lengths(crowd)},
        }
    )
    (tmp_path / "mine.json").write_text(json.dumps(content))
    source = coco_file(tmp_path / "pictures", tmp_path / "mine.json", test="2")
    assert source.name == "mine" and source.class_names == ("moth", "beetle", "leaf")
    assert source.folds == (("moth",), ("beetle",), ("leaf",))
    assert source.names("train") == ["in/0", "in/2"] and source.names("val") == ["in/1", "in/3"]
    label = expected(source.class_names)
    np.testing.assert_array_equal(source.read("val", "in/1").label, label)
    with_crowd = np.where((label == 0) & crowd, 255, label)
    np.testing.assert_array_equal(source.read("train", "in/0").label, with_crowd)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"images": 3}, "not built like COCO's"),
        ({"categories": [{"id": 10}]}, "'name' is missing"),
        ({"categories": [{"id": 10, "name": "a"}, {"id": 20, "name": "a"}]}, "called 'a'"),
        ({"images": [{"id": 0, "height": 4, "width": 4}]}, "'file_name' is missing"),
        ({"images": [{"id": 0, "file_name": "a.jpg", "height": 4.5, "width": 4}]}, "4.5 is no"),
        ({"annotations": [{"image_id": 0}]}, "'category_id' is missing"),
        (
            {"annotations": [], "images": [{"id": 0, "file_name": "..", "height": 4, "width": 4}]},
            "names no file",
        ),
    ],
)
def test_a_coco_file_that_makes_no_sense_is_refused(tmp_path, changes, says):
    coco(tmp_path, **changes)
    with pytest.raises(UserError, match=says) as refused:
        coco_file(tmp_path / "pictures", tmp_path / "mine.json")
    assert "mine.json" in str(refused.value)


def test_a_bad_outline_of_a_coco_file_is_told_with_its_number(tmp_path):
    content = coco(tmp_path)
    content["annotations"][0]["segmentation"] = [[1, 2, 3]]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    source = coco_file(tmp_path / "pictures", tmp_path / "mine.json")
    with pytest.raises(UserError, match="mine.json cannot be understood: annotation 0"):
        source.read("train", "in/0")


def edited(tmp_path, change):
    content = coco(tmp_path)
    change(content)
    (tmp_path / "mine.json").write_text(json.dumps(content))
    return coco_file(tmp_path / "pictures", tmp_path / "mine.json")


def test_what_says_nothing_of_pixels_is_left_out_and_counted(tmp_path):
    def change(content):
        content["annotations"] += [
            {"id": 90, "image_id": 0, "category_id": 10, "segmentation": []},
            {"id": 91, "image_id": 0, "category_id": 10},
            {"id": 92, "image_id": 99, "category_id": 10, "segmentation": [[1, 1, 9, 1, 9, 9]]},
        ]
        content["categories"].append({"id": 0, "name": "moth", "supercategory": "none"})
        content["images"][0] |= {"height": float(HEIGHT), "width": float(WIDTH)}

    source = edited(tmp_path, change)
    assert source.class_names == ("moth", "beetle", "leaf")
    np.testing.assert_array_equal(source.read("train", "in/0").label, expected(source.class_names))
    assert source.notes == [
        "left out: 1 annotations of no image, 2 boxes without an outline, 1 categories without an "
        "annotation, 1 images without an outline"
    ]


@pytest.mark.parametrize(
    "file_name",
    ["in\\{}.jpg", "..\\..\\media\\upload\\4\\{}.jpg", "../label/{}.jpg", "/data/{}.jpg", "{}.jpg"],
)
def test_file_names_from_elsewhere_lead_to_the_one_file_of_that_name(tmp_path, file_name):
    def change(content):
        for image in content["images"]:
            image["file_name"] = file_name.format(image["id"])

    source = edited(tmp_path, change)
    names = source.names("train")
    assert [name.rpartition("/")[2] for name in names] == ["0", "1", "2"]
    sample = source.read("train", names[1])
    assert sample.image == (tmp_path / "pictures" / "in" / "1.jpg").read_bytes()


def test_a_file_name_never_leads_out_of_the_folder(tmp_path):
    write_picture(tmp_path / "secret.jpg")

    def change(content):
        content["images"][0]["file_name"] = "../secret.jpg"

    source = edited(tmp_path, change)
    with pytest.raises(UserError, match="pictures/secret.jpg cannot be read"):
        source.read("train", "secret")


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
def test_names_in_another_form_of_unicode_are_found(tmp_path, stored):
    written = {"NFC": "NFD", "NFD": "NFC"}[stored]
    on_disk, in_file = (unicodedata.normalize(form, "käfer") for form in (stored, written))

    def change(content):
        content["images"][0]["file_name"] = f"in/{in_file}.jpg"

    coco(tmp_path)
    (tmp_path / "pictures" / "in" / f"{on_disk}.jpg").write_bytes(
        (tmp_path / "pictures" / "in" / "0.jpg").read_bytes()
    )
    source = edited(tmp_path, change)
    assert source.read("train", f"in/{in_file}").label.any()
    write_picture(tmp_path / "mine" / f"{on_disk}.jpg")
    for name, thing in (("a", THINGS[0]), ("b", THINGS[1])):
        write_labelme(tmp_path / "mine", name, [shape(*thing)], imagePath=f"{in_file}.jpg")
    assert labelme(tmp_path / "mine").read("train", "a").label.any()


def test_a_file_of_crowds_alone_says_what_to_do(tmp_path):
    content = coco(tmp_path)
    for annotation in content["annotations"]:
        annotation["iscrowd"] = 1
    (tmp_path / "mine.json").write_text(json.dumps(content))
    arguments = tmp_path / "pictures", tmp_path / "mine.json"
    with pytest.raises(UserError, match=r"all of its \d+ outlines as crowds .* --crowd=class"):
        coco_file(*arguments)
    source = coco_file(*arguments, crowd="class")
    np.testing.assert_array_equal(source.read("train", "in/0").label, expected(source.class_names))
    content["annotations"][0]["iscrowd"] = 0
    (tmp_path / "mine.json").write_text(json.dumps(content))
    assert "crowds, ignored as 255" in coco_file(*arguments).notes[0]


def test_what_jupyter_and_macos_leave_behind_is_no_data(labelled):
    (labelled / "a" / "._0.json").write_bytes(b"\0\5\x16\7xx")
    (labelled / "a" / "._0.jpg").write_bytes(b"\0\5\x16\7xx")
    write_labelme(labelled / ".ipynb_checkpoints", "0-checkpoint", [shape("fly", (1, 1, 9, 9))])
    write_labelme(labelled / "__MACOSX", "x", [shape("fly", (1, 1, 9, 9))])
    (labelled / "notes.json").write_text("{}")
    write_picture(labelled / "b" / "unlabelled.jpg")
    source = labelme(labelled)
    assert source.class_names == ("beetle", "leaf", "moth")
    assert sorted(source.names("train") + source.names("val"))[0] == "a/0"
    assert len(source.names("train") + source.names("val")) == 8
    assert source.notes == ["left out: 1 JSON files of another kind, 1 images without a JSON file"]


def test_linked_folders_of_labelme_are_followed(labelled, tmp_path):
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "all").symlink_to(labelled)
    assert len(labelme(tmp_path / "linked").names("train")) == 6


def test_outlines_that_would_fit_a_turned_image_either_way_are_counted(labelled, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    write_picture(labelled / "a" / "0.jpg", exif=exif)
    report = write_records(labelme(labelled), tmp_path / "records")
    assert report.notes == [
        "1 images are turned by EXIF, with masks that fit either way: taken as upright"
    ]


def test_a_file_name_that_is_not_utf8_is_a_bad_image(labelled, tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write_picture(labelled / f"{name}.jpg")
    write_labelme(labelled, name, [shape(*THINGS[0])])
    with pytest.raises(BadImages) as refused:
        write_records(labelme(labelled), tmp_path / "records")
    (line,) = refused.value.report.bad
    assert "caf\\udce9 is not UTF-8: rename the file" in line
    report = write_records(labelme(labelled), tmp_path / "records", skip_bad=True)
    assert sum(report.pictures.values()) == 8
