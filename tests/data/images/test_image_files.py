"""Which files of a folder count: links, endings, names in two forms, and what systems leave."""

import os
import unicodedata

import pytest
from PIL import Image

from apanet_jax.data.images.image_files import (
    existing,
    files_below,
    find_images,
    is_left_behind,
    printable,
    relative_parts,
)
from apanet_jax.runtime.errors import UserError


def saved(path, kind=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(path, kind)
    return path


LEFT_BEHIND = (
    "._a.jpg",
    ".DS_Store",
    ".ipynb_checkpoints/a-checkpoint.jpg",
    "__MACOSX/._a.jpg",
    "__MACOSX/a.jpg",
    "Thumbs.db",
    "desktop.ini",
    ".Trash-1000/b.jpg",
    "$RECYCLE.BIN/b.jpg",
    "System Volume Information/b.jpg",
    "@eaDir/b.jpg",
)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "photos"
    for name in ("b.jpg", "a.PNG", "in/c.jpg"):
        saved(root / name, "jpeg")
    for name in LEFT_BEHIND:
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(b"\0\5\x16\7")
    return root


def names(paths, root):
    return [path.relative_to(root).as_posix() for path in paths]


def test_what_systems_and_notebooks_leave_behind_is_passed_over(photos):
    said = []
    assert names(find_images([str(photos)], said.append), photos) == ["a.PNG", "b.jpg", "in/c.jpg"]
    assert not said
    # As shells and the pattern itself give them.
    assert names(find_images([f"{photos}/**/*.jpg"]), photos) == ["b.jpg", "in/c.jpg"]
    given = [str(photos / name) for name in ("b.jpg", "Thumbs.db", "desktop.ini")]
    assert names(find_images(given), photos) == ["b.jpg"]
    with pytest.raises(UserError, match="holds no image"):
        find_images([str(photos / "Thumbs.db")])


def test_other_files_in_folders_are_counted_in_a_line(photos):
    for name in ("x.heic", "in/y.HEIC", "notes.txt", "LICENSE"):
        (photos / name).write_bytes(b"")
    said = []
    find_images([str(photos)], said.append)
    assert said == ["left out, no images that are read: 2 .heic, 1 .txt, 1 LICENSE"]
    only = photos.parent / "only"
    only.mkdir()
    (only / "z.heic").write_bytes(b"")
    with pytest.raises(UserError, match="holds no image .*but 1 .heic"):
        find_images([str(only)])


def test_endings_that_browsers_and_phones_write_are_images(tmp_path):
    kinds = {".jfif": "jpeg", ".jpe": "jpeg", ".avif": "avif", ".pbm": "ppm", ".webp": "webp"}
    for ending, kind in kinds.items():
        saved(tmp_path / f"a{ending}", kind)
    assert {path.suffix for path in find_images([str(tmp_path)])} == set(kinds)


def test_linked_folders_are_followed_once(photos, tmp_path):
    far = tmp_path / "far"
    saved(far / "z.jpg")
    os.symlink(far, photos / "linked")
    os.symlink(photos, photos / "in" / "circle")
    os.symlink(far, photos / "zz_again")
    os.symlink(tmp_path / "nowhere", photos / "broken")
    assert names(find_images([str(photos)]), photos) == [
        "a.PNG",
        "b.jpg",
        "in/c.jpg",
        "linked/z.jpg",
    ]


def test_files_come_in_order_and_once(photos):
    assert list(files_below(photos)) == sorted(files_below(photos))
    twice = find_images([str(photos / "b.jpg"), str(photos), f"{photos}/*.jpg"])
    assert names(twice, photos) == ["b.jpg", "a.PNG", "in/c.jpg"]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_a_name_is_found_in_either_form_of_unicode(tmp_path, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    stored = saved(tmp_path / unicodedata.normalize(form, "fälle") / (form + "_ö.jpg"))
    asked = tmp_path / unicodedata.normalize(other, "fälle") / (form + "_ö.jpg")
    assert not asked.exists() and existing(asked) == stored
    missing = tmp_path / "nowhere" / "a.jpg"
    assert existing(missing) == missing and existing(stored) == stored


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a.jpg", ("a.jpg",)),
        ("in/a.jpg", ("in", "a.jpg")),
        ("in\\a.jpg", ("in", "a.jpg")),
        ("..\\..\\media\\4\\a.jpg", ("media", "4", "a.jpg")),
        ("../../etc/passwd", ("etc", "passwd")),
        ("/etc/passwd", ("etc", "passwd")),
        ("C:\\data\\a.jpg", ("data", "a.jpg")),
        ("./a//b.jpg", ("a", "b.jpg")),
        ("..", ()),
    ],
)
def test_names_in_annotation_files_never_lead_out(name, parts):
    assert relative_parts(name) == parts


def test_names_that_are_not_utf8_can_be_printed():
    assert printable(os.fsdecode(b"caf\xe9")) == "caf\\udce9" and printable("café") == "café"
    assert is_left_behind("._x") and is_left_behind("THUMBS.DB") and not is_left_behind("x._jpg")


def test_videos_in_folders_are_left_out_with_a_word_on_how_to_take_them(tmp_path):
    for name in ("a.jpg", "clip.MOV"):
        (tmp_path / name).write_bytes(b"")
    said = []
    assert names(find_images([str(tmp_path)], said.append), tmp_path) == ["a.jpg"]
    assert said == [
        "left out, no images that are read: 1 .mov; a video is taken where it is named itself"
    ]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(UserError, match="but 1 .mov; a video is taken where it is named itself"):
        find_images([str(tmp_path)])
