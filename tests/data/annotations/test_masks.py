"""Masks of every kind against ones that NumPy draws."""

import base64
import io
import json
import unicodedata

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as run_lengths

from apanet_jax.data.annotations.mask_values import label_of_values
from apanet_jax.data.annotations.masks import read_mask
from apanet_jax.data.images.image_files import find_images
from apanet_jax.data.images.reader import UprightImage, read_image
from apanet_jax.runtime.errors import UserError

HEIGHT, WIDTH = 40, 60
ROWS, COLUMNS = slice(10, 30), slice(15, 45)
TRUTH = np.zeros((HEIGHT, WIDTH), np.uint8)
TRUTH[ROWS, COLUMNS] = 1
POLYGON = [[15, 10], [45, 10], [45, 30], [15, 30]]


def picture(path=None, orientation=1, size=(HEIGHT, WIDTH)):
    return UprightImage(np.zeros((*size, 3), np.uint8), path, orientation)


def saved(path, values, mode=None, **options):
    image = Image.fromarray(values)
    (image if mode is None else image.convert(mode)).save(path, **options)
    return path


def palette(values, colours):
    image = Image.fromarray(values)
    image.putpalette([part for colour in colours for part in colour])
    return image


def nearly(label, truth=TRUTH, pixels=1):
    """Whether a label differs from the truth in the outline's pixels alone."""
    inner, outer = truth.astype(bool), truth.astype(bool)
    for _ in range(pixels):
        rolled = [np.roll(outer, s, a) for s in (-1, 1) for a in (0, 1)]
        outer = outer | np.any(rolled, 0)
        rolled = [np.roll(inner, s, a) for s in (-1, 1) for a in (0, 1)]
        inner = inner & np.all(rolled, 0)
    return bool((label[inner] == 1).all() and (label[~outer] == 0).all())


@pytest.mark.parametrize("value", [1, 15, 128, 255])
def test_gray_with_one_value(tmp_path, value):
    path = saved(tmp_path / "m.png", TRUTH * np.uint8(value))
    np.testing.assert_array_equal(read_mask(path, picture()), TRUTH)


def test_black_and_white_with_one_bit(tmp_path):
    path = saved(tmp_path / "m.png", TRUTH * np.uint8(255), "1")
    np.testing.assert_array_equal(read_mask(path, picture()), TRUTH)


def test_sixteen_bits(tmp_path):
    path = saved(tmp_path / "m.png", TRUTH.astype(np.uint16) * 65535)
    np.testing.assert_array_equal(read_mask(path, picture()), TRUTH)


def test_soft_edges_and_jpeg_noise_are_cut_at_half(tmp_path):
    soft = TRUTH * np.uint8(255)
    soft[ROWS, 14], soft[ROWS, 45] = 100, 200
    expected = TRUTH.copy()
    expected[ROWS, 45] = 1
    np.testing.assert_array_equal(read_mask(saved(tmp_path / "m.png", soft), picture()), expected)
    noisy = saved(tmp_path / "m.jpg", TRUTH * np.uint8(255), quality=70)
    assert nearly(read_mask(noisy, picture()))


def test_a_ring_of_255_is_ignored_beside_an_id(tmp_path):
    label = TRUTH.copy()
    label[9, COLUMNS] = 255
    for path in (saved(tmp_path / "gray.png", label), tmp_path / "palette.png"):
        if not path.exists():
            palette(label, [(0, 0, 0), (128, 0, 0)] + [(224, 224, 192)] * 254).save(path)
        np.testing.assert_array_equal(read_mask(path, picture()), label)


def test_a_palette_in_black_and_white_goes_by_its_colours(tmp_path):
    # White is entry 0 here, black entry 1.
    path = tmp_path / "m.png"
    palette(1 - TRUTH, [(255, 255, 255), (0, 0, 0)] + [(0, 0, 0)] * 254).save(path)
    np.testing.assert_array_equal(read_mask(path, picture()), TRUTH)


def test_of_several_ids_one_is_chosen_by_name(tmp_path):
    ids = TRUTH * np.uint8(3)
    ids[0, 0] = 7
    path = saved(tmp_path / "m.png", ids)
    with pytest.raises(UserError, match=r"ids 3, 7.*MASK\.png:3"):
        read_mask(path, picture())
    np.testing.assert_array_equal(read_mask(tmp_path / "m.png:3", picture()), TRUTH)
    with pytest.raises(UserError, match="no id 5, but 0, 3, 7"):
        read_mask(tmp_path / "m.png:5", picture())


def test_transparency_and_colour(tmp_path):
    cut_out = np.full((HEIGHT, WIDTH, 4), 90, np.uint8)
    cut_out[..., 3] = 255 * TRUTH
    red = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    red[ROWS, COLUMNS] = 200, 10, 10
    white = np.stack([TRUTH * np.uint8(255)] * 3 + [np.full_like(TRUTH, 255)], -1)
    for name, values in {"cut": cut_out, "red": red, "white": white}.items():
        path = saved(tmp_path / f"{name}.png", values)
        np.testing.assert_array_equal(read_mask(path, picture()), TRUTH, err_msg=name)
    red[0, 0] = 0, 200, 0
    with pytest.raises(UserError, match="2 colours"):
        read_mask(saved(tmp_path / "two.png", red), picture())


@pytest.mark.parametrize(
    "values",
    [TRUTH.astype(bool), TRUTH, TRUTH * 255, TRUTH * 0.9, TRUTH.astype(np.float32) * 255],
)
def test_arrays(values):
    np.testing.assert_array_equal(label_of_values(values, "it"), TRUTH)


def labelme(path, shapes, height=HEIGHT, width=WIDTH):
    content = {"version": "5", "shapes": shapes, "imageHeight": height, "imageWidth": width}
    path.write_text(json.dumps(content))
    return path


def shape(label, kind, points, **more):
    return {"label": label, "shape_type": kind, "points": points, **more}


def test_labelme_polygons_and_rectangles(tmp_path):
    for kind, points in (("polygon", POLYGON), ("rectangle", [[45, 30], [15, 10]])):
        path = labelme(tmp_path / f"{kind}.json", [shape("beetle", kind, points)])
        np.testing.assert_array_equal(read_mask(path, picture()), TRUTH, err_msg=kind)
    both = [shape("beetle", "polygon", POLYGON[:2] + [[15, 30]])]
    both.append(shape("beetle", "polygon", POLYGON[1:]))
    assert nearly(read_mask(labelme(tmp_path / "two.json", both), picture()))


def test_labelme_circle_and_mask(tmp_path):
    path = labelme(tmp_path / "circle.json", [shape("beetle", "circle", [[30, 20], [30, 32]])])
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    disc = ((x - 30) ** 2 + (y - 20) ** 2 <= 144).astype(np.uint8)
    assert nearly(read_mask(path, picture()), disc)
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 30), 255, np.uint8)).save(buffer, "PNG")
    text = base64.b64encode(buffer.getvalue()).decode()
    shapes = [shape("beetle", "mask", [[15, 10], [44, 29]], mask=text)]
    label = read_mask(labelme(tmp_path / "mask.json", shapes), picture())
    np.testing.assert_array_equal(label, TRUTH)


def test_labelme_labels_are_chosen_by_class_or_behind_the_name(tmp_path):
    shapes = [shape("beetle", "polygon", POLYGON), shape("leaf", "rectangle", [[0, 0], [5, 5]])]
    path = labelme(tmp_path / "m.json", shapes)
    with pytest.raises(UserError, match="labels beetle, leaf"):
        read_mask(path, picture())
    assert nearly(read_mask(path, picture(), "beetle"))
    assert nearly(read_mask(tmp_path / "m.json:beetle", picture(), "leaf"))
    with pytest.raises(UserError, match="no label 'wasp'"):
        read_mask(tmp_path / "m.json:wasp", picture())


def coco(path, segmentations, file_name="a.jpg", size=(HEIGHT, WIDTH)):
    content = {
        "images": [
            {"id": 4, "file_name": file_name, "height": size[0], "width": size[1]},
            {"id": 5, "file_name": "other.jpg", "height": 7, "width": 7},
        ],
        "categories": [{"id": 9, "name": "beetle"}, {"id": 2, "name": "leaf"}],
        "annotations": [
            {"id": i, "image_id": 4, "category_id": 9, "iscrowd": 0, "segmentation": x}
            for i, x in enumerate(segmentations)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def test_coco_polygons_and_run_lengths(tmp_path):
    flat = [float(v) for point in POLYGON for v in point]
    column_major = TRUTH.T.reshape(-1)
    changes = np.flatnonzero(np.diff(column_major)) + 1
    counts = np.diff([0, *changes, TRUTH.size]).tolist()
    packed = run_lengths.encode(np.asfortranarray(TRUTH))["counts"].decode()
    for name, outline in {
        "polygon": [flat],
        "runs": {"size": [HEIGHT, WIDTH], "counts": counts},
        "packed": {"size": [HEIGHT, WIDTH], "counts": packed},
    }.items():
        path = coco(tmp_path / f"{name}.json", [outline])
        label = read_mask(path, picture(tmp_path / "a.jpg"))
        np.testing.assert_array_equal(label, TRUTH, err_msg=name)
    with pytest.raises(UserError, match="0 images called 'b.jpg'"):
        read_mask(path, picture(tmp_path / "b.jpg"))


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"shapes": []}',
        '{"shapes": [{"label": "a", "points": [[1, 2]]}]}',
        '{"shapes": [{"points": [[1, 2]]}]}',
        '{"shapes": [{"label": "a", "points": [[1, 2], [1e9, 3], [3, 3]]}]}',
        '{"annotations": [], "images": []}',
        '{"shapes": [{"label": "a", "points": 3}], "imageHeight": 99999999, "imageWidth": 9999999}',
    ],
)
def test_json_that_cannot_be_used_is_one_clear_error(tmp_path, content):
    path = tmp_path / "m.json"
    path.write_text(content)
    with pytest.raises(UserError, match="m.json"):
        read_mask(path, picture())


def test_pictures_that_cannot_be_used(tmp_path):
    (tmp_path / "junk.png").write_bytes(b"junk")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = saved(tmp_path / "whole.png", np.random.default_rng(0).bytes(4800) and TRUTH)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:-40])
    for name in ("junk.png", "empty.png", "cut.png", "none.png", "none.json"):
        with pytest.raises(UserError, match=name):
            read_mask(tmp_path / name, picture())
    with pytest.raises(UserError, match="50x40 pixels and its mask .* 60x40"):
        read_mask(whole, picture(size=(40, 50)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_pictures_and_the_masks_that_lie_as_their_files(tmp_path, orientation):
    gray = np.zeros((HEIGHT, WIDTH), np.uint8)
    gray[:8, :16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    saved(tmp_path / "a.png", np.stack([gray] * 3, -1), exif=exif)
    read = read_image(tmp_path / "a.png")
    # What the standard says of each: row 0 and column 0 of the file are, upright, ...
    moved = {
        1: gray,
        2: gray[:, ::-1],
        3: gray[::-1, ::-1],
        4: gray[::-1],
        5: gray.T,
        6: gray.T[:, ::-1],
        7: gray.T[::-1, ::-1],
        8: gray.T[::-1],
    }[orientation]
    np.testing.assert_array_equal(read.image[..., 0], moved)
    upright = saved(tmp_path / "upright.png", np.ascontiguousarray(moved))
    np.testing.assert_array_equal(read_mask(upright, read), moved > 0)
    if orientation >= 5:
        lying = saved(tmp_path / "lying.png", gray)
        np.testing.assert_array_equal(read_mask(lying, read), moved > 0)


def test_pictures_of_any_kind_are_rgb(tmp_path):
    deep = np.linspace(0, 60000, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH).astype(np.uint16)
    read = read_image(saved(tmp_path / "deep.png", deep)).image
    assert read.shape == (HEIGHT, WIDTH, 3) and read.min() == 0 and read.max() == 255
    flat = saved(tmp_path / "p.png", TRUTH * np.uint8(200), "P")
    assert read_image(flat).image[20, 30].tolist() == [200] * 3


def test_files_folders_and_patterns_are_found_once(tmp_path):
    (tmp_path / "b").mkdir()
    names = ["a.jpg", "b/c.PNG", "b/d.tif"]
    for name in (*names, "b/notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    paths = [tmp_path / name for name in names]
    assert find_images([str(tmp_path)]) == paths
    assert find_images([str(paths[1]), str(tmp_path / "b" / "*.tif"), str(tmp_path / "b")]) == [
        paths[1],
        paths[2],
    ]
    (tmp_path / "none").mkdir()
    for query in ("none", "no.jpg", "*.gif"):
        with pytest.raises(UserError, match=query.replace("*", r"\*")):
            find_images([str(tmp_path / query)])


def coco_of(path, annotations, file_name="a.jpg"):
    content = {
        "images": [{"id": 1, "file_name": file_name, "height": HEIGHT, "width": WIDTH}],
        "categories": [{"id": 1, "name": "beetle"}, {"id": 2, "name": "leaf"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(content))
    return path


def crowd(number, is_crowd, category=1):
    packed = run_lengths.encode(np.asfortranarray(TRUTH))["counts"].decode()
    return {
        "id": number,
        "image_id": 1,
        "category_id": category,
        "iscrowd": is_crowd,
        "segmentation": {"size": [HEIGHT, WIDTH], "counts": packed},
    }


def test_a_mask_of_crowds_alone_is_the_foreground_and_says_so(tmp_path):
    """CVAT writes iscrowd=1 for everything that is not a polygon."""
    said = []
    path = coco_of(tmp_path / "cvat.json", [crowd(1, 1), crowd(2, 1, 2)])
    label = read_mask(path, picture(tmp_path / "a.jpg"), "beetle", tell=said.append)
    np.testing.assert_array_equal(label, TRUTH)
    assert len(said) == 1 and "iscrowd=1" in said[0] and "beetle" in said[0]


def test_a_crowd_beside_an_object_is_ignored(tmp_path):
    box = [[0, 0, 10, 0, 10, 5, 0, 5]]
    one = {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": 0, "segmentation": box}
    path = coco_of(tmp_path / "m.json", [crowd(1, 1), one])
    said = []
    label = read_mask(path, picture(tmp_path / "a.jpg"), tell=said.append)
    expected = np.where(TRUTH, 255, 0)
    expected[:5, :10] = 1
    np.testing.assert_array_equal(label, expected)
    assert not said


@pytest.mark.parametrize("counts", ["", "\0", "PPYo0"])
def test_run_lengths_that_do_not_make_up_the_image_are_one_line(tmp_path, counts):
    broken = crowd(1, 0) | {"segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
    path = coco_of(tmp_path / "m.json", [broken])
    with pytest.raises(UserError, match="m.json cannot be understood: annotation 1 has run length"):
        read_mask(path, picture(tmp_path / "a.jpg"))


@pytest.mark.parametrize(
    "name", ["images\\a.jpg", "..\\..\\media\\upload\\4\\a.jpg", "../label/a.jpg", "C:\\x\\a.jpg"]
)
def test_file_names_of_other_systems_are_understood(tmp_path, name):
    path = coco_of(tmp_path / "m.json", [crowd(1, 0)], name)
    np.testing.assert_array_equal(read_mask(path, picture(tmp_path / "a.jpg")), TRUTH)


def test_a_name_in_another_form_of_unicode_is_the_same(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "käfer.jpg") for form in ("NFC", "NFD"))
    path = coco_of(tmp_path / "m.json", [crowd(1, 0)], composed)
    np.testing.assert_array_equal(read_mask(path, picture(tmp_path / decomposed)), TRUTH)


RING = [[5, 5], [50, 5], [50, 35], [5, 35]]
HOLE = [[20, 10], [30, 10], [30, 30], [20, 30]]


@pytest.mark.parametrize(("word", "value"), [("_background_", 0), ("__ignore__", 255)])
def test_labelmes_words_for_holes_and_what_to_ignore(tmp_path, word, value):
    shapes = [shape("ring", "polygon", RING), shape(word, "polygon", HOLE)]
    path = labelme(tmp_path / "m.json", shapes)
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[5:35, 5:50], expected[10:30, 20:30] = 1, value
    for chosen in (path, tmp_path / "m.json:ring"):
        np.testing.assert_array_equal(read_mask(chosen, picture()), expected)
    np.testing.assert_array_equal(read_mask(path, picture(), "ring"), expected)


def test_a_label_with_a_colon_can_be_chosen(tmp_path):
    shapes = [shape("beetle:adult", "polygon", POLYGON), shape("b", "polygon", RING)]
    labelme(tmp_path / "m.json", shapes)
    label = read_mask(tmp_path / "m.json:beetle:adult", picture())
    np.testing.assert_array_equal(label, TRUTH)


@pytest.mark.parametrize(("orientation", "size"), [(2, (40, 60)), (3, (40, 60)), (6, (40, 40))])
def test_a_mask_that_would_fit_either_way_is_taken_as_upright_with_a_warning(
    tmp_path, orientation, size
):
    gray = np.zeros(size, np.uint8)
    gray[:10, :10] = 255
    path = saved(tmp_path / "m.png", gray)
    said = []
    turned = picture(tmp_path / "a.jpg", orientation, size)
    np.testing.assert_array_equal(read_mask(path, turned, tell=said.append), gray > 0)
    assert len(said) == 1 and "a.jpg" in said[0] and "upright" in said[0]
    read_mask(path, picture(tmp_path / "a.jpg", 1, size), tell=said.append)
    assert len(said) == 1


def test_a_mask_with_an_orientation_of_its_own_is_turned_by_it(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / "m.png", TRUTH * np.uint8(255), exif=exif)
    upright = picture(tmp_path / "a.jpg", size=(WIDTH, HEIGHT))
    np.testing.assert_array_equal(read_mask(path, upright), np.rot90(TRUTH, -1))


def test_ids_of_a_gray_mask_in_three_channels_can_be_chosen(tmp_path):
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[5:15, 5:15], values[20:30, 20:30] = 206, 210
    saved(tmp_path / "m.png", np.stack([values] * 3, -1))
    with pytest.raises(UserError, match="ids 206, 210"):
        read_mask(tmp_path / "m.png", picture())
    label = read_mask(tmp_path / "m.png:210", picture())
    np.testing.assert_array_equal(label, values == 210)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "I;16", "F"])
def test_a_mask_of_any_mode_is_the_same(tmp_path, mode):
    if mode in ("I;16", "F"):
        path = saved(tmp_path / "m.tif", TRUTH.astype({"I;16": np.uint16, "F": np.float32}[mode]))
    else:
        path = saved(tmp_path / "m.png", TRUTH * np.uint8(255), mode)
    np.testing.assert_array_equal(read_mask(path, picture()), TRUTH)


def test_a_mask_of_a_kind_that_is_not_read_is_one_line(tmp_path):
    saved(tmp_path / "m.png", np.zeros((40, 60, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "m.tif"), np.zeros((40, 60, 3), np.float32))
    (tmp_path / "m.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n")
    for name in ("m.tif", "m.eps"):
        with pytest.raises(UserError, match=name):
            read_mask(tmp_path / name, picture())
