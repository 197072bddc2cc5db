"""What `predict` cannot use is one line, and leaves nothing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apanet_jax.inference import segmenter
from tests.commands.predicting import ALL_FORMATS, files_in, given, run, video
from tests.inference.test_segmenter import LEFT, RED, scene


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


BAD_MASKS = {
    "few.txt": ("0 0.1 0.2", "line 1 is no label of YOLO's"),
    "boxes.txt": ("0 0.5 0.5 0.1 0.1", "has no outline for this image"),
    "labelme.json": ('{"shapes": 5}', "labelme.json"),
    "coco.json": ('{"images": [], "annotations": []}', "coco.json"),
    "studio.json": ('[{"image": "red.png", "tag": []}]', "not as JSON-MIN"),
    "cut.json": ('{"shapes": [', "cut.json"),
    "cvat.xml": ("<annotations>", "cut short or no XML"),
    "tracks.xml": ("<annotations><track/></annotations>", "is of a video"),
}


def test_bad_masks_of_other_tools_are_one_line_and_leave_nothing(folder, capsys):
    for name, (content, message) in BAD_MASKS.items():
        (folder / name).write_text(content)
        support = ["--support", folder / "red.png", folder / name]
        for rest in (["--output", folder / "out", folder / "new"], ["--save", folder / "s.apanet"]):
            assert run(*support, *rest) == 2
            error = capsys.readouterr().err
            assert message in error and error.rstrip().count("\n") <= 1, error
            assert error.splitlines()[-1].startswith("error: "), error
            assert not (folder / "out").exists() and not (folder / "s.apanet").exists()


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


def test_a_damaged_image_among_good_ones_is_reported_at_the_end(folder, capsys):
    whole = (folder / "new" / "with.png").read_bytes()
    (folder / "new" / "cut.png").write_bytes(whole[: len(whole) - 60])
    assert run("--support", *given(folder), "--output", folder / "out", folder / "new") == 2
    assert "1 of 3 images" in capsys.readouterr().err
    rows = json.loads((folder / "out" / "results.json").read_text())["queries"]
    assert ["error" in row for row in rows] == [False, False, True]


@pytest.mark.parametrize("earlier", [False, True])
def test_where_no_image_can_be_used_results_say_why_and_nothing_shows_nothing(
    folder, capsys, earlier
):
    support = ["--support", *given(folder), "--output", folder / "out", ALL_FORMATS]
    if earlier:
        assert run(*support, folder / "new") == 0
        capsys.readouterr()
    (folder / "text.png").write_text("no image")
    assert run(*support, folder / "text.png") == 2
    printed = capsys.readouterr()
    assert "found in" not in printed.out and printed.err.count("\n") == 1
    assert files_in(folder / "out") == {"results.json", "files.sha256"}
    (row,) = json.loads((folder / "out" / "results.json").read_text())["queries"]
    assert row["query"] == str(folder / "text.png") and row["error"] in printed.err


def test_of_several_damaged_images_each_is_a_line(folder, capsys):
    for name in ("empty.jpg", "text.png", "head.tif"):
        (folder / "new" / name).write_bytes(b"II*" if name == "head.tif" else name[:4].encode())
    assert run("--support", *given(folder), "--output", folder / "out", folder / "new") == 2
    *bad, last = capsys.readouterr().err.splitlines()
    assert last == "error: 3 of 5 images could not be used"
    assert [line.split("new/")[1].split(" ")[0] for line in bad] == [
        *("empty.jpg", "head.tif", "text.png"),
    ]
    assert all(line.startswith("bad  ") for line in bad)
