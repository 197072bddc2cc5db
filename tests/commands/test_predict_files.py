"""Which files of an output folder `predict` writes, replaces and removes."""

import hashlib
import json

from apanet_jax.inference.files import prediction
from tests.commands.predicting import ALL_FORMATS, files_in, given, run


def test_results_never_describe_the_files_of_another_job(folder, monkeypatch):
    out = folder / "out"
    arguments = ["--support", *given(folder), "--output", out, folder / "new"]
    assert run(*arguments) == 0 and (out / "results.json").exists()

    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prediction, "overlay_of", stopped)
    assert run(*arguments) == 130
    assert not (out / "results.json").exists()


def test_given_files_are_never_replaced(folder, capsys):
    image, mask = given(folder)
    mask = mask.rename(folder / "red_mask.png")
    before = mask.read_bytes()
    assert run("--support", image, mask, "--output", folder, image) == 2
    assert "one of the given files" in capsys.readouterr().err and mask.read_bytes() == before


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
