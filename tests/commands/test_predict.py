"""The command as its user meets it, with a matcher in NumPy in the network's place."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apanet_jax.inference import segmenter
from apanet_jax.inference.files.queries import named_queries
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.reports import overlays
from tests.commands.predicting import ALL_FORMATS, files_in, given, run
from tests.inference.test_segmenter import LEFT, RED, RIGHT, ColourMatcher, scene


def test_masks_probabilities_overlays_and_what_was_found(folder):
    out = folder / "out"
    assert run("--no-refine", "--support", *given(folder), "--output", out, folder / "new") == 0
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
    of_query = {Path(row["query"]).stem: row["classes"][0] for row in rows}
    found, missed = of_query["with"], of_query["without"]
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
        assert run(*support, out, *options, "--no-refine") == 0
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
    alike = [query.name for query in named_queries([tmp_path / x for x in ("a b.jpg", "a_b.jpg")])]
    assert len(set(alike)) == 2 and all(name.startswith("a_b_") for name in alike)


def test_long_names_are_shortened_in_those_of_results(folder):
    """They met the file system's limit in the middle of the work."""
    long = ["ü" * 125, "ü" * 124 + "u"]
    for name in long:
        Image.fromarray(scene(RED, RIGHT)[0]).save(folder / f"{name}.png")
    classes = [x for name in ("k" * 250, "k" * 249) for x in ("--class", name, *given(folder))]
    queries = [folder / f"{name}.png" for name in long]
    assert run(*classes, "--output", folder / "out", *queries, ALL_FORMATS) == 0
    rows = json.loads((folder / "out" / "results.json").read_text())["queries"]
    masks = [found["mask"] for row in rows for found in row["classes"]]
    assert len(set(masks)) == 4 and all((folder / "out" / mask).exists() for mask in masks)
    assert {row["query"] for row in rows} == {str(path) for path in queries}


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
