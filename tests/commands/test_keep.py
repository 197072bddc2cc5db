"""Keeping what was learned, and correcting it: `predict --save` and `predict --fitted`."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

import apanet_jax
from apanet_jax.inference import segmenter
from apanet_jax.inference.files import prediction
from apanet_jax.inference.heads import bundled
from apanet_jax.inference.heads.head_choice import HeadSource
from apanet_jax.inference.segmenter import Segmenter
from tests.commands.predicting import given, run, write_scenes
from tests.inference.test_segmenter import LEFT, RED, RIGHT, ColourMatcher, scene

HEAD = ("small", ColourMatcher())


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Supports of red and green, two images to segment; `load` finds ColourMatcher."""
    for module in (bundled, segmenter):
        monkeypatch.setattr(module, "open_matcher", lambda *_, **__: HEAD)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "compiled"))
    write_scenes(tmp_path, {"a_clear": RED, "b_dark": (150, 20, 20)})
    return tmp_path


def contents(place):
    return {x.relative_to(place): x.read_bytes() for x in place.rglob("*") if x.is_file()}


def test_a_saved_segmenter_finds_what_it_found_before(folder):
    saved, query = folder / "red.apanet", folder / "new"
    assert run("--support", *given(folder), "--save", saved, "--output", folder / "a", query) == 0
    # Its supports are in it.
    for path in given(folder):
        path.unlink()
    assert run("--fitted", saved, "--output", folder / "b", query) == 0
    first, second = (contents(folder / x) for x in "ab")
    assert first == second
    assert json.loads((folder / "b" / "results.json").read_text())["supports"] == [
        [None, str(folder / "red.png"), str(folder / "red_truth.png")]
    ]
    loaded = apanet_jax.load(saved)
    mask = np.array(Image.open(folder / "a" / "a_clear_mask.png")) > 0
    np.testing.assert_array_equal(loaded.predict([query / "a_clear.png"])[0], mask)


def test_the_worst_is_listed_first_and_its_correction_is_learned(folder, capsys):
    saved, query = folder / "red.apanet", folder / "new"
    arguments = ["--output", folder / "out", query, "--format=png,csv"]
    assert run("--support", *given(folder), "--save", saved, *arguments) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == f"saved to {saved}: 1 support"
    where = printed.index("expected quality, the worst first:")
    assert [x.split("/")[-1] for x in printed[where + 1 :]] == ["b_dark.png", "a_clear.png"]

    def rows():
        return json.loads((folder / "out" / "results.json").read_text())["queries"]

    worst, best = rows()
    assert worst["query"].endswith("b_dark.png") and worst["quality"] < best["quality"]
    Image.fromarray(scene(RED, RIGHT)[1]).save(folder / "corrected.png")
    correction = ["--support", query / "b_dark.png", folder / "corrected.png"]
    # Saved without being asked for anything else.
    assert run("--fitted", saved, *correction, "--save", saved) == 0
    assert capsys.readouterr().out == f"saved to {saved}: 2 supports\n"
    assert run("--fitted", saved, *arguments) == 0
    supports = [scene(RED, LEFT), scene((150, 20, 20), RIGHT)]
    at_once = Segmenter(ColourMatcher()).fit(*zip(*supports, strict=True))
    for row in rows():
        (answer,) = at_once.answers([row["query"]])
        assert row["quality"] == round(answer.quality, 4)
    with (folder / "out" / "instances.csv").open() as file:
        qualities = [float(row["quality"]) for row in csv.DictReader(file)]
    assert qualities and qualities == sorted(qualities)


def test_a_saved_segmenter_learns_a_further_class(folder):
    saved = folder / "both.apanet"
    assert run("--class", "beetle", *given(folder), "--save", saved) == 0
    leaf = ["--class", "leaf", *given(folder, "green")]
    assert run("--fitted", saved, *leaf, "--output", folder / "out", folder / "new") == 0
    assert (folder / "out" / "a_clear_leaf_mask.png").exists()
    assert apanet_jax.load(saved).classes_ == ["beetle"]


def test_the_options_of_masks_are_those_of_the_command(folder):
    saved = folder / "red.apanet"
    assert run("--support", *given(folder), "--save", saved, "--smallest=100000") == 0
    assert not apanet_jax.load(saved).predict([folder / "red.png"])[0].any()
    assert run("--fitted", saved, "--output", folder / "out", folder / "red.png") == 0
    assert np.array(Image.open(folder / "out" / "red_mask.png")).any()


def of_an_own_head(place):
    source = HeadSource(str(place / "run"), "auto", True)
    image, mask = scene(RED, LEFT)
    Segmenter(ColourMatcher(), source=source).fit([image], [mask]).save(place / "own.apanet")


BAD = {
    "nothing to do": ([], "no support"),
    "fitted and nothing else": (["--fitted=red.apanet"], "no query: name images to segment, or"),
    "no output": (["--fitted=red.apanet", "new"], "no --output"),
    "an output without queries": (
        ["--fitted=red.apanet", "--save=x.apanet", "--output=out"],
        "no query",
    ),
    "fitted: missing": (["--fitted=none.apanet", "new", "--output=out"], "there is no none.apanet"),
    "fitted: a folder": (["--fitted=new", "new", "--output=out"], "new is a folder"),
    "fitted: an image": (["--fitted=red.png", "new", "--output=out"], "is no saved segmenter"),
    "fitted: cut": (["--fitted=cut.apanet", "new", "--output=out"], "is no saved segmenter"),
    "fitted: damaged": (["--fitted=bad.apanet", "new", "--output=out"], "that is damaged"),
    "fitted: newer": (["--fitted=newer.apanet", "new", "--output=out"], "saved in form 9"),
    "fitted: its head is gone": (["--fitted=own.apanet", "new", "--output=out"], "is not there"),
    "fitted: other weights": (
        ["--fitted=other.apanet", "new", "--output=out"],
        "had weights of the hash aaaaaaaaaaaa",
    ),
    "fitted and a head": (
        ["--fitted=red.apanet", "--head=dinov2", "new", "--output=out"],
        "--fitted and --head=dinov2 together",
    ),
    "fitted and a size": (
        ["--fitted=red.apanet", "--size=97", "new", "--output=out"],
        "--fitted and --size=97 together",
    ),
    "fitted and untrained": (
        ["--fitted=red.apanet", "--untrained", "new", "--output=out"],
        "--fitted and --untrained together",
    ),
    "fitted as a workdir": (
        ["--workdir=red.apanet", "--support", "red.png", "red_truth.png", "new", "--output=out"],
        "--fitted",
    ),
    "a class where there was none": (
        ["--fitted=red.apanet", "--class", "leaf", "green.png", "green_truth.png"]
        + ["new", "--output=out"],
        "has supports without a class's name: give further ones by --support",
    ),
    "no class where there was one": (
        ["--fitted=leaf.apanet", "--support", "red.png", "red_truth.png", "new", "--output=out"],
        "has supports with a class's name: give further ones by --class, as of leaf",
    ),
    "a correction without an object": (
        ["--fitted=red.apanet", "--support", "green.png", "none.png", "--save=red.apanet"],
        "no foreground",
    ),
    "a correction that is no image": (
        ["--fitted=red.apanet", "--support", "green.png", "gone.json", "--save=red.apanet"],
        "gone.json",
    ),
    "save: a folder": (["--fitted=red.apanet", "--save=new"], "new is a folder"),
    "save: no folder": (["--fitted=red.apanet", "--save=no/x.apanet"], "there is no folder"),
    "save: below a file": (["--fitted=red.apanet", "--save=red.png/x"], "there is no folder"),
    "save: an image": (["--fitted=red.apanet", "--save=red.png"], "is no saved segmenter: take"),
    "save: a result": (
        ["--fitted=red.apanet", "--save=new/results.json", "new", "--output=new"],
        "is called like a result",
    ),
}


@pytest.fixture
def saved(folder):
    """What `BAD` names, in the current folder."""
    image, mask = scene(RED, LEFT)
    made = Segmenter(ColourMatcher(), source=HeadSource(None, "small", True))
    made.fit([image], [mask]).save(folder / "red.apanet")
    content = (folder / "red.apanet").read_bytes()
    (folder / "cut.apanet").write_bytes(content[:-50])
    (folder / "bad.apanet").write_bytes(content[:-50] + bytes(50))
    newer = content.replace(b'\\"version\\": 1', b'\\"version\\": 9')
    (folder / "newer.apanet").write_bytes(newer)
    made.fit([image], [mask], ["leaf"]).save(folder / "leaf.apanet")
    of_an_own_head(folder)
    Image.fromarray(np.zeros((80, 120), np.uint8)).save(folder / "none.png")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(ColourMatcher, "fingerprints", lambda _: {"backbone": "a" * 64})
        made.save(folder / "other.apanet")
    return folder


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_changes_nothing(saved, monkeypatch, capsys, case):
    monkeypatch.chdir(saved)
    arguments, says = BAD[case]
    before = contents(saved)
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert says in error and error.startswith("error: ") and error.count("\n") == 1, error
    assert contents(saved) == before
    assert not (saved / "out").exists()


def test_queries_are_not_begun_where_the_segmenter_cannot_be_saved(folder, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("apanet_jax.runtime.atomic_files.synchronise", full)
    monkeypatch.setattr(prediction, "WrittenFiles", lambda _: pytest.fail("results were begun"))
    arguments = ["--support", *given(folder), "--save", folder / "x.apanet"]
    assert run(*arguments, "--output", folder / "out", folder / "new") == 2
    assert "No space left" in capsys.readouterr().err
    assert not list(folder.glob("x.apanet*"))
