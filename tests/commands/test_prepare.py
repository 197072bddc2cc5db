"""The prepare command as its user meets it."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest

from apanet_jax import prepare
from apanet_jax.data.records import building
from apanet_jax.data.records.reading import open_records
from apanet_jax.data.sources.coco import CocoSource
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.pascal import PascalSource
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
    assert len(open_records(tmp_path / "out").split("val")) == 4


def test_pascal(tmp_path, capsys):
    voc, sbd, _ = trees.pascal_tree(tmp_path, own=4, sbd=6, both=2, val=4)
    arguments = ["pascal", "--voc", voc, "--sbd", sbd, "--output", tmp_path / "out"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "5953" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert run(*arguments, "--any_count") == 0
    assert open_records(tmp_path / "out").name == "pascal"


def test_coco(tmp_path, capsys):
    images, annotations = trees.coco_tree(tmp_path / "coco", train=4, val=3)
    arguments = ["coco", "--images", images, "--annotations", annotations]
    arguments += ["--output", tmp_path / "out"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "82081" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
    assert run(*arguments, "--any_count") == 0
    assert "coco: 4 training and 3 test images" in capsys.readouterr().out
    opened = open_records(tmp_path / "out")
    assert (opened.name, len(opened.class_names)) == ("coco", 80)
    assert opened.folds[0] == opened.class_names[::4]
    assert run(*arguments, "--any_count", "--split=consecutive", "--overwrite") == 0
    assert open_records(tmp_path / "out").folds[3] == opened.class_names[60:]
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
    opened = open_records(tmp_path / "out")
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
    printed = capsys.readouterr()
    assert "val_001.jpg" in printed.err
    *_, note, _, where = printed.out.splitlines()
    assert note.startswith("left out: 1 images that cannot be used, the first: val val_001: ")
    assert where == f"records: {tmp_path / 'out'}"


def test_a_wrong_argument_is_one_line_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "apanet_jax.prepare", "folder", "--source", "nowhere"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "out")], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: nowhere is no folder") and done.stderr.count("\n") == 1


def test_pascal_from_label_maps_and_lists(tmp_path, capsys):
    voc, sbd, names = trees.pascal_tree(tmp_path, own=4, sbd=6, both=2, val=4, size=(40, 48))
    official = PascalSource(voc, sbd, any_count=True)
    arguments = ["pascal", f"--voc={voc}", f"--output={tmp_path / 'out'}"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "--sbd=DIR" in error and "--labels" in error and error.count("\n") == 1
    arguments.append("--labels=SegmentationClassAug")
    for split in ("train", "val"):
        trees.write_list(tmp_path / f"{split}.txt", official.names(split))
        arguments.append(f"--{split}_list={tmp_path / f'{split}.txt'}")
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert f"looked for {voc / 'SegmentationClassAug'}" in error and error.count("\n") == 1
    for split in ("train", "val"):
        for name in official.names(split):
            path = voc / "SegmentationClassAug" / f"{name}.png"
            trees.save_label(path, official.read(split, name).label)
    assert run(*arguments) == 0
    printed = capsys.readouterr().out
    assert "the train list has 8 images, the protocol's has 5953" in printed
    assert open_records(tmp_path / "out").split("val").names == names["val"]


def test_coco_from_label_maps(tmp_path, capsys):
    images, annotations = trees.coco_tree(tmp_path / "coco", train=2, val=2, size=(40, 48))
    arguments = ["coco", f"--images={images}", f"--output={tmp_path / 'out'}", "--any_count"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "--annotations" in error and "--labels" in error and error.count("\n") == 1
    source = CocoSource(images, annotations, any_count=True)
    for split in ("train", "val"):
        for name in source.names(split):
            label = source.read(split, name).label
            trees.save_label(annotations / f"{split}2014" / f"{name}.png", label)
    assert run(*arguments, f"--labels={annotations}", "--classes=person,bicycle") == 0
    assert "left out, 78 classes: car, motorcycle" in capsys.readouterr().out
    assert open_records(tmp_path / "out").class_names == ("person", "bicycle")
    trees.write_list(tmp_path / "a.txt", ["a"])
    assert run(*arguments, f"--annotations={annotations}", f"--val_list={tmp_path / 'a.txt'}") == 2
    assert "--labels" in capsys.readouterr().err


def test_crowds_of_a_coco_file_may_be_its_objects(tmp_path, capsys):
    trees.save_image(tmp_path / "a.png", np.zeros((20, 30, 3), np.uint8))
    trees.save_image(tmp_path / "b.png", np.zeros((20, 30, 3), np.uint8))
    mask = np.zeros((20, 30), bool)
    mask[4:16, 5:25] = True
    outline = {"size": [20, 30], "counts": trees.run_lengths(mask)}
    content = {
        "images": [
            {"id": i, "file_name": f"{name}.png", "height": 20, "width": 30}
            for i, name in enumerate("ab")
        ],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"id": i, "image_id": i, "category_id": i + 1, "iscrowd": 1, "segmentation": outline}
            for i in range(2)
        ],
    }
    (tmp_path / "cvat.json").write_text(json.dumps(content))
    arguments = ["coco_file", f"--images={tmp_path}", f"--annotations={tmp_path / 'cvat.json'}"]
    arguments += [f"--output={tmp_path / 'out'}", "--test=2"]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "--crowd=class" in error and error.count("\n") == 1
    assert run(*arguments, "--crowd=class") == 0
    opened = open_records(tmp_path / "out")
    assert opened.split("train").areas.tolist() == [[360, 240, 0]]


def test_a_tilde_behind_an_equals_sign_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert run("synthetic", "--train=2", "--val=2", "--size=64", "--output=~/records") == 0
    assert (tmp_path / "records" / "index.json").exists() and not (tmp_path / "~").exists()
