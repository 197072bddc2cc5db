"""The command as its user meets it, with a matcher in NumPy in the network's place."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apanet_jax import predict
from apanet_jax.inference import prediction, segmenter
from apanet_jax.inference.prediction_job import named_queries
from apanet_jax.inference.segmenter import Segmenter
from tests.inference.test_segmenter import GREEN, LEFT, RED, RIGHT, ColourMatcher, scene


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(segmenter, "load", lambda *_, **__: Segmenter(ColourMatcher()))
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
    names = {"contact.png", "results.json"}
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
    assert results["head"] == "general_head"
    rows = results["queries"]
    found, missed = (row["classes"][0] for row in rows)
    assert found["found"] and not missed["found"] and found["score"] > missed["score"]
    assert found["area"] == (mask > 0).sum() and missed["area"] == 0


def test_results_name_the_head(folder, monkeypatch):
    asked = []

    def load(*arguments, **named):
        asked.append((arguments, named["trained"]))
        return Segmenter(ColourMatcher())

    monkeypatch.setattr(segmenter, "load", load)
    out, support = folder / "out", ["--support", *given(folder), folder / "new"]
    for options, head, trained in (
        ([], "general_head", True),
        (["--workdir", "mine"], "mine", True),
        (["--untrained"], None, False),
    ):
        assert run(*options, *support, "--output", out) == 0
        assert json.loads((out / "results.json").read_text())["head"] == head
        assert asked.pop() == ((Path("mine") if head == "mine" else None,), trained)


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
    new, support = folder / "new", ["--support", image, mask]
    for arguments, message in (
        ([new], "no support"),
        ([*support, "--class", "a", image, mask, new], "--support and --class"),
        ([*support, "--supports", folder / "none", new], "is no folder"),
        ([*support, "--workdir", folder, "--untrained", new], "--workdir and --untrained"),
        (["--support", image, folder / "none.png", new], "no foreground"),
        (["--support", image, folder / "small.png", new], "must be of one size"),
        ([*support, *support, new], "given twice"),
        ([*support, new, "--threshold=1"], "--threshold=1: expected a number between 0 and 1"),
        ([*support, new, "--threshold=nan"], "--threshold=nan: expected a number"),
        ([*support, new, "--smallest=-1"], "--smallest=-1: expected 0 pixels or more"),
        ([*support, folder / "nothing.jpg"], "names no file"),
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
