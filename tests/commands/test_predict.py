"""The command as its user meets it, with a matcher in NumPy in the network's place."""

import csv
import hashlib
import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2
from pycocotools.coco import COCO

from apanet_jax import predict
from apanet_jax.data.images import read_image
from apanet_jax.data.masks import read_mask
from apanet_jax.inference import prediction, segmenter
from apanet_jax.inference.queries import named_queries
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.reports import overlays
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(
        segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher(), head="colours")
    )
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    for name, colour, where in (("red", RED, LEFT), ("green", GREEN, LEFT)):
        image, mask = scene(colour, where)
        Image.fromarray(image).save(tmp_path / f"{name}.png")
        Image.fromarray(mask).save(tmp_path / f"{name}_truth.png")
    (tmp_path / "new").mkdir()
    Image.fromarray(scene(RED, RIGHT)[0]).save(tmp_path / "new" / "with.png")
    Image.fromarray(scene(GREEN, RIGHT)[0]).save(tmp_path / "new" / "without.png")
    return tmp_path


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        predict.main([str(x) for x in arguments])
    return ended.value.code


def given(folder, name="red"):
    return folder / f"{name}.png", folder / f"{name}_truth.png"


def test_masks_probabilities_overlays_and_what_was_found(folder):
    out = folder / "out"
    assert run("--support", *given(folder), "--output", out, folder / "new") == 0
    names = {"contact.png", "results.json", "files.sha256"}
    names |= {
        f"{n}_{k}.png" for n in ("with", "without") for k in ("mask", "probability", "overlay")
    }
    assert {path.name for path in out.iterdir()} == names
    mask, truth = np.array(Image.open(out / "with_mask.png")), scene(RED, RIGHT)[1]
    assert set(np.unique(mask)) == {0, 255}
    assert ((mask > 0) & truth).sum() / ((mask > 0) | truth).sum() > 0.8
    probability = np.array(Image.open(out / "with_probability.png"))
    np.testing.assert_array_equal(probability[mask == 255] >= 127, True)
    assert not np.array(Image.open(out / "without_mask.png")).any()
    results = json.loads((out / "results.json").read_text())
    assert results["head"] == "colours" and results["trained"]
    rows = results["queries"]
    found, missed = (row["classes"][0] for row in rows)
    assert found["found"] and not missed["found"] and found["score"] > missed["score"]
    assert found["area"] == (mask > 0).sum() and missed["area"] == 0


def test_results_name_the_head(folder, monkeypatch):
    asked = []

    def load(*arguments, **named):
        asked.append((*arguments, named["head"], named["trained"]))
        return Segmenter(ColourMatcher(), head="as opened")

    monkeypatch.setattr(segmenter, "load", load)
    out, support = folder / "out", ["--support", *given(folder), folder / "new"]
    for options, expected in (
        ([], (None, "auto", True)),
        (["--workdir", "mine"], (Path("mine"), "auto", True)),
        (["--head=small", "--untrained"], (None, "small", False)),
    ):
        assert run(*options, *support, "--output", out) == 0
        results = json.loads((out / "results.json").read_text())
        assert results["head"] == "as opened" and results["trained"] == expected[-1]
        assert asked.pop() == expected


def test_classes_have_masks_of_their_own_and_one_label_map(folder):
    classes = ["--class", "beetle", *given(folder), "--class", "leaf", *given(folder, "green")]
    assert run(*classes, "--output", folder / "out", folder / "new") == 0
    for name, label in (("with", 1), ("without", 2)):
        picture = Image.open(folder / "out" / f"{name}_labels.png")
        assert picture.mode == "P" and set(np.unique(picture)) == {0, label}
    assert (folder / "out" / "with_leaf_mask.png").exists()


def test_masks_follow_the_options(folder):
    out, support = folder / "out", ["--support", *given(folder), folder / "new", "--output"]

    def masks(*options):
        assert run(*support, out, *options) == 0
        return {n: np.array(Image.open(out / f"{n}_mask.png")) > 0 for n in ("with", "without")}

    plain = masks()
    strict = masks("--threshold=0.9")
    assert 0 < strict["with"].sum() < plain["with"].sum()
    assert not masks("--smallest=100000")["with"].any()
    # ColourMatcher's margin of green is below its threshold: a lower one marks it all the same.
    loose = masks("--threshold=0.0001")
    assert loose["without"].any()
    found = masks("--threshold=0.0001", "--only-found")
    assert found["with"].any() and not found["without"].any()


def test_supports_in_folders_give_what_they_give_by_name(folder):
    by_name, by_folder = folder / "by_name", folder / "by_folder"
    for name in ("red", "green"):
        for place, path in zip(
            (f"{name}.png", f"{name}_mask.png"), given(folder, name), strict=True
        ):
            (folder / "supports" / name).mkdir(parents=True, exist_ok=True)
            (folder / "supports" / name / place).write_bytes(path.read_bytes())
    classes = [x for name in ("green", "red") for x in ("--class", name, *given(folder, name))]
    assert run(*classes, "--output", by_name, folder / "new") == 0
    assert run("--supports", folder / "supports", "--output", by_folder, folder / "new") == 0
    for path in by_name.glob("*_labels.png"):
        assert path.read_bytes() == (by_folder / path.name).read_bytes()
    one = folder / "one"
    assert run("--supports", folder / "supports" / "red", "--output", one, folder / "new") == 0
    assert (one / "with_mask.png").exists()


def test_turned_images_are_segmented_upright(folder):
    image, _ = scene(RED, RIGHT)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(image).save(folder / "turned.png", exif=exif)
    code = run("--support", *given(folder), "--output", folder / "out", folder / "turned.png")
    assert code == 0
    mask = np.array(Image.open(folder / "out" / "turned_mask.png"))
    assert mask.shape == (120, 80) and mask[95, 35] == 255 and mask[30, 35] == 0


def test_bad_input_is_one_line_and_leaves_nothing(folder, capsys):
    image, mask = given(folder)
    Image.fromarray(np.zeros((80, 120), np.uint8)).save(folder / "none.png")
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(folder / "small.png")
    (folder / "text.png").write_text("no image")
    new, support = folder / "new", ["--support", image, mask]
    for arguments, message in (
        ([new], "no support"),
        ([*support, "--class", "a", image, mask, new], "--support and --class"),
        ([*support, "--supports", folder / "none", new], "is no folder"),
        ([*support, "--workdir", folder, "--untrained", new], "--workdir and --untrained"),
        ([*support, "--workdir", folder, "--head=small", new], "--workdir and --head=small"),
        ([*support, "--head=drawn", "--untrained", new], "--head=drawn and --untrained"),
        (["--support", image, folder / "none.png", new], "no foreground"),
        (["--support", image, folder / "small.png", new], "must be of one size"),
        ([*support, *support, new], "given twice"),
        ([*support, new, "--threshold=1"], "--threshold=1: expected a number between 0 and 1"),
        ([*support, new, "--threshold=nan"], "--threshold=nan: expected a number"),
        ([*support, new, "--smallest=-1"], "--smallest=-1: expected 0 pixels or more"),
        ([*support, folder / "nothing.jpg"], "names no file"),
        ([*support, new, "--negative", folder / "missing"], "missing"),
        ([*support, new, "--negative", image], "red.png is a support too"),
        ([*support, new, "--negative", folder / "text.png"], "text.png"),
    ):
        assert run(*arguments, "--output", folder / "out") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not (folder / "out").exists()


def test_the_home_folder_is_meant_by_its_sign(folder, monkeypatch, capsys):
    """Behind an equals sign the shell leaves it: a folder called ~ was made."""
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(folder)
    support = ["--support", "~/red.png", "~/red_truth.png"]
    assert run(*support, "--output=~/out", "~/new/*.png") == 0
    assert (folder / "out" / "results.json").exists() and not (folder / "~").exists()
    monkeypatch.setattr(Path, "expanduser", no_home)
    assert run(*support, "--output=out", "new") == 2
    assert "there is no home folder" in capsys.readouterr().err


def no_home(_):
    raise RuntimeError("Could not determine home directory.")


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(folder, monkeypatch, capsys):
    monkeypatch.setattr(segmenter, "load", lambda *_, **__: pytest.fail("the head was loaded"))
    (folder / "file").write_text("")
    given_support = ["--support", *given(folder), folder / "new", "--output"]
    assert run(*given_support, folder / "file") == run(*given_support, folder / "file" / "in") == 2
    assert capsys.readouterr().err.count("file is a file, expected a folder") == 2
    monkeypatch.setattr(os, "access", lambda path, _: Path(path) != folder)
    assert run(*given_support, folder / "out") == 2
    assert "cannot be written to" in capsys.readouterr().err
    assert not (folder / "out").exists()


def test_results_never_describe_the_files_of_another_job(folder, monkeypatch):
    out = folder / "out"
    arguments = ["--support", *given(folder), "--output", out, folder / "new"]
    assert run(*arguments) == 0 and (out / "results.json").exists()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction, "overlay_of", stopped)
    assert run(*arguments) == 130
    assert not (out / "results.json").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes are a matter of Linux")
def test_names_that_are_no_text_are_taken(folder, capsys):
    name = os.fsdecode(b"caf\xe9")
    for ending in ("", "_truth"):
        (folder / f"red{ending}.png").rename(folder / f"{name}{ending}.png")
    (folder / "new" / "with.png").rename(folder / "new" / f"{name}.png")
    out = folder / f"out {name}"
    assert run("--support", *given(folder, name), "--output", out, folder / "new") == 0
    rows = json.loads((out / "results.json").read_text())["queries"]
    assert all((out / row["classes"][0]["mask"]).exists() for row in rows)
    capsys.readouterr().out.encode()


def test_given_files_are_never_replaced(folder, capsys):
    image, mask = given(folder)
    mask = mask.rename(folder / "red_mask.png")
    before = mask.read_bytes()
    assert run("--support", image, mask, "--output", folder, image) == 2
    assert "one of the given files" in capsys.readouterr().err and mask.read_bytes() == before


def test_a_damaged_image_among_good_ones_is_reported_at_the_end(folder, capsys):
    whole = (folder / "new" / "with.png").read_bytes()
    (folder / "new" / "cut.png").write_bytes(whole[: len(whole) - 60])
    assert run("--support", *given(folder), "--output", folder / "out", folder / "new") == 2
    assert "1 of 3 images" in capsys.readouterr().err
    rows = json.loads((folder / "out" / "results.json").read_text())["queries"]
    assert ["error" in row for row in rows] == [True, False, False]


def test_what_was_left_out_is_said_at_the_end(folder, capsys):
    for name in ("a.heic", "b.heic", "notes.txt", "._with.png"):
        (folder / "new" / name).write_bytes(b"x")
    assert run("--support", *given(folder), "--output", folder / "out", folder / "new") == 0
    printed = capsys.readouterr()
    last = printed.out.splitlines()[-1]
    assert last == "left out, no images that are read: 2 .heic, 1 .txt" and not printed.err


def test_names_of_results_are_told_apart(tmp_path):
    paths = [tmp_path / x for x in ("a/1.jpg", "b/1.jpg", "b/2.jpg", "c/3.jpg", "c/3.png")]
    names = [query.name for query in named_queries(paths)]
    assert names == ["a_1", "b_1", "2", "c_3.jpg", "c_3.png"]


def files_in(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


ALL_FORMATS = "--format=png,coco,labelme,yolo,csv"


def test_every_format_says_what_the_masks_do(folder):
    out = folder / "out"
    classes = ["--class", "beetle", *given(folder), "--class", "leaf", *given(folder, "green")]
    assert run(*classes, "--output", out, folder / "new", ALL_FORMATS) == 0
    labels = {n: np.array(Image.open(out / f"{n}_labels.png")) for n in ("with", "without")}
    coco = COCO(out / "coco.json")
    for image in coco.loadImgs(coco.getImgIds()):
        decoded = np.zeros((image["height"], image["width"]), np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            decoded[coco.annToMask(annotation) > 0] = annotation["category_id"]
        np.testing.assert_array_equal(decoded, labels[Path(image["file_name"]).stem])
    for name, label in labels.items():
        content = json.loads((out / "labelme" / f"{name}.json").read_text())
        picture = (out / "labelme" / content["imagePath"]).resolve()
        assert picture == (folder / "new" / f"{name}.png").resolve()
        shown = read_image(folder / "new" / f"{name}.png")
        of_yolo = out / "yolo" / "labels" / f"{name}.txt"
        class_name = "beetle" if name == "with" else "leaf"
        for path in (out / "labelme" / f"{name}.json", of_yolo):
            read = read_mask(path, shown, class_name)
            assert ((read == 1) != (label > 0)).sum() <= 0.02 * (label > 0).sum()
        copied = out / "yolo" / "images" / f"{name}.png"
        assert copied.read_bytes() == (folder / "new" / f"{name}.png").read_bytes()
    rows = list(csv.DictReader((out / "instances.csv").open()))
    assert [(row["image"], row["class"]) for row in rows] == [
        ("with.png", "beetle"),
        ("without.png", "leaf"),
    ]
    assert sum(int(row["area"]) for row in rows) == sum((x > 0).sum() for x in labels.values())


def test_files_of_an_earlier_run_are_not_left(folder, capsys):
    out, support = folder / "out", ["--support", *given(folder), "--output", folder / "out"]
    assert run(*support, folder / "new", ALL_FORMATS) == 0
    (out / "mine.txt").write_text("notes")
    (out / "labelme" / "mine.json").write_text("{}")
    assert run(*support, folder / "new" / "with.png") == 0
    assert files_in(out) == {
        *("with_mask.png", "with_probability.png", "with_overlay.png", "contact.png"),
        *("results.json", "files.sha256", "mine.txt", "labelme/mine.json"),
    }
    assert not (out / "yolo").exists()
    for line in (out / "files.sha256").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest


def test_what_its_owner_changed_or_made_is_never_lost(folder, capsys):
    out, support = folder / "out", ["--support", *given(folder), "--output", folder / "out"]
    assert run(*support, folder / "new", "--format=labelme") == 0
    corrected = out / "labelme" / "with.json"
    content = json.loads(corrected.read_text())
    content["shapes"] = []
    corrected.write_text(json.dumps(content))
    before = {name: (out / name).read_bytes() for name in files_in(out)}
    for arguments, message in (
        ([*support, folder / "new"], "with.json was changed since predict wrote it"),
        ([*support, "--support", folder / "new" / "with.png", corrected], "one of the given files"),
    ):
        assert run(*arguments, folder / "new" / "without.png") == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert {name: (out / name).read_bytes() for name in files_in(out)} == before
    other = folder / "other"
    other.mkdir()
    (other / "with_mask.png").write_bytes(b"mine")
    assert run("--support", *given(folder), "--output", other, folder / "new") == 2
    assert "is no result of an earlier run" in capsys.readouterr().err
    assert files_in(other) == {"with_mask.png"}


def test_an_earlier_versions_files_are_not_left(folder):
    out = folder / "out"
    classes = ["--class", "a", *given(folder), "--class", "b", *given(folder, "green")]
    assert run(*classes, "--output", out, folder / "new") == 0
    (out / "files.sha256").unlink()
    assert run(*classes, "--output", out, folder / "new" / "with.png") == 0
    assert not [name for name in files_in(out) if name.startswith("without")]


def test_an_interrupted_runs_files_are_not_left(folder, monkeypatch):
    out, support = folder / "out", ["--support", *given(folder), "--output", folder / "out"]

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(prediction, "contact_sheet", stopped)
        assert run(*support, folder / "new") == 130
    assert (out / "with_mask.png").exists()
    assert run(*support, folder / "new" / "without.png") == 0
    assert not (out / "with_mask.png").exists() and (out / "without_mask.png").exists()


def video(path, frames, codec="MJPG"):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (width, height))
    for frame in frames:
        writer.write(frame[..., ::-1])
    writer.release()


def test_frames_of_videos_and_pages_of_tiff_files(folder, capsys):
    """The object is on the left in every other frame, on the right in the others."""
    frames = [scene(RED, LEFT if number % 2 else RIGHT) for number in range(6)]
    video(folder / "clip.avi", [image for image, _ in frames])
    pages = [Image.fromarray(image) for image, _ in frames]
    pages[0].save(folder / "stack.tif", save_all=True, append_images=pages[1:])
    out = folder / "out"
    queries = [folder / "clip.avi", folder / "stack.tif"]
    code = run("--support", *given(folder), "--output", out, *queries, "--every=3", ALL_FORMATS)
    assert code == 0
    rows = json.loads((out / "results.json").read_text())["queries"]
    assert [(Path(row["query"]).name, row["frame"]) for row in rows] == [
        *(("clip.avi", 0), ("clip.avi", 3), ("stack.tif", 0), ("stack.tif", 3)),
    ]
    for row in rows:
        name = row["classes"][0]["mask"].removesuffix("_mask.png")
        mask = np.array(Image.open(out / f"{name}_mask.png")) > 0
        truth = frames[row["frame"]][1]
        assert (mask & truth).sum() / (mask | truth).sum() > 0.8
        content = json.loads((out / "labelme" / f"{name}.json").read_text())
        assert (out / "labelme" / content["imagePath"]).is_file()
        assert (out / "yolo" / "images" / f"{name}.png").is_file()
    coco = json.loads((out / "coco.json").read_text())
    assert all((out / "frames" / image["file_name"]).is_file() for image in coco["images"])
    stored = np.array(Image.open(out / "frames" / "stack_frame000003.png"))
    np.testing.assert_array_equal(stored, frames[3][0])


def test_a_geotiffs_masks_lie_where_it_does(folder):
    image, _ = scene(RED, RIGHT)
    tags = {33550: (0.5, 0.5, 0.0), 33922: (0.0, 0.0, 0.0, 4e5, 5.2e6, 0.0)}
    tags |= {34735: (1, 1, 0, 1, 3072, 0, 1, 32633), 34737: "WGS 84 / UTM zone 33N|"}
    kinds = {33550: 12, 33922: 12, 34735: 3, 34737: 2}
    info = ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[tag], info.tagtype[tag] = value, kinds[tag]
    Image.fromarray(image).save(folder / "field.tif", tiffinfo=info)
    out = folder / "out"
    classes = ["--class", "a", *given(folder), "--class", "b", *given(folder, "green")]
    assert run(*classes, "--output", out, folder / "field.tif", folder / "new") == 0
    for kind in ("a_mask", "a_probability", "b_mask", "labels"):
        with Image.open(out / f"field_{kind}.tif") as written:
            assert {tag: written.tag_v2[tag] for tag in tags} == tags
            assert written.size == image.shape[1::-1]
    rows = json.loads((out / "results.json").read_text())["queries"]
    assert rows[0]["classes"][0]["mask"] == "field_a_mask.tif"
    assert (out / "with_a_mask.png").exists()


def test_bad_formats_and_videos_are_one_line_and_leave_nothing(folder, capfd):
    support, new = ["--support", *given(folder)], folder / "new"
    frames = [scene(RED, LEFT)[0]] * 3
    video(folder / "clip.mp4", frames, "mp4v")
    whole = (folder / "clip.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (folder / "list.mp4").write_text("#EXTM3U\nhttp://localhost:1/a.ts\n")
    for arguments, message in (
        ([new, "--format=voc"], "--format=voc: voc is none, expected some of png,coco,labelme"),
        ([new, "--format="], "--format=: none is given"),
        ([new, "--every=2"], "--every=2: no query is a video"),
        ([folder / "clip.mp4", "--every=0"], "--every=0: expected 1 or more"),
        ([folder / "cut.mp4"], "cut.mp4 is no video that can be read"),
    ):
        assert run(*support, *arguments, "--output", folder / "out") == 2
        error = capfd.readouterr().err
        assert message in error and error.count("\n") == 1, error
        assert not (folder / "out").exists()
    assert run(*support, folder / "list.mp4", "--output", folder / "out") == 2
    assert "is no image that can be read" in capfd.readouterr().err


def test_animations_say_what_is_left_out(folder, capsys):
    frames = [Image.fromarray(scene(RED, where)[0]) for where in (RIGHT, LEFT)]
    frames[0].save(folder / "moving.gif", save_all=True, append_images=frames[1:])
    out = folder / "out"
    assert run("--support", *given(folder), "--output", out, folder / "moving.gif") == 0
    assert "all but the first frame of 1 animations" in capsys.readouterr().out
    assert "moving_mask.png" in files_in(out)


def test_a_sheet_says_names_in_full_and_what_colours_mean():
    long = "a_very_long_name_of_a_beetle_that_fits_no_line_of_the_sheet_at_all_2024-05-06"
    lines = overlays.wrapped(long, 224)
    assert "".join(lines) == long and len(lines) > 1
    assert overlays.wrapped("one two", 30) == ["one", "two"]
    strip = overlays.legend([((1, 2, 3), "beetle"), (None, "(0.2): not found")], 200)
    assert strip.shape[1] == 200 and (strip == (1, 2, 3)).all(-1).any()
    white = np.zeros((30, 40, 3), np.uint8)
    one, three = (overlays.sheet([[(c, white)]], 224).shape[0] for c in ("a", "a\nb\nc"))
    assert three - one == 2 * 18
