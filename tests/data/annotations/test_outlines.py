"""Outlines against pycocotools' own encoding, and what does not make up its image."""

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_masks

from apanet_jax.data.annotations.outline_files import (
    coco_outlines,
    image_called,
    labelme_outlines,
    whole,
)
from apanet_jax.data.annotations.outlines import Outline, paint, segmentation_mask, shape_mask
from apanet_jax.runtime.errors import UserError

HEIGHT, WIDTH = 40, 60
BOX = [5, 5, 50, 5, 50, 35, 5, 35]


def masks():
    """Masks of several densities and sizes, from empty to full."""
    sides = st.tuples(st.integers(1, 30), st.integers(1, 30))
    return st.tuples(sides, st.sampled_from([0, 0.02, 0.5, 0.98, 1]), st.integers(0, 99)).map(
        lambda x: np.random.default_rng(x[2]).random(x[0]) < x[1]
    )


@settings(max_examples=100, deadline=None)
@given(masks())
def test_compressed_run_lengths_are_read_as_pycocotools_writes_them(mask):
    counts = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"]
    for text in (counts, counts.decode()):
        segmentation = {"size": list(mask.shape), "counts": text}
        np.testing.assert_array_equal(segmentation_mask(segmentation, *mask.shape), mask)


@settings(max_examples=60, deadline=None)
@given(masks(), st.data())
def test_run_lengths_that_do_not_make_up_the_image_are_refused(mask, draw):
    """pycocotools leaves what was in memory where they are too short."""
    counts = coco_masks.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    place = draw.draw(st.integers(0, len(counts)))
    changed = draw.draw(st.sampled_from([counts[:place], counts + counts[place:], "", "\0"]))
    segmentation = {"size": list(mask.shape), "counts": changed}
    try:
        read = segmentation_mask(segmentation, *mask.shape)
    except ValueError as error:
        assert "run lengths" in str(error) and changed != counts
        return
    # Lengths of 0 at the end are no fault.
    decoded = coco_masks.decode(segmentation | {"counts": changed.encode()})
    np.testing.assert_array_equal(read, decoded)


@pytest.mark.parametrize("changed", ["cut", "empty", "nul", "endless"])
def test_a_cut_or_empty_text_of_run_lengths_is_refused(changed):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[5:20, 5:30] = 1
    counts = coco_masks.encode(np.asfortranarray(mask))["counts"].decode()
    text = {"cut": counts[:5], "empty": "", "nul": "\0", "endless": "o" * 10**6}[changed]
    with pytest.raises(ValueError, match="run lengths"):
        segmentation_mask({"size": [HEIGHT, WIDTH], "counts": text}, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    "counts",
    [[5], [], [0, HEIGHT * WIDTH + 1], [-1, HEIGHT * WIDTH + 1], [0.5], ["a"], None, 7, [[2400]]],
)
def test_other_run_lengths_are_refused(counts):
    with pytest.raises(ValueError, match="run lengths"):
        segmentation_mask({"size": [HEIGHT, WIDTH], "counts": counts}, HEIGHT, WIDTH)


def test_run_lengths_of_another_size_are_refused():
    with pytest.raises(ValueError, match="do not make up"):
        segmentation_mask({"size": [WIDTH, HEIGHT], "counts": [HEIGHT * WIDTH]}, HEIGHT, WIDTH)


def test_corners_may_lie_a_few_sides_outside_their_own_image():
    wide = segmentation_mask([[17000, 5, 17100, 5, 17100, 35, 17000, 35]], 40, 20000)
    assert wide.sum() == 30 * 100 and wide[5:35, 17000:17100].all()
    assert segmentation_mask([[-100, -100, 200, -100, 200, 200, -100, 200]], 40, 60).all()
    with pytest.raises(ValueError, match="corner at 17100, far outside its image of 60x40 pixels"):
        segmentation_mask([[17000, 5, 17100, 5, 17100, 35]], HEIGHT, WIDTH)
    for polygon in ([1, 2, 3], [1, 2, 3, 4, 5, float("nan")], [[1, 2], [3, 4]], ["a"] * 6):
        with pytest.raises(ValueError):
            segmentation_mask([polygon], HEIGHT, WIDTH)


def patch(values, corner, mode=None):
    buffer = io.BytesIO()
    image = Image.fromarray(values)
    (image.convert(mode) if mode else image).save(buffer, "PNG")
    end = [corner[0] + values.shape[1] - 1, corner[1] + values.shape[0] - 1]
    text = base64.b64encode(buffer.getvalue()).decode()
    return {"label": "a", "shape_type": "mask", "points": [corner, end], "mask": text}


@pytest.mark.parametrize("corner", [[0, 0], [30, 20], [-3, -4], [55, 38], [59.6, 0.4], [70, 50]])
def test_a_patch_is_put_at_its_place_and_cut_at_the_edges(corner):
    values = np.random.default_rng(0).random((9, 7)) < 0.5
    canvas = np.zeros((HEIGHT + 100, WIDTH + 100), bool)
    left, top = (round(x) + 50 for x in corner)
    canvas[top : top + 9, left : left + 7] = values
    drawn = shape_mask(patch(values, corner), HEIGHT, WIDTH)
    np.testing.assert_array_equal(drawn, canvas[50 : 50 + HEIGHT, 50 : 50 + WIDTH])


def test_a_patch_larger_than_its_image_is_refused_before_it_is_decoded():
    large = patch(np.ones((HEIGHT, WIDTH + 1), bool), [0, 0])
    with pytest.raises(ValueError, match="61x40 pixels, too many: .* for an image of 60x40"):
        shape_mask(large, HEIGHT, WIDTH)
    assert shape_mask(large, HEIGHT, WIDTH + 1).all()
    bomb = bytearray(base64.b64decode(large["mask"]))
    bomb[16:24] = (60000).to_bytes(4) * 2
    with pytest.raises(ValueError, match="mask"):
        shape_mask(large | {"mask": base64.b64encode(bomb).decode()}, HEIGHT, WIDTH)


def test_a_patch_above_pillows_limit_is_read(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert shape_mask(patch(np.ones((HEIGHT, WIDTH), bool), [0, 0]), HEIGHT, WIDTH).all()


@pytest.mark.parametrize("mask", ["!!", "", 7, None])
def test_a_patch_that_is_no_image_is_refused(mask):
    shape = patch(np.ones((4, 4), bool), [0, 0]) | {"mask": mask}
    with pytest.raises((ValueError, TypeError)):
        shape_mask(shape, HEIGHT, WIDTH)
    with pytest.raises(ValueError, match="colours"):
        shape_mask(patch(np.ones((4, 4), np.uint8), [0, 0], "RGB"), HEIGHT, WIDTH)


def window(top, left, bottom, right):
    def draw(height, width):
        mask = np.zeros((height, width), bool)
        mask[top:bottom, left:right] = True
        return mask

    return draw


def test_crowds_are_below_and_the_smaller_on_top():
    outlines = [
        Outline("small", window(4, 4, 8, 8)),
        Outline("large", window(0, 0, 20, 20)),
        Outline("crowd", window(2, 2, 30, 30), True),
    ]
    ids = {"small": 1, "large": 2, "crowd": 3}
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[2:30, 2:30], expected[:20, :20], expected[4:8, 4:8] = 255, 2, 1
    for order in (outlines, outlines[::-1]):
        np.testing.assert_array_equal(paint(order, ids, HEIGHT, WIDTH), expected)
    expected[expected == 255] = 3
    np.testing.assert_array_equal(paint(outlines, ids, HEIGHT, WIDTH, crowd="class"), expected)


def coco(annotations, images=None, categories=None):
    return {
        "images": images or [{"id": 1, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH}],
        "categories": categories or [{"id": 3, "name": "cat"}, {"id": 1, "name": "dog"}],
        "annotations": annotations,
    }


def annotation(number=1, category=3, **more):
    given = {"id": number, "image_id": 1, "category_id": category, "segmentation": [BOX]}
    return given | more


def test_boxes_orphans_and_unused_categories_are_left_out_and_counted():
    content = coco(
        [
            annotation(1),
            annotation(2, segmentation=[]),
            annotation(3, segmentation=None),
            {"id": 4, "image_id": 1, "category_id": 3},
            annotation(5, image_id=99),
            annotation(6, category=77),
        ]
    )
    file = coco_outlines(content)
    assert [outline.label for outline in file.images[0].outlines] == ["cat"]
    assert file.class_names == ["cat"] and file.all_names == ["dog", "cat"]
    assert file.left_out == {
        "categories without an annotation": 1,
        "boxes without an outline": 3,
        "annotations of no image": 1,
        "annotations of no category": 1,
    }


def test_a_projects_name_as_a_category_is_no_class():
    categories = [
        {"id": 0, "name": "ball", "supercategory": "none"},
        {"id": 1, "name": "ball", "supercategory": "ball"},
        {"id": 2, "name": "bat", "supercategory": "ball"},
    ]
    file = coco_outlines(coco([annotation(1, 1), annotation(2, 2)], categories=categories))
    assert file.class_names == ["ball", "bat"]
    with pytest.raises(ValueError, match="called 'ball'"):
        coco_outlines(coco([annotation(1, 0), annotation(2, 1)], categories=categories))


def test_sizes_may_be_whole_floats():
    image = {"id": 1, "file_name": "a.jpg", "height": 40.0, "width": 60.0}
    assert coco_outlines(coco([annotation()], [image])).images[0].size == (40, 60)
    size, _ = labelme_outlines({"shapes": [], "imageHeight": 40.0, "imageWidth": 60})
    assert size == (40, 60)
    for wrong in (40.5, "forty", "", True, None, float("inf")):
        with pytest.raises((ValueError, OverflowError)):
            whole(wrong)
    assert whole(" 40 ") == 40


def test_of_images_of_one_name_the_path_decides(tmp_path):
    names = ["train/1.jpg", "val\\1.jpg", "2.jpg"]
    images = [
        {"id": i, "file_name": n, "height": HEIGHT, "width": WIDTH} for i, n in enumerate(names)
    ]
    found = coco_outlines(coco([], images)).images
    assert image_called(found, tmp_path / "val" / "1.jpg", tmp_path).file_name == names[1]
    assert image_called(found, tmp_path / "2.jpg", tmp_path).file_name == "2.jpg"
    with pytest.raises(UserError, match="2 images called '1.jpg', expected one"):
        image_called(found, tmp_path / "1.jpg", tmp_path)
    with pytest.raises(UserError, match="0 images called '3.jpg'"):
        image_called(found, tmp_path / "3.jpg", tmp_path)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(masks(), st.sampled_from("ab"), st.booleans()), max_size=6))
def test_painting_is_that_of_whole_masks_one_over_the_other(drawn):
    """Of each only the rectangle round it is kept: many objects of a large image fit in memory."""
    size, ids = (30, 30), {"a": 1, "b": 2}
    whole = []
    for mask, label, crowd in drawn:
        covered = np.zeros(size, bool)
        covered[-mask.shape[0] :, : mask.shape[1]] = mask
        whole.append((covered, label, crowd))
    expected = np.zeros(size, np.uint8)
    for covered, label, crowd in sorted(whole, key=lambda x: (not x[2], -x[0].sum())):
        expected[covered] = 255 if crowd else ids[label]
    outlines = [Outline(label, lambda h, w, c=c: c, crowd) for c, label, crowd in whole]
    np.testing.assert_array_equal(paint(outlines, ids, *size), expected)


def test_a_shape_that_cannot_be_drawn_is_named():
    shapes = [
        {"label": "beetle", "points": [[1, 1], [9, 1], [9, 9]]},
        {"label": "leaf", "points": [[1, 1]], "shape_type": "point"},
        {"label": "leaf"},
    ]
    _, outlines = labelme_outlines({"shapes": shapes})
    assert outlines[0].draw(HEIGHT, WIDTH).any()
    with pytest.raises(UserError, match="shape 2, leaf: a shape of type 'point' with 1 points"):
        outlines[1].draw(HEIGHT, WIDTH)
    with pytest.raises(UserError, match="shape 3, leaf: 'points' is missing"):
        outlines[2].draw(HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ({}, None),
        ({"height": None, "width": None}, None),
        ({"height": 0, "width": 0}, None),
        ({"height": "40", "width": " 60 "}, (40, 60)),
        ({"height": 40.0, "width": 60}, (40, 60)),
    ],
)
def test_sizes_that_coco_files_have_or_leave_out(size, expected):
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", **size}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [BOX]}],
    }
    assert coco_outlines(content).images[0].size == expected


def test_a_size_that_is_none_names_its_image():
    images = [{"id": 1, "file_name": "a.jpg", "height": "tall", "width": 60}]
    with pytest.raises(UserError, match="the image a.jpg: 'tall' is no number of pixels"):
        coco_outlines({"images": images, "annotations": [], "categories": []})


def test_annotations_without_an_image_or_a_category_are_counted():
    content = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 40, "width": 60}],
        "categories": [{"id": 1, "name": "x"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [BOX]},
            {"id": 2, "category_id": 1, "segmentation": [BOX]},
            {"id": 3, "image_id": None, "category_id": 1, "segmentation": [BOX]},
            {"id": 4, "image_id": 1, "segmentation": [BOX]},
            {"id": 5, "image_id": 1, "category_id": None, "segmentation": [BOX]},
        ],
    }
    file = coco_outlines(content)
    assert len(file.images[0].outlines) == 1 and file.class_names == ["x"]
    assert file.left_out == {"annotations of no image": 2, "annotations of no category": 2}
