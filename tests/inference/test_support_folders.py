"""Folders of supports, by the names that their files have."""

import unicodedata

import pytest

from apanet_jax.inference.files.support_folders import folder_supports
from apanet_jax.runtime.errors import UserError


def lay(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def found(root):
    return [
        (name, *(str(path.relative_to(root)) for path in paths))
        for name, *paths in folder_supports(root)
    ]


@pytest.mark.parametrize(
    ("names", "pairs"),
    [
        (
            ["b.jpg", "a.jpg", "b_mask.png", "a.json"],
            [("a.jpg", "a.json"), ("b.jpg", "b_mask.png")],
        ),
        (["a.jpg", "a.png", "c.PNG", "c.json"], [("a.jpg", "a.png"), ("c.PNG", "c.json")]),
        (["a.png", "a_mask.png", "notes.txt", ".b.jpg"], [("a.png", "a_mask.png")]),
        (["a.jpg", "b.jpg", "all.json"], [("a.jpg", "all.json"), ("b.jpg", "all.json")]),
        (["images/a.png", "masks/a.png"], [("images/a.png", "masks/a.png")]),
        (["images/a.jpg", "masks/a_mask.png"], [("images/a.jpg", "masks/a_mask.png")]),
        (
            ["a.jpg", "a_1.png", "a_2.png", "b.jpg", "b_mask_1.png"],
            [("a.jpg", "a_1.png"), ("a.jpg", "a_2.png"), ("b.jpg", "b_mask_1.png")],
        ),
        (
            ["a.png", "a_mask.png", "a_1.png", "a_1_mask.png"],
            [
                ("a.png", "a_mask.png"),
                ("a_1.png", "a_1_mask.png"),
            ],
        ),
        (["a.jpg", "a.json", "__MACOSX/._a.jpg", "._a.jpg"], [("a.jpg", "a.json")]),
        # Of YOLO's labels, or notes and boxes.
        (["images/a.jpg", "labels/a.txt", "data.yaml"], [("images/a.jpg", "labels/a.txt")]),
        (["a.jpg", "a.txt", "classes.txt"], [("a.jpg", "a.txt")]),
        (["a.jpg", "a.txt", "a.xml", "a.json"], [("a.jpg", "a.json")]),
        (["a.jpg", "a.txt", "all.json"], [("a.jpg", "all.json")]),
        (["a.jpg", "a.txt", "a_1.png"], [("a.jpg", "a_1.png")]),
        (["a.jpg", "b.jpg", "cvat.xml"], [("a.jpg", "cvat.xml"), ("b.jpg", "cvat.xml")]),
        # An image may be called like this by itself.
        (["face_mask.jpg", "face_mask.png"], [("face_mask.jpg", "face_mask.png")]),
    ],
)
def test_masks_lie_beside_their_images(tmp_path, names, pairs):
    assert found(lay(tmp_path, *names)) == [(None, *pair) for pair in pairs]


def test_names_in_two_forms_of_unicode_are_one(tmp_path):
    composed, decomposed = (
        [unicodedata.normalize(form, name) for name in ("käfer", "möwe")] for form in ("NFC", "NFD")
    )
    lay(tmp_path, *(f"{n}.jpg" for n in decomposed), *(f"{n}.json" for n in composed))
    assert found(tmp_path) == [
        (None, f"{d}.jpg", f"{c}.json") for c, d in zip(composed, decomposed, strict=True)
    ]


def test_what_systems_leave_behind_is_no_class_and_no_support(tmp_path):
    lay(tmp_path, "beetle/a.jpg", "beetle/a.png", "beetle/Thumbs.db", "beetle/._a.jpg")
    lay(tmp_path, "__MACOSX/._a.jpg", ".ipynb_checkpoints/a.jpg", "desktop.ini", ".DS_Store")
    assert found(tmp_path) == [("beetle", "beetle/a.jpg", "beetle/a.png")]


def test_a_folder_for_each_class(tmp_path):
    lay(tmp_path, "leaf/a.jpg", "leaf/a.json", "beetle/images/a.jpg", "beetle/masks/a.png")
    assert found(tmp_path) == [
        ("beetle", "beetle/images/a.jpg", "beetle/masks/a.png"),
        ("leaf", "leaf/a.jpg", "leaf/a.json"),
    ]


def test_accents_may_be_written_in_two_ways(tmp_path):
    """macOS writes them as characters of their own, annotation tools as one with the letter."""
    apart, joined = (unicodedata.normalize(form, "käfer") for form in ("NFD", "NFC"))
    assert apart != joined
    lay(tmp_path, f"{apart}.jpg", f"{joined}.json", "möwe.jpg", "möwe.json")
    assert [(x.image.stem, x.mask.stem) for x in folder_supports(tmp_path)] == [
        (apart, joined),
        ("möwe", "möwe"),
    ]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["notes.txt"], "holds no image"),
        (["a.jpg", "b.jpg", "b.json", "a.md"], "a.jpg has no mask: expected one of a_mask.png"),
        (["a.jpg", "a.png", "a.json"], "a.jpg has 2 masks, a.json and a.png"),
        (["a.jpg", "one.json", "two.json"], "a.jpg has 2 masks, one.json and two.json"),
        (["leaf/a.jpg", "leaf/a.png", "stray.jpg"], "stray.jpg beside the folder leaf"),
        (["leaf/a.jpg"], "a.jpg has no mask"),
        (["images/a.jpg", "masks/b.png"], "a.jpg has no mask"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path, names, message):
    with pytest.raises(UserError, match=message):
        folder_supports(lay(tmp_path, *names))
    with pytest.raises(UserError, match="is no folder"):
        folder_supports(tmp_path / names[0])
