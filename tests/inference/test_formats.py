"""Masks as annotations, against the tools' own rules: pycocotools, Pillow, OpenCV, SciPy."""

import base64
import csv
import io
import json

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image, ImageDraw
from pycocotools.coco import COCO
from scipy import ndimage

from apanet_jax.data.annotations.masks import read_mask
from apanet_jax.data.annotations.outlines import segmentation_mask
from apanet_jax.data.images.reader import UprightImage
from apanet_jax.inference.files.formats.coco import CocoFileWriter
from apanet_jax.inference.files.formats.instance_table import InstanceTable
from apanet_jax.inference.files.formats.instances import AnnotatedImage, Instance, instances
from apanet_jax.inference.files.formats.labelme import labelme_file
from apanet_jax.inference.files.formats.polygons import close_polygon, joined, rings
from apanet_jax.inference.files.formats.yolo import yolo_data, yolo_labels

SQUARE = np.ones((3, 3), bool)
NAMES = ["beetle", 'leaf: a: "big" one']
small_masks = arrays.arrays(bool, st.tuples(st.integers(1, 14), st.integers(1, 14)))


def found_in(labels, scores=(1.0, 0.5)):
    levels = np.full(labels.shape, 255, np.uint8)
    return instances(labels.astype(np.uint8), scores, lambda _: levels)


def annotated(labels, name="a.png"):
    return AnnotatedImage(name, labels.shape, found_in(labels))


def blobs(seed=0, size=(60, 90)):
    """Two classes of round parts, with holes, a thin line and a single pixel."""
    labels = np.zeros(size, np.uint8)
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(size), 4)
    labels[noise > np.quantile(noise, 0.7)] = 1
    labels[noise < np.quantile(noise, 0.15)] = 2
    cv2.circle(labels, (20, 20), 12, 2, -1)
    cv2.circle(labels, (20, 20), 6, 0, -1)
    labels[50, 2:80] = 1
    labels[57, 85] = 2
    return labels


def far(drawn, mask, added=1):
    """How many pixels are lost farther than a pixel from what is drawn, or added farther than so.

    Tools for which whole numbers are pixels, not the corners of them, add one more.
    """
    near = ndimage.binary_dilation(mask, SQUARE, iterations=added)
    return int(((drawn & ~near) | (mask & ~ndimage.binary_dilation(drawn, SQUARE))).sum())


@given(small_masks)
@settings(max_examples=60, deadline=None)
def test_instances_are_scipys_parts(mask):
    parts, count = ndimage.label(mask, SQUARE)
    found = found_in(mask)
    assert len(found) == count
    joined_again = np.zeros(mask.shape, int)
    for number, x in enumerate(found, 1):
        full = x.full_mask(mask.shape)
        assert full.sum() == x.area and not joined_again[full].any()
        rows, columns = np.nonzero(full)
        assert (x.top, x.left) == (rows.min(), columns.min())
        assert (x.height, x.width) == (np.ptp(rows) + 1, np.ptp(columns) + 1)
        assert len(np.unique(parts[full])) == 1
        joined_again[full] = number
    np.testing.assert_array_equal(joined_again > 0, mask)


def test_an_instances_score_is_the_images_times_the_mean_of_its_pixels():
    labels = np.zeros((4, 6), np.uint8)
    labels[0, :2], labels[3, 4:] = 1, 2
    levels = [np.full((4, 6), 255, np.uint8), np.full((4, 6), 102, np.uint8)]
    levels[0][0, 1] = 51
    found = instances(labels, [0.5, 0.9], levels.__getitem__)
    assert [(x.class_index, x.score) for x in found] == [(0, 0.3), (1, 0.36)]


@given(small_masks)
@settings(max_examples=100, deadline=None)
def test_an_outline_with_every_corner_draws_the_very_mask(mask):
    for x in found_in(mask):
        polygon = joined(*rings(x.mask))
        drawn = segmentation_mask([polygon.reshape(-1).tolist()], *x.mask.shape)
        np.testing.assert_array_equal(drawn, x.mask)


def test_an_outline_has_no_corner_on_a_straight_edge():
    outer, holes = rings(np.pad(np.ones((1, 1), bool), 2, constant_values=False)[2:3, 2:3])
    assert len(outer) == 4 and not holes
    ring = np.ones((5, 7), bool)
    ring[1:4, 2:4] = False
    outer, holes = rings(ring)
    assert len(outer) == 4 and [sorted(map(tuple, x.tolist())) for x in holes] == [
        [(2, 1), (2, 4), (4, 1), (4, 4)]
    ]


@given(small_masks)
@settings(max_examples=60, deadline=None)
def test_close_polygons_are_within_a_pixel_for_whoever_draws_them(mask):
    for x in found_in(mask):
        polygon = close_polygon(x, with_holes=True)
        if polygon is None:
            continue
        full = np.pad(x.full_mask(mask.shape), 3)
        moved = polygon + 3
        by_pillow = Image.new("1", full.shape[::-1])
        ImageDraw.Draw(by_pillow).polygon([tuple(map(int, p)) for p in moved], fill=1, outline=1)
        by_coco = segmentation_mask([moved.reshape(-1).tolist()], *full.shape)
        assert not far(by_coco, full) and not far(np.array(by_pillow), full, added=2)


def test_coco_is_decoded_by_pycocotools_to_the_very_mask(tmp_path, capsys):
    images = {f"{n}.png": blobs(n) for n in range(2)}
    writer = CocoFileWriter(NAMES)
    for name, labels in images.items():
        writer.add(annotated(labels, name))
    (tmp_path / "coco.json").write_text(json.dumps(writer.content))
    coco = COCO(tmp_path / "coco.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == NAMES
    for image in coco.loadImgs(coco.getImgIds()):
        labels = images[image["file_name"]]
        assert (image["height"], image["width"]) == labels.shape
        decoded = np.zeros(labels.shape, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            mask = coco.annToMask(annotation)
            assert annotation["area"] == mask.sum()
            assert annotation["bbox"] == list(coco_box(mask))
            decoded[mask > 0] = annotation["category_id"]
        np.testing.assert_array_equal(decoded, labels)
    detections = coco.loadRes(writer.content["annotations"])
    assert len(detections.getAnnIds()) == len(writer.content["annotations"])


def coco_box(mask):
    rows, columns = np.nonzero(mask)
    return columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1


def drawn_by_labelme(shape, size):
    """A shape's pixels by LabelMe's rules: Pillow's polygons with their outline, masks in boxes."""
    mask = np.zeros(size, bool)
    if shape["shape_type"] == "mask":
        (left, top), (right, bottom) = np.array(shape["points"]).astype(int)
        patch = np.array(Image.open(io.BytesIO(base64.b64decode(shape["mask"])))) > 0
        mask[top : bottom + 1, left : right + 1] = patch
        return mask
    image = Image.new("L", size[::-1])
    points = [tuple(point) for point in shape["points"]]
    ImageDraw.Draw(image).polygon(points, outline=1, fill=1)
    return np.array(image) > 0


def test_labelmes_polygons_are_within_a_pixel_and_what_is_not_is_a_mask():
    labels = blobs()
    image = annotated(labels)
    content = json.loads(json.dumps(labelme_file(image, NAMES)))
    assert content["imagePath"] == "a.png" and content["imageData"] is None
    kinds = set()
    for shape, x in zip(content["shapes"], image.instances, strict=True):
        assert shape["label"] == NAMES[x.class_index]
        full = x.full_mask(labels.shape)
        drawn = drawn_by_labelme(shape, labels.shape)
        assert not far(drawn, full, added=2)
        if shape["shape_type"] == "mask":
            np.testing.assert_array_equal(drawn, full)
        kinds.add(shape["shape_type"])
    assert kinds == {"polygon", "mask"}


def test_what_labelme_holds_is_read_as_it_was_found(tmp_path):
    labels = blobs()
    (tmp_path / "a.json").write_text(json.dumps(labelme_file(annotated(labels), NAMES)))
    given_image = UprightImage(np.zeros((*labels.shape, 3), np.uint8), tmp_path / "a.png")
    for number, name in enumerate(NAMES, 1):
        read = read_mask(tmp_path / "a.json", given_image, name)
        assert not far(read == 1, labels == number)


def test_yolos_lines_are_drawn_by_opencv_to_within_a_pixel(tmp_path):
    labels = blobs()
    image = annotated(labels)
    lines = yolo_labels(image).splitlines()
    height, width = labels.shape
    for line, x in zip(lines, image.instances, strict=True):
        index, *shares = line.split()
        corners = np.array(shares, float).reshape(-1, 2)
        assert int(index) == x.class_index and ((corners >= 0) & (corners <= 1)).all()
        drawn = np.zeros(labels.shape, np.uint8)
        corners = np.round(corners * (width, height)).astype(np.int32)
        cv2.fillPoly(drawn, [corners], 1)
        assert not far(drawn > 0, x.full_mask(labels.shape), added=2)
    data = yaml.safe_load(yolo_data(NAMES))
    assert data == {"train": "images", "val": "images", "names": dict(enumerate(NAMES))}
    assert yolo_labels(AnnotatedImage("a.png", (4, 4), [])) == ""


def test_a_table_has_a_line_for_each_instance_of_the_worst_image_first():
    table = InstanceTable(["a, b"])
    mask = np.array([[True, False], [True, True]])
    table.add(AnnotatedImage("x,1.png", (9, 9), [Instance(0, 2, 3, mask, 0.25)]), 0.81236)
    table.add(AnnotatedImage("worse.png", (9, 9), [Instance(0, 2, 3, mask, 0.5)]), 0.3)
    worse, row = csv.DictReader(io.StringIO(table.text))
    assert row == {
        **{"image": "x,1.png", "class": "a, b", "score": "0.25", "area": "3"},
        **{"left": "2", "top": "3", "width": "2", "height": "2", "quality": "0.8124"},
    }
    assert worse["image"] == "worse.png" and worse["quality"] == "0.3"


@pytest.mark.parametrize("hole", [False, True])
def test_a_large_part_is_outlined_with_few_corners(hole):
    mask = np.zeros((400, 400), np.uint8)
    cv2.circle(mask, (200, 200), 150, 1, -1)
    if hole:
        cv2.circle(mask, (200, 200), 60, 0, -1)
    polygon = close_polygon(found_in(mask)[0], with_holes=True)
    assert len(polygon) < 200
