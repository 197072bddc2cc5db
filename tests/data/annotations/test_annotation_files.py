"""Files of annotation tools as masks and as data sets: YOLO's, Label Studio's, CVAT's."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from apanet_jax.data.annotations.label_studio_files import decode_brush
from apanet_jax.data.annotations.masks import read_mask
from apanet_jax.data.annotations.outlines import BadOutline
from apanet_jax.data.images.reader import UprightImage
from apanet_jax.data.sources.annotated import coco_file
from apanet_jax.data.sources.source import SPLITS
from apanet_jax.data.sources.yolo import yolo
from apanet_jax.runtime.errors import UserError

HEIGHT, WIDTH = 40, 60
TRUTH = np.zeros((HEIGHT, WIDTH), np.uint8)
TRUTH[10:30, 15:45] = 1
SHARES = "0.25 0.25 0.75 0.25 0.75 0.75 0.25 0.75"
"""The truth's corners."""

STROKE = [
    *(0, 0, 0, 24, 57, 27, 252, 96, 19, 255, 219, 0, 0),
]
"""What label-studio-sdk 2.1.2 makes of two rows of three pixels, of which the second and third of
the first row are marked (its `mask2rle`)."""


def image(path, size=(HEIGHT, WIDTH)):
    return UprightImage(np.zeros((*size, 3), np.uint8), path)


def read(path, name=None, image_name="a.jpg"):
    said = []
    label = read_mask(path, image(path.parent / image_name), name, tell=said.append)
    return label, said


# YOLO


def labels(folder, *lines, names=None):
    (folder / "a.txt").write_text("\n".join(lines))
    if names:
        (folder / "data.yaml").write_text(json.dumps({"names": names}))
    return folder / "a.txt"


def test_yolos_polygons_are_a_mask(tmp_path):
    label, said = read(labels(tmp_path, f"0 {SHARES}", ""))
    np.testing.assert_array_equal(label, TRUTH)
    assert not said


def test_yolos_lines_of_one_class_are_joined(tmp_path):
    left = "0 0.25 0.25 0.5 0.25 0.5 0.75 0.25 0.75"
    right = "0 0.5 0.25 0.75 0.25 0.75 0.75 0.5 0.75"
    np.testing.assert_array_equal(read(labels(tmp_path, left, right))[0], TRUTH)


@pytest.mark.parametrize("names", [{0: "leaf", 7: "moth"}, None])
def test_yolos_class_is_chosen_by_number_or_name(tmp_path, names):
    lines = ["0 0 0 0.1 0 0.1 0.1", f"7 {SHARES}"]
    path = labels(tmp_path, *lines, names=names)
    with pytest.raises(UserError, match="holds the labels (leaf, moth|0, 7): which one"):
        read(path)
    np.testing.assert_array_equal(read(path.with_name("a.txt:7"))[0], TRUTH)
    chosen = "moth" if names else "7"
    np.testing.assert_array_equal(read(path.with_name(f"a.txt:{chosen}"))[0], TRUTH)
    np.testing.assert_array_equal(read(path, chosen)[0], TRUTH)


def test_yolos_names_are_found_above_and_in_classes_txt(tmp_path):
    folder = tmp_path / "labels" / "train"
    folder.mkdir(parents=True)
    path = labels(folder, f"1 {SHARES}", "0 0 0 0.1 0 0.1 0.1")
    (tmp_path / "classes.txt").write_text("leaf\nmoth\n")
    np.testing.assert_array_equal(read(path, "moth")[0], TRUTH)
    (tmp_path / "data.yaml").write_text("names: [moth, leaf]")
    np.testing.assert_array_equal(read(path, "leaf")[0], TRUTH)


def test_yolos_boxes_are_left_out_with_a_line(tmp_path):
    label, said = read(labels(tmp_path, "0 0.5 0.5 0.1 0.1", f"0 {SHARES}"))
    np.testing.assert_array_equal(label, TRUTH)
    assert len(said) == 1 and "left out: 1 boxes without an outline" in said[0]


# Label Studio


def task(*regions, name="/data/upload/3/0a1b2c3d-a.jpg", **more):
    result = [
        {"original_height": HEIGHT, "original_width": WIDTH, "image_rotation": 0, "value": value}
        for value in regions
    ]
    return {"data": {"image": name}, "annotations": [{"result": result}]} | more


PERCENT = [[25, 25], [75, 25], [75, 75], [25, 75]]


def exported(folder, *tasks):
    (folder / "export.json").write_text(json.dumps(tasks))
    return folder / "export.json"


def test_label_studios_polygons_are_a_mask(tmp_path):
    polygon = {"points": PERCENT, "polygonlabels": ["moth"]}
    box = {"x": 1, "y": 1, "width": 5, "height": 5, "rectanglelabels": ["moth"]}
    path = exported(tmp_path, task(polygon, box), task(polygon, name="/data/upload/3/0-b.jpg"))
    np.testing.assert_array_equal(read(path)[0], TRUTH)


@pytest.mark.parametrize(
    "name",
    [
        "/data/upload/3/0a1b2c3d-a_b.jpg",
        "/data/local-files/?d=trip%2Fa%20b.jpg",
        "s3://bucket/trip/a%20b.jpg",
        "https://example.org/a%20b.jpg?token=1",
    ],
)
def test_label_studios_names_lead_to_the_image(tmp_path, name):
    path = exported(tmp_path, task({"points": PERCENT, "polygonlabels": ["moth"]}, name=name))
    np.testing.assert_array_equal(read(path, image_name="a b.jpg")[0], TRUTH)


def test_label_studios_ellipse_is_opencvs(tmp_path):
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 20, "rotation": 30}
    path = exported(tmp_path, task(value | {"ellipselabels": ["moth"]}))
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(drawn, (WIDTH // 2, HEIGHT // 2), (15, 8), 30, 0, 360, 1, -1)
    label = read(path)[0]
    assert (label & drawn).sum() / (label | drawn).sum() > 0.9


def packed(mask, lengths=(3, 4, 8, 16), word=8):
    """A stroke as bytes: repeated values where there are many, and each by itself elsewhere."""
    values = np.zeros((*mask.shape, 4), np.uint8)
    values[..., 3] = mask * 255
    values = values.reshape(-1)
    bits = f"{len(values):032b}{word - 1:05b}" + "".join(f"{x - 1:04b}" for x in lengths)
    position = 0
    while position < len(values):
        run = values[position:]
        same = int(np.argmax(run != run[0])) if (run != run[0]).any() else len(run)
        count = min(same if same > 3 else min(4, len(run)), 2**16)
        kind = next(k for k, size in enumerate(lengths) if count <= 2**size)
        bits += f"{int(same > 3)}{kind:02b}{count - 1:0{lengths[kind]}b}"
        bits += "".join(f"{x:08b}" for x in (run[:1] if same > 3 else run[:count]))
        position += count
    bits += "0" * (-len(bits) % 8)
    return [int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)]


def test_label_studios_strokes_are_what_its_own_library_packs():
    np.testing.assert_array_equal(decode_brush(STROKE, 2, 3), [[0, 1, 1], [0, 0, 0]])
    rng = np.random.default_rng(0)
    for density in (0.05, 0.5, 1.0):
        mask = rng.random((11, 17)) < density
        np.testing.assert_array_equal(decode_brush(packed(mask), 11, 17), mask)


def test_label_studios_strokes_are_a_mask(tmp_path):
    value = {"format": "rle", "rle": packed(TRUTH), "brushlabels": ["moth"]}
    np.testing.assert_array_equal(read(exported(tmp_path, task(value)))[0], TRUTH)


@pytest.mark.parametrize(
    ("stroke", "says"),
    [
        (STROKE[:9], "cut short"),
        (STROKE[:2], "cut short"),
        ([], "cut short"),
        ([300], "no list of bytes"),
        ("abc", "no list of bytes"),
        ([255] * 40, "does not make up its image"),
    ],
)
def test_a_damaged_stroke_is_refused(stroke, says):
    with pytest.raises(BadOutline, match=says):
        decode_brush(stroke, 2, 3)


# CVAT

MASK_RLE = "0, 30, 30, 540"
POLYGON = '<polygon label="moth" points="15,10;45,10;45,30;15,30" occluded="0" z_order="0"/>'
MASK = f'<mask label="moth" rle="{MASK_RLE}" left="15" top="10" width="30" height="20"/>'


def cvat(folder, *shapes, before="", root="annotations", name="trip/a.jpg"):
    (folder / "cvat.xml").write_text(
        f'<?xml version="1.0"?>{before}<{root}><version>1.1</version><image id="0" name="{name}" '
        f'width="{WIDTH}" height="{HEIGHT}">{"".join(shapes)}</image></{root}>'
    )
    return folder / "cvat.xml"


def test_cvats_shapes_are_a_mask(tmp_path):
    box = '<box label="moth" xtl="1" ytl="1" xbr="9" ybr="9"/>'
    np.testing.assert_array_equal(read(cvat(tmp_path, POLYGON, box))[0], TRUTH)
    expected = TRUTH.copy()
    expected[11, 15:45] = 0
    np.testing.assert_array_equal(read(cvat(tmp_path, MASK))[0], expected)
    drawn = np.zeros((HEIGHT, WIDTH), np.uint8)
    cv2.ellipse(drawn, (30, 20), (15, 8), 30, 0, 360, 1, -1)
    ellipse = '<ellipse label="moth" cx="30" cy="20" rx="15" ry="8" rotation="30"/>'
    label = read(cvat(tmp_path, ellipse))[0]
    assert (label & drawn).sum() / (label | drawn).sum() > 0.9


# What cannot be used: one line each.

BAD_YOLO = {
    "words": ("moth 1 2 3 4 5 6", "line 1 is no label of YOLO's"),
    "few numbers": ("0 0.1 0.2", "line 1 is no label of YOLO's"),
    "odd numbers": (f"0 {SHARES} 0.5", "line 1 has 9 coordinates"),
    "not a number": ("0 nan 0 0 0 0 0", "line 1 is no label of YOLO's"),
    "pixels": ("0 400 300 500 300 500 400", "expected coordinates as shares of the image"),
    "boxes alone": ("0 0.5 0.5 0.1 0.1", "has no outline for this image"),
    "empty": ("", "has no outline for this image"),
}


@pytest.mark.parametrize("name", BAD_YOLO)
def test_bad_labels_of_yolo(tmp_path, name):
    line, says = BAD_YOLO[name]
    with pytest.raises(UserError, match=says):
        read(labels(tmp_path, line))


def test_bad_names_of_yolo(tmp_path):
    path = labels(tmp_path, f"0 {SHARES}")
    for text in ("names: [", "names: 5", "- {a", "names: {x: y}"):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(UserError, match="data.yaml cannot be understood"):
            read(path)
    (tmp_path / "data.yaml").unlink()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no text"):
        read(path)


def test_bad_exports_of_label_studio(tmp_path):
    polygon = {"points": PERCENT, "polygonlabels": ["moth"]}
    turned = task(polygon)
    turned["annotations"][0]["result"][0]["image_rotation"] = 90
    cancelled = task(polygon)
    cancelled["annotations"][0]["was_cancelled"] = True
    for tasks, says in (
        ([{"image": "a.jpg", "tag": []}], "not as JSON-MIN"),
        ([turned], "rotated in Label Studio"),
        ([cancelled], "has 0 images called"),
        ([task({"points": PERCENT[:1], "polygonlabels": ["moth"]})], None),
        ([task({"points": "x", "polygonlabels": ["moth"]})], "cannot be understood"),
        ([task({"rle": [1, 2], "brushlabels": ["moth"]})], "cut short"),
        ([5], "cannot be understood"),
        ([], "has 0 images called"),
        ([task(polygon, name="/data/upload/3/0a1b2c3d-other.jpg")], "has 0 images called"),
    ):
        path = exported(tmp_path, *tasks)
        if says is None:
            assert not read(path)[0].any()
            continue
        with pytest.raises(UserError, match=says):
            read(path)


def test_bad_xml_of_cvat(tmp_path):
    entity = '<!DOCTYPE a [<!ENTITY b "c">]>'
    short = MASK.replace("540", "5")
    huge = MASK.replace('width="30"', 'width="3000000000"')
    for arguments, says in (
        ({"shapes": [POLYGON], "before": entity}, "defines entities"),
        ({"shapes": [POLYGON], "root": "annotation"}, "none of CVAT's XML"),
        ({"shapes": ['<track id="0"/>'], "name": "a.jpg"}, None),
        ({"shapes": [short]}, "do not make up its box"),
        ({"shapes": [huge]}, "do not make up its box"),
        ({"shapes": [POLYGON.replace("45,30", "x,30")]}, "cannot be understood"),
        ({"shapes": ['<polygon points="1,1"/>']}, "'label' is missing"),
        ({"shapes": []}, "has 0 images called"),
    ):
        path = cvat(tmp_path, *arguments.pop("shapes"), **arguments)
        with pytest.raises(UserError, match=says):
            read(path)
    path = tmp_path / "cvat.xml"
    for text, says in (
        ("<annotations>", "cut short or no XML"),
        ("<annotations><track/></annotations>", "is of a video"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=says):
            read(path)


# As data sets.


def photographs(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)


def maps(source):
    return {
        name: source.read(split, name).label for split in SPLITS for name in source.names(split)
    }


def test_yolos_folders_are_a_data_set(tmp_path):
    photographs(tmp_path, *(f"images/train/{n}.png" for n in "abcd"), "images/train/none.png")
    photographs(tmp_path, "images/val/e.png")
    (tmp_path / "data.yaml").write_text("names:\n  0: leaf\n  1: moth\n  2: never\n")
    for name in ("train/a", "train/b", "train/c", "train/d", "val/e"):
        path = tmp_path / "labels" / f"{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"1 {SHARES}\n0 0 0 0.1 0 0.1 0.1 0 0.1\n0 0.5 0.5 0.1 0.1\n")
    source = yolo(tmp_path, folds="2")
    assert source.class_names == ("leaf", "moth")
    assert source.notes == ["left out: 5 boxes without an outline, 1 images without labels"]
    found = maps(source)
    assert sorted(found) == [*(f"images/train/{n}" for n in "abcd"), "images/val/e"]
    expected = TRUTH * np.uint8(2)
    expected[:4, :6] = 1
    for label in found.values():
        np.testing.assert_array_equal(label, expected)
    with pytest.raises(UserError, match="holds no image with YOLO's labels"):
        yolo(tmp_path / "labels")


def test_exports_of_all_images_are_a_data_set(tmp_path):
    photographs(tmp_path, "a.jpg", "b.jpg")
    corner = [[0, 0], [10, 0], [10, 10], [0, 10]]
    regions = [
        {"points": PERCENT, "polygonlabels": ["moth"]},
        {"points": corner, "polygonlabels": ["leaf"]},
    ]
    tasks = [task(*regions, name=f"/data/upload/1/0a1b2c3d-{n}.jpg") for n in "ab"]
    expected = TRUTH * np.uint8(2)
    expected[:4, :6] = 1
    shape = '<polygon label="leaf" points="0,0;6,0;6,4;0,4"/>'
    for path in (
        exported(tmp_path, *tasks, task(name="/data/upload/1/0a1b2c3d-c.jpg")),
        cvat(tmp_path, POLYGON, shape, name="a.jpg"),
    ):
        source = coco_file(tmp_path, path, folds="2")
        assert source.class_names == ("leaf", "moth")
        for label in maps(source).values():
            np.testing.assert_array_equal(label, expected)
    assert "images without an outline" in coco_file(tmp_path, tmp_path / "export.json").notes[0]
