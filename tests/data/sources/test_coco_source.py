"""COCO: label maps against a slow raster, both splits by hand, and what is broken is named."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from apanet_jax.data.sources.coco import EXPECTED, CocoSource
from apanet_jax.data.sources.source import SPLITS
from apanet_jax.runtime.errors import UserError
from tests import trees

SIZE = (60, 80)


@pytest.fixture
def tree(tmp_path):
    return trees.coco_tree(tmp_path / "coco", train=4, val=3, size=SIZE)


def source_of(tree, **options):
    return CocoSource(*tree, any_count=True, **options)


def with_instances(tree, *instances):
    """Gives the first training picture these (category, outline, crowd), and returns its name."""
    folder = tree[1]
    content = trees.read_annotations(folder, "train")
    first = content["images"][0]
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] != first["id"]]
    for category, outline, crowd in instances:
        content["annotations"].append(
            {
                "id": 1000 + len(content["annotations"]),
                "image_id": first["id"],
                "category_id": category,
                "iscrowd": crowd,
                "segmentation": outline,
            }
        )
    trees.write_annotations(folder, "train", content)
    return first["file_name"].removesuffix(".jpg")


def box(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def runs(*windows):
    mask = np.zeros(SIZE, bool)
    for window in windows:
        mask[window] = True
    return {"counts": trees.run_lengths(mask), "size": list(SIZE)}


def test_labels_are_the_trees_rectangles(tree):
    source = source_of(tree)
    for split in SPLITS:
        content = trees.read_annotations(tree[1], split)
        for entry in content["images"]:
            name = entry["file_name"].removesuffix(".jpg")
            expected = np.zeros(SIZE, np.uint8)
            found = [a for a in content["annotations"] if a["image_id"] == entry["id"]]
            for a in found:
                left, top, width, height = a["bbox"]
                class_id = trees.COCO_IDS.index(a["category_id"]) + 1
                expected[top : top + height, left : left + width] = class_id
            assert (name in source.names(split)) == bool(found)
            if found:
                sample = source.read(split, name)
                np.testing.assert_array_equal(sample.label, expected)
                path = tree[0] / f"{split}2014" / entry["file_name"]
                assert sample.image == path.read_bytes() and sample.name == name


def test_pictures_stand_in_the_order_of_the_file_and_without_those_that_show_nothing(tree):
    source = source_of(tree)
    assert source.names("train") == [f"COCO_train2014_{7 * i:012d}" for i in (6, 5, 4, 3)]
    assert source.names("val") == [f"COCO_val2014_{7 * i:012d}" for i in (5, 4, 3)]


def test_polygons_are_drawn_as_an_independent_raster_draws_them(tree):
    rng = np.random.default_rng(5)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 12))
    star = np.stack(
        [
            40 + rng.uniform(10, 35, 12) * np.cos(angles),
            30 + rng.uniform(8, 26, 12) * np.sin(angles),
        ],
        1,
    )
    other = np.array([[2.5, 3.0], [14.2, 4.4], [9.9, 17.3]])
    name = with_instances(tree, (90, [star.ravel().tolist(), other.ravel().tolist()], 0))
    label = source_of(tree).read("train", name).label
    # Sixteen times finer, a pixel belongs to it where its centre does.
    fine = Image.new("L", (SIZE[1] * 16, SIZE[0] * 16))
    for polygon in (star, other):
        ImageDraw.Draw(fine).polygon([tuple(p) for p in polygon * 16 - 0.5], fill=1)
    expected = np.array(fine)[8::16, 8::16]
    assert set(np.unique(label)) == {0, 80}
    # They may differ where an outline passes a centre closely.
    assert ((label == 80) != expected).mean() < 0.005


def test_smaller_things_are_on_top_whatever_their_order(tree):
    large, small = (1, box(5, 5, 65, 55), 0), (2, box(10, 10, 20, 20), 0)
    for instances in ((large, small), (small, large)):
        name = with_instances(tree, *instances)
        label = source_of(tree).read("train", name).label
        assert label[12, 12] == 2 and label[40, 40] == 1
        assert (label == 2).sum() == 100 and (label == 1).sum() == 60 * 50 - 100


@pytest.mark.parametrize(("crowd", "value"), [("ignore", 255), ("class", 3)])
def test_crowds_are_what_was_chosen_and_below_single_things(tree, crowd, value):
    window = np.s_[10:50, 10:70]
    expected = np.zeros(SIZE, np.uint8)
    expected[window], expected[8:58, 4:74] = value, np.where(expected[8:58, 4:74], value, 0)
    expected[10:50, 10:70] = value
    expected[20:30, 20:40] = 1
    name = with_instances(tree, (1, box(20, 20, 40, 30), 0), (3, runs(window), 1))
    np.testing.assert_array_equal(source_of(tree, crowd=crowd).read("train", name).label, expected)
    # A thing larger than the crowd region does not hide under it either.
    name = with_instances(tree, (3, runs(np.s_[20:30, 20:30]), 1), (1, box(5, 5, 65, 55), 0))
    assert set(np.unique(source_of(tree, crowd=crowd).read("train", name).label)) == {0, 1}


def test_two_corners_enclose_nothing(tree):
    name = with_instances(tree, (1, [[3, 3, 20, 20], *box(30, 30, 40, 40)], 0))
    assert (source_of(tree).read("train", name).label == 1).sum() == 100
    name = with_instances(tree, (1, [[3, 3, 20, 20]], 0))
    assert not source_of(tree).read("train", name).label.any()


def test_both_splits_of_the_classes(tree):
    names = [f"thing {i}" for i in trees.COCO_IDS]
    interleaved = source_of(tree)
    assert list(interleaved.class_names) == names
    assert [len(fold) for fold in interleaved.folds] == [20] * 4
    # person, airplane, boat, … of COCO's list: classes 1, 5, 9, and at the end 77.
    assert interleaved.folds[0][:4] == ("thing 1", "thing 5", "thing 9", "thing 14")
    assert interleaved.folds[0][-1] == names[77 - 1] and interleaved.folds[3][-1] == "thing 90"
    assert interleaved.folds[2] == tuple(names[i - 1] for i in range(3, 80, 4))
    consecutive = source_of(tree, split="consecutive")
    assert consecutive.folds[0] == tuple(names[:20]) and consecutive.folds[3] == tuple(names[60:])
    assert consecutive.folds[1][0] == names[21 - 1] == "thing 22"
    assert sum(consecutive.folds, ()) == tuple(names)
    for wrong in ({"split": "random"}, {"crowd": "person"}):
        with pytest.raises(UserError, match="expected"):
            source_of(tree, **wrong)


def test_lists_of_another_length_are_refused(tree):
    with pytest.raises(UserError, match="has 4 images .*list 82081.*--any_count"):
        CocoSource(*tree)
    assert EXPECTED == {"train": 82081, "val": 40137}


def _edit(split, change):
    def edit(tree):
        content = trees.read_annotations(tree[1], split)
        change(content)
        trees.write_annotations(tree[1], split, content)

    return edit


def _set(part, field, value):
    return lambda content: content[part][0].update({field: value})


def _write(split, text):
    return lambda tree: (tree[1] / f"instances_{split}2014.json").write_text(text)


BROKEN_FILES = {
    "missing": (lambda tree: (tree[1] / "instances_val2014.json").unlink(), "--annotations"),
    "empty": (_write("train", ""), "no JSON"),
    "cut short": (_write("train", '{"images": [{"id": 1'), "cut short"),
    "not text": (
        lambda tree: (tree[1] / "instances_train2014.json").write_bytes(b"\xff\xfe\x00junk"),
        "no JSON",
    ),
    "a list": (_write("val", "[]"), "not built like"),
    "no images": (_edit("train", lambda c: c.pop("images")), "not built like.*images"),
    "images without size": (_edit("train", lambda c: c["images"][0].pop("width")), "width"),
    "no annotations": (_edit("val", lambda c: c.pop("annotations")), "not built like"),
    "captions": (_edit("val", lambda c: c["annotations"][0].pop("segmentation")), "not built"),
    "unknown picture": (_edit("val", _set("annotations", "image_id", 3)), "not built like.* 3"),
    "unknown category": (_edit("val", _set("annotations", "category_id", 12)), "not built.* 12"),
    "79 categories": (_edit("val", lambda c: c["categories"].pop(0)), "not built|79 categories"),
    "one name twice": (_edit("train", _set("categories", "name", "thing 1")), "79 categories"),
    "other categories": (_edit("val", _set("categories", "name", "new")), "different categories"),
    "path": (_edit("train", _set("images", "file_name", "../../x.jpg")), "leads elsewhere"),
    "huge": (_edit("train", _set("images", "height", 10**9)), "has the size"),
    "one picture twice": (
        _edit("train", lambda c: c["images"][1].update(file_name=c["images"][0]["file_name"])),
        "several images of one name",
    ),
}


@pytest.mark.parametrize("case", BROKEN_FILES)
def test_broken_annotation_files_are_named_in_one_line(tree, case):
    break_, says = BROKEN_FILES[case]
    break_(tree)
    with pytest.raises(UserError, match=says) as refused:
        source_of(tree)
    assert "2014.json" in str(refused.value) or case == "other categories"
    assert "\n" not in str(refused.value)


BROKEN_OUTLINES = {
    "none": [],
    "null": None,
    "text": [["a", "b", "c", "d", "e", "f"]],
    "odd": [[1, 2, 3, 4, 5, 6, 7]],
    "nested": [[[1, 2], [3, 4], [5, 6]]],
    "not a number": [[1, 2, float("nan"), 4, 5, 6]],
    "far out": [[1, 2, 1e12, 4, 5, 6]],
    "compressed": {"counts": "PPYo0", "size": list(SIZE)},
    "too many": {"counts": [0, 10**9], "size": list(SIZE)},
    "negative": {"counts": [-5, SIZE[0] * SIZE[1] + 5], "size": list(SIZE)},
    "halves": {"counts": [0.5, SIZE[0] * SIZE[1] - 0.5], "size": list(SIZE)},
    "of another size": {"counts": [0, SIZE[0] * SIZE[1]], "size": list(SIZE[::-1])},
}


@pytest.mark.parametrize("case", BROKEN_OUTLINES)
def test_a_broken_outline_is_named_with_its_annotation(tree, case):
    name = with_instances(tree, (1, BROKEN_OUTLINES[case], 0))
    with pytest.raises(
        UserError, match="instances_train2014.json: annotation 1006: has"
    ) as refused:
        source_of(tree).read("train", name)
    assert "\n" not in str(refused.value)


def test_missing_and_broken_pictures_are_named(tree):
    images, _ = tree
    source = source_of(tree)
    first, second, third, _ = source.names("train")
    (images / "train2014" / f"{first}.jpg").unlink()
    (images / "train2014" / f"{second}.jpg").write_bytes(b"junk")
    trees.save_image(images / "train2014" / f"{third}.jpg", np.zeros((64, 80, 3), np.uint8))
    for name, says in ((first, "cannot be read"), (second, "no image"), (third, "one size")):
        with pytest.raises(UserError, match=f"{name}.jpg.* {says}|{name}.jpg.*{says}"):
            source.read("train", name)
    (images / "val2014").rename(images / "elsewhere")
    with pytest.raises(UserError, match="val2014 is missing.*--images"):
        source_of(tree)


def test_the_origin_tells_choices_and_files_apart(tree):
    first = source_of(tree).origin
    assert source_of(tree).origin == first
    assert source_of(tree, crowd="class").origin != first
    with_instances(tree, (1, box(1, 1, 9, 9), 0))
    assert source_of(tree).origin != first
