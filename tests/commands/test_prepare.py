"""The prepare command as its user meets it."""

import json
import re
import subprocess
import sys

import pytest

from apanet_jax import prepare
from apanet_jax.data import building, records
from apanet_jax.data.sources.folder import FolderSource
from tests import trees


def run(*arguments):
    with pytest.raises(SystemExit) as ended:
        prepare.main([str(a) for a in arguments])
    return ended.value.code


def test_folder(tmp_path, capsys):
    source = trees.folder_tree(tmp_path / "mine", train=6, val=4)
    assert run("folder", "--source", source, "--output", tmp_path / "out", "--min_area=50") == 0
    printed = capsys.readouterr().out
    assert "mine: 6 training and 4 test images" in printed and "class3" in printed
    assert "too few listed, 5 supports and a query need 6:" in printed
    assert re.search(r"^  test      class1 \d, class2 \d", printed, re.M)
    assert max(map(len, printed.splitlines())) <= 80 + len(str(tmp_path))
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["pictures"] == {"train": 6, "val": 4}
    assert len(records.open_records(tmp_path / "out").split("val")) == 4


def test_pascal(tmp_path, capsys):
    voc, sbd, _ = trees.pascal_tree(tmp_path, own=4, sbd=6, both=2, val=4)
    arguments = ["pascal", "--voc", voc, "--sbd", sbd, "--output", tmp_path / "out"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "5953" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert run(*arguments, "--any_count") == 0
    assert records.open_records(tmp_path / "out").name == "pascal"


def test_coco(tmp_path, capsys):
    images, annotations = trees.coco_tree(tmp_path / "coco", train=4, val=3)
    arguments = ["coco", "--images", images, "--annotations", annotations]
    arguments += ["--output", tmp_path / "out"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "82081" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert run(*arguments, "--any_count") == 0
    assert "coco: 4 training and 3 test images" in capsys.readouterr().out
    opened = records.open_records(tmp_path / "out")
    assert (opened.name, len(opened.class_names)) == ("coco", 80)
    assert opened.folds[0] == opened.class_names[::4]
    assert run(*arguments, "--any_count", "--split=consecutive", "--overwrite") == 0
    assert records.open_records(tmp_path / "out").folds[3] == opened.class_names[60:]
    (annotations / "instances_val2014.json").write_text('{"images": [')
    capsys.readouterr()
    assert run(*arguments, "--any_count", "--overwrite") == 2
    error = capsys.readouterr().err
    assert "instances_val2014.json" in error and error.count("\n") == 1


def test_an_interrupted_command_goes_on_when_it_is_given_again(tmp_path, capsys, monkeypatch):
    source = trees.folder_tree(tmp_path / "mine", train=5, val=3)
    arguments = ["folder", "--source", source, "--output", tmp_path / "out"]
    monkeypatch.setattr(building, "MOST_IMAGES", 2)
    with monkeypatch.context() as patch:
        read = FolderSource.read

        def stopping(self, split, name):
            if name == "train_003":
                raise KeyboardInterrupt
            return read(self, split, name)

        patch.setattr(FolderSource, "read", stopping)
        assert run(*arguments) == 130
    printed = capsys.readouterr()
    assert "out.unfinished keeps what is finished" in printed.out and "stopped" in printed.err
    assert run(*arguments) == 0
    assert "train: going on, 2 of 5 are written" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out"]


def test_synthetic(tmp_path):
    arguments = ["--train=4", "--val=3", "--size=96", "--output", tmp_path / "out"]
    assert run("synthetic", *arguments) == 0
    opened = records.open_records(tmp_path / "out")
    assert len(opened.class_names) == 20 and len(opened.folds) == 4
    assert opened.split("train")[0]["image"].shape == (96, 96, 3)


def test_bad_files_are_named_and_left_out_only_when_asked(tmp_path, capsys):
    source = trees.folder_tree(tmp_path / "mine", train=4, val=3)
    (source / "JPEGImages" / "val_001.jpg").write_bytes(b"junk")
    arguments = ["folder", "--source", source, "--output", tmp_path / "out"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "val_001.jpg" in error and "--skip_bad" in error and not (tmp_path / "out").exists()
    assert run(*arguments, "--skip_bad") == 0
    assert "val_001.jpg" in capsys.readouterr().err


def test_a_wrong_argument_is_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "apanet_jax.prepare", "folder", "--source", "nowhere"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere is no folder") and done.stderr.count("\n") == 1
