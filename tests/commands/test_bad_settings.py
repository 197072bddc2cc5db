"""Settings, records, configs and workdirs that cannot be used: one line, nothing half-written."""

import json
import shutil

import pytest

from apanet_jax.runs import sweep
from apanet_jax.runs.run import make_run
from apanet_jax.runtime.errors import main_guard
from apanet_jax.training.checkpoints import Checkpoints
from apanet_jax.training.loop import Journal
from configs import folder, saved
from tests.commands.refusals import TINY, refused, start
from tests.training.test_checkpoints import state_at

BAD_OPTIONS = {
    "fodl=1": "did you mean 'fold'",
    "num_cluster=3": "did you mean 'model.num_clusters'",
    "modle.channels=8": "did you mean 'model.channels'",
    "fold": "expected key=value",
    "batch_size=4": "write which",
    "fold=one": "expected int",
    "fold=1.5": "expected int",
    "fold=True": "expected int",
    "fold=-2": "'fold' is -2",
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
    "num_clusters=99": "has 81 positions at image_size=65",
    "query_clusters=99": "has 81 positions at image_size=65",
    "image_size=33,foreground_prototypes=16,backbone=vgg16": "has 9 positions",
    "keep=False,views=4": "has no effect",
    "generate=6": "pass generate=0 to take these records",
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


def test_records_of_the_other_benchmark(prepared, tmp_path, capsys):
    """Their scores would be called the other one's."""
    copy = shutil.copytree(prepared, tmp_path / "records")
    index = json.loads((copy / "index.json").read_text()) | {"name": "pascal"}
    (copy / "index.json").write_text(json.dumps(index))
    command = start(copy, "dataset=coco", tmp_path / "run")
    refused(capsys, command, "are of pascal, and the config is for coco", "--config=pascal")
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
