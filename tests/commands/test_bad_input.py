"""Images, masks, lists and arguments that `prepare` cannot use: one line, nothing half-written."""

import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from apanet_jax import export, prepare
from apanet_jax.data.records import building
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from tests import trees
from tests.commands.refusals import refused

# Pictures and masks, through `prepare folder`.


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    return trees.folder_tree(tmp_path_factory.mktemp("tree") / "mine", train=2, val=1)


@pytest.fixture
def mine(tree, tmp_path):
    return shutil.copytree(tree, tmp_path / "mine")


def prepare_folder(source, *arguments):
    output = source.parent / "out"
    prepare.main(["folder", f"--source={source}", f"--output={output}", *arguments])


def png_that_says(width, height):
    """A PNG of a few bytes whose header promises any size."""

    def chunk(kind, content):
        checked = kind + content
        return struct.pack(">I", len(content)) + checked + struct.pack(">I", zlib.crc32(checked))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(9)))


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def saving(image, format=None, **options):
    return lambda path: image.save(
        path, format or path.suffix[1:].replace("jpg", "jpeg"), **options
    )


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def gray(value, size=(80, 64)):
    return Image.new("L", size, value)


BAD_PICTURES = {
    "missing": (os.unlink, "train_001 is missing"),
    "a folder": (lambda p: (p.unlink(), p.mkdir()), "cannot be read"),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "text": (lambda p: p.write_text("hello"), "no image"),
    "truncated": (cut, "cut short"),
    "header only": (lambda p: p.write_bytes(p.read_bytes()[:20]), "train_001.jpg"),
    "a bomb": (
        lambda p: p.write_bytes(png_that_says(60000, 60000)),
        "60000x60000 pixels, too many",
    ),
    "a smaller bomb": (lambda p: p.write_bytes(png_that_says(9000, 9000)), "9000x9000"),
    "GIF": (saving(Image.new("P", (80, 64)), "gif"), "GIF: expected JPEG or PNG"),
    "TIFF": (saving(Image.new("RGB", (80, 64)), "tiff"), "TIFF: expected JPEG or PNG"),
    "HEIC": (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic" + bytes(99)), "but HEIC"),
    "what macOS leaves": (lambda p: p.write_bytes(b"\0\5\x16\7" + bytes(99)), "no image"),
    "JSON": (lambda p: p.write_text('{"shapes": []}'), "no image that can be read"),
    "EPS": (lambda p: p.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"), "train_0"),
    "another size": (saving(Image.new("RGB", (64, 64))), "64x64 pixels and its mask 80x64"),
    "turned, its mask is not": (
        saving(Image.new("RGB", (80, 64)), exif=exif(6)),
        "64x80 pixels and its mask 80x64",
    ),
    "PNG turned by EXIF": (saving(Image.new("RGB", (64, 80)), "png", exif=exif(8)), "upright"),
}
BAD_MASKS = {
    "missing": (os.unlink, "cannot be read"),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:60]), "train_001.png"),
    "RGB": (saving(Image.new("RGB", (80, 64))), "mode RGB"),
    "RGBA": (saving(Image.new("RGBA", (80, 64))), "mode RGBA"),
    "gray with alpha": (saving(Image.new("LA", (80, 64))), "mode LA"),
    "16 bits": (saving(Image.new("I;16", (80, 64))), "mode I;16"),
    "another size": (saving(gray(1, (79, 64))), "80x64 pixels and its mask 79x64"),
    "label outside the classes": (saving(gray(5)), "ids [5], expected 0 to 4 or 255"),
    "a bomb": (
        lambda p: p.write_bytes(png_that_says(60000, 60000)),
        "60000x60000 pixels, too many",
    ),
    "BMP": (saving(gray(1), "bmp"), "BMP: expected PNG"),
}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("JPEGImages", n) for n in BAD_PICTURES] + [("SegmentationClass", n) for n in BAD_MASKS],
)
def test_a_picture_or_mask_that_cannot_be_used(mine, capsys, monkeypatch, kind, name):
    damage, says = {"JPEGImages": BAD_PICTURES, "SegmentationClass": BAD_MASKS}[kind][name]
    (path,) = (mine / kind).glob("train_001.*")
    damage(path)
    # Good pictures are not what this is about, and their builder takes its time.
    monkeypatch.setattr(building, "_write", written_without_its_records)
    refused(capsys, lambda: prepare_folder(mine), says, "1 images cannot be used")
    assert sorted(p.name for p in mine.parent.iterdir()) == ["mine"]


def written_without_its_records(source, split, names, start, place, progress):
    tally = building._Tally(source, split, progress)
    list(tally.samples(iter(names)))
    kept = tally.arrays()
    return building.Part(
        place,
        len(names),
        kept["names"].tolist(),
        kept["areas"],
        kept["sizes"],
        kept["digests"],
        0,
        kept["bad"].tolist(),
    )


def striped(mode, size=(80, 64)):
    """The left half light, the right half dark."""
    image = Image.new("RGB", size, (250, 240, 230))
    image.paste((10, 20, 30), (size[0] // 2, 0, size[0], size[1]))
    return image.convert(mode)


def translucent():
    image = striped("RGBA")
    image.putalpha(100)
    return image


GOOD_PICTURES = {
    "alpha": (translucent(), "png", {}),
    "palette": (striped("P"), "png", {}),
    "gray": (striped("L"), "png", {}),
    "CMYK": (striped("CMYK"), "jpg", {"quality": 95}),
    "16 bits": (
        Image.fromarray(np.array(striped("L")).astype(np.uint16) * 257),
        "png",
        {},
    ),
    "turned by EXIF": (striped("RGB").rotate(90, expand=True), "jpg", {"exif": exif(6)}),
}


def test_pictures_of_unusual_kinds_are_accepted_and_read_as_they_are_seen(mine, capsys):
    for name, (image, ending, options) in GOOD_PICTURES.items():
        stem = name.replace(" ", "_")
        image.save(mine / "JPEGImages" / f"{stem}.{ending}", **options)
        gray(1).save(mine / "SegmentationClass" / f"{stem}.png")
    for stem, value in (("no_foreground", 0), ("all_ignored", 255)):
        striped("RGB").save(mine / "JPEGImages" / f"{stem}.png")
        gray(value).save(mine / "SegmentationClass" / f"{stem}.png")
    sets = mine / "ImageSets" / "Segmentation" / "train.txt"
    stems = [name.replace(" ", "_") for name in GOOD_PICTURES] + ["no_foreground", "all_ignored"]
    sets.write_text("\n".join(stems) + "\n")
    with pytest.raises(SystemExit) as ended:
        prepare_folder(mine)
    assert ended.value.code == 0, capsys.readouterr().err
    split = open_records(mine.parent / "out").split("train")
    for number, name in enumerate(split.names):
        image = split[number]["image"].astype(int)
        assert image.shape == (64, 80, 3), name
        assert image[:, :30].min() > 190 and image[:, 50:].max() < 70, name
    areas = dict(zip(split.names, split.areas.tolist(), strict=True))
    assert areas["no_foreground"] == [64 * 80, 0, 0, 0, 0]
    assert areas["all_ignored"] == [0, 0, 0, 0, 0]


# Lists, classes, folds and arguments of `prepare`.

LISTS = "ImageSets/Segmentation/train.txt"
BAD_FILES = {
    "a list leads out": (LISTS, b"../../etc/passwd\n", "'../../etc/passwd', expected a plain name"),
    "a list is absolute": (LISTS, b"/etc/passwd\n", "'/etc/passwd'"),
    "a list names no file": (LISTS, b".\n", "'.'"),
    "a list with a null byte": (LISTS, b"train\x00_000\n", "expected a plain name"),
    "a list with an endless name": (LISTS, b"x" * 5000, "expected a plain name"),
    "a list is empty": (LISTS, b"", "names no image"),
    "a list is missing": (LISTS, None, "cannot be read"),
    "a list is no text": (LISTS, b"\xff\xfe\x00", "cannot be read"),
    "a list names twice": (LISTS, b"train_000\ntrain_000\n", "more than once"),
    "no classes": ("classes.txt", b"", "0 names"),
    "classes missing": ("classes.txt", None, "classes.txt is missing"),
    "classes are no text": ("classes.txt", b"\xff\xfe", "no text"),
    "classes twice": ("classes.txt", b"a\na\n", "2 names"),
    "too many classes": ("classes.txt", b"\n".join(b"%d" % i for i in range(255)), "255 names"),
    "folds missing": ("folds.json", None, "folds.json is missing"),
    "folds are no JSON": ("folds.json", b"[[", "no JSON"),
    "folds nested deeply": ("folds.json", b"[" * 100_000, "no JSON"),
    "folds are no lists": ("folds.json", b'{"0": ["class1"]}', "expected a list of folds"),
    "no fold": ("folds.json", b"[]", "expected a list of folds"),
    "an empty fold": ("folds.json", b'[["class1"], []]', "expected a list of folds"),
    "a fold of an unknown class": ("folds.json", b'[["class9"]]', "'class9'"),
    "a fold of numbers": ("folds.json", b"[[1]]", "names 1, which is none of the classes"),
    "a class in two folds": ("folds.json", b'[["class1"], ["class1"]]', "one fold only"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_list_or_its_like_that_cannot_be_used(mine, capsys, case):
    name, content, says = BAD_FILES[case]
    (mine / name).unlink()
    if content is not None:
        (mine / name).write_bytes(content)
    refused(capsys, lambda: prepare_folder(mine), says)
    assert sorted(p.name for p in mine.parent.iterdir()) == ["mine"]


BAD_ARGUMENTS = {
    "nothing": ([], "KIND"),
    "an unknown kind": (["cityscapes"], "cityscapes"),
    "no source": (["folder", "--output=out"], "--source"),
    "an unknown flag": (["synthetic", "--output=out", "--sise=9"], "--sise=9"),
    "a source that is none": (
        ["folder", "--source=nowhere", "--output=out"],
        "nowhere is no folder",
    ),
    "no number": (["synthetic", "--output=out", "--size=big"], "big"),
    "too small": (["synthetic", "--output=out", "--size=3"], "size"),
    "a negative count": (["synthetic", "--output=out", "--train=-1"], "train"),
    "a negative area": (["synthetic", "--output=out", "--min_area=-1"], "--min_area=-1"),
    "no shot": (["synthetic", "--output=out", "--shots=0"], "--shots=0"),
    "no VOC": (["pascal", "--voc=.", "--sbd=.", "--output=out"], "--voc"),
    "no COCO": (["coco", "--images=.", "--annotations=.", "--output=out"], "--images"),
    "no output": (["synthetic", "--output="], "--output: the path is empty"),
    "COCO twice": (
        ["coco", "--images=.", "--annotations=.", "--labels=.", "--output=out"],
        "--annotations and --labels",
    ),
    "unknown folds of COCO": (
        ["coco", "--images=.", "--annotations=.", "--split=random", "--output=out"],
        "interleaved",
    ),
    "a list that is not there": (
        ["coco", "--images=.", "--annotations=.", "--val_list=val.txt", "--output=out"],
        "go with --labels",
    ),
    "negative drawn": (["synthetic", "--output=out", "--train=4", "--val=-1"], "val is -1"),
    "nothing of YOLO's": (["yolo", "--source=.", "--output=out"], "no image with YOLO's labels"),
    "nothing of LabelMe's": (["labelme", "--source=.", "--output=out"], "no JSON of LabelMe"),
    "one file without images": (["coco_file", "--source=.", "--output=out"], "--images"),
    "output below a file": (
        ["synthetic", "--train=1", "--val=1", "--output=/dev/null/x"],
        "/dev/null",
    ),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_arguments_of_prepare(tmp_path, capsys, monkeypatch, case):
    arguments, says = BAD_ARGUMENTS[case]
    monkeypatch.chdir(tmp_path)
    refused(capsys, lambda: prepare.main(arguments), says)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["folder", "file", "source"])
def test_only_records_are_replaced(mine, capsys, kind):
    """What else was there was removed: one's thesis, or the very images that were read."""
    if kind == "folder":
        output = mine.parent / "keep"
        output.mkdir()
        (output / "thesis.txt").write_text("mine")
    elif kind == "file":
        output = mine.parent / "thesis.txt"
        output.write_text("mine")
    else:
        output = mine
    before = {path: path.read_bytes() for path in mine.parent.rglob("*") if path.is_file()}
    arguments = ["folder", f"--source={mine}", f"--output={output}", "--overwrite"]
    refused(capsys, lambda: prepare.main(arguments), "holds no records", "remove it yourself")
    assert before == {p: p.read_bytes() for p in mine.parent.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "thesis.txt",
        "few_shot_records/notes.txt",
        "features/mine.npy",
        "keep/index.json",
        ".git/HEAD",
    ],
)
def test_what_lies_beside_records_is_not_removed_with_them(mine, capsys, name):
    records = mine.parent / "records"
    arguments = ["folder", f"--source={mine}", f"--output={records}", "--overwrite"]
    write_records(FolderSource(mine), records)
    (records / name).parent.mkdir(parents=True, exist_ok=True)
    (records / name).write_text("mine")
    before = {path: path.read_bytes() for path in mine.parent.rglob("*") if path.is_file()}
    refused(capsys, lambda: prepare.main(arguments), f"{records / name} is no part of the records")
    assert before == {p: p.read_bytes() for p in mine.parent.rglob("*") if p.is_file()}


def test_records_are_replaced_with_their_kept_features_and_what_systems_leave(mine):
    records = mine.parent / "records"
    write_records(FolderSource(mine), records)
    before = {path.relative_to(records) for path in records.rglob("*")}
    kept = records / "features" / "0a1b"
    kept.mkdir(parents=True)
    names = ("middle.npy", "progress.json", "identity.txt", "in_use.lock", "in_use.txt", "._x")
    for path in (records / ".DS_Store", *(kept / name for name in names)):
        path.write_text("")
    write_records(FolderSource(mine), records, overwrite=True)
    assert {path.relative_to(records) for path in records.rglob("*")} == before


@pytest.mark.parametrize("name", ["README.md", "config.json"])
def test_an_export_replaces_nothing_but_an_export(tmp_path, capsys, name):
    (tmp_path / name).write_text("mine")
    refused(capsys, lambda: export.main([f"--output={tmp_path}"]), f"holds a {name}")
    assert [p.name for p in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"
    (tmp_path / name).unlink()
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            export.main([f"--output={tmp_path}"])
    refused(capsys, lambda: export.main(["--output="]), "--output: the path is empty")
