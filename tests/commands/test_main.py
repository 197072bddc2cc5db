"""Whole runs, from the command line's config to the files that are left."""

import functools
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
import torch
from PIL import Image

from apanet_jax.config.saved import from_json, json_settings
from apanet_jax.config.settings import typed, with_options
from apanet_jax.data.loader import EpisodeIterator
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.pascal import PascalSource
from apanet_jax.evaluation.protocol import count_episodes, make_count
from apanet_jax.inference.heads.exported_head import export
from apanet_jax.models import backbones
from apanet_jax.models.network import Network
from apanet_jax.runs import sweep
from apanet_jax.runs.run import make_run
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.programs import Programs
from apanet_jax.training.loop import train
from apanet_jax.training.side_by_side import train_side_by_side
from apanet_jax.weights import pfenet
from configs import folder, pascal, quickstart
from tests import reference_cases, trees
from tests.scripts import ROOT
from tests.small_backbone import OPTIONS

pytestmark = pytest.mark.usefixtures("small_backbone")

TINY = (
    f"{OPTIONS},checkpoint_every=2,log_every=2,episodes=6,shots=1+2,devices=1,"
    "validation_episodes=4,pictures=2"
)


def config_of(prepared, options=""):
    return folder.get_config(f"{TINY},records={prepared},{options}")


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_what_scripts_and_people_read(prepared, tmp_path, capsys):
    config = config_of(prepared, "every=3")
    results = sweep.run_all(config, tmp_path / "run", "train_and_evaluate")
    assert results == {"run": json.loads((tmp_path / "run" / "results.json").read_text())}
    rows = results["run"]
    assert [(r["checkpoint"], r["shot"]) for r in rows] == [
        ("best", 1),
        ("best", 2),
        ("last", 1),
        ("last", 2),
    ]
    assert (
        rows[-1].items()
        >= {
            "dataset": "mine",
            "fold": 0,
            "backbone": "small",
            "episodes": 6,
            "seed": 321,
            "step": 4,
            "num_clusters": 3,
            "agnostic_weight": 0.5,
        }.items()
    )
    assert set(rows[0]["iou_per_class"]) == {"class1", "class2"}
    assert all(0 <= r["miou"] <= 100 and 0 <= r["fb_iou"] <= 100 for r in rows)

    lines = metrics(tmp_path / "run")
    assert [x["step"] for x in lines if "loss" in x] == [2, 3, 4]
    for line in (x for x in lines if "loss" in x):
        expected = 0.5 * line["loss_specific"] + 0.5 * line["loss_agnostic"]
        assert line["loss"] == pytest.approx(expected, rel=1e-4)
    assert [x["step"] for x in lines if "validation_miou" in x] == [3, 4]
    assert json.loads((tmp_path / "run" / "config.json").read_text())["fold"] == 0
    assert list((tmp_path / "run").glob("events*"))
    pictures = sorted((tmp_path / "run" / "pictures").glob("*.png"))
    assert len(pictures) == 2 and Image.open(pictures[0]).width > 4 * 200
    printed = capsys.readouterr().out
    assert "run (best)" in printed and "1-shot mIoU" in printed
    report = (tmp_path / "run" / "report.html").read_text()
    assert "Finished after 4 steps" in report and 'http-equiv="refresh"' not in report
    assert all(f'value="{row["miou"]!r}"' in report for row in rows)
    assert report.count("data:image/") == 2


def test_variants_are_runs_of_their_own(prepared, tmp_path):
    config = config_of(prepared)
    config.variants.baseline = "num_clusters=0"
    config.variants.apanet = ""
    results = sweep.run_all(config, tmp_path, "train_and_evaluate")
    assert [results[n][0]["num_clusters"] for n in ("baseline", "apanet")] == [0, 3]
    assert (tmp_path / "baseline" / "results.json").exists()
    assert metrics(tmp_path / "baseline")[0]["loss_agnostic"] == 0
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2


def test_folds_and_seeds_are_swept_into_one_table(prepared, tmp_path):
    config = config_of(prepared, "folds=all,seeds=0+3,shots=1")
    results = sweep.run_all(config, tmp_path, "train_and_evaluate")
    folders = ["seed0/fold0", "seed0/fold1", "seed3/fold0", "seed3/fold1"]
    assert list(results) == folders
    for name in folders:
        (row,) = json.loads((tmp_path / name / "results.json").read_text())
        assert name == f"seed{row['training_seed']}/fold{row['fold']}"
        assert len(list((tmp_path / name / "pictures").glob("*.png"))) == 2
        assert "Finished after 4 steps" in (tmp_path / name / "report.html").read_text()
    overview = (tmp_path / "report.html").read_text()
    assert "4 of 4 runs are finished" in overview and "refresh" not in overview
    assert all(f'href="{name}/report.html"' in overview for name in folders)
    lines = (tmp_path / "table.md").read_text().splitlines()
    mean = np.mean([rows[0]["miou"] for rows in results.values()])
    cells = next(line for line in lines if line.startswith(f"| {tmp_path.name} "))
    assert f"| {mean:.1f} ±" in cells
    again = sweep.run_all(config, tmp_path, "evaluate")
    assert again == results


def _stop_after(batches, monkeypatch):
    taken = {"count": 0}
    original = EpisodeIterator.__next__

    def stopping(self):
        taken["count"] += 1
        if taken["count"] > batches:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(EpisodeIterator, "__next__", stopping)


@pytest.mark.parametrize("stop", [1, 3])
def test_an_interrupted_run_ends_as_an_undisturbed_one(prepared, tmp_path, monkeypatch, stop):
    run = make_run(config_of(prepared))
    run.data.keeper.of_training(run.records.split("train"))
    whole = train(run.task(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        _stop_after(stop, patch)
        with pytest.raises(KeyboardInterrupt):
            train(run.task(), tmp_path / "parts")
    parts = train(run.task(), tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(parts), jax.device_get(whole))
    losses = [[x["loss"] for x in metrics(tmp_path / name)] for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_finished_run_is_not_trained_again(prepared, tmp_path, monkeypatch):
    run = make_run(config_of(prepared))
    first = train(run.task(), tmp_path)
    _stop_after(0, monkeypatch)
    again = train(run.task(), tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(first), jax.device_get(again))


def test_the_workdir_of_other_settings_is_refused(prepared, tmp_path):
    train(make_run(config_of(prepared)).task(), tmp_path)
    other = make_run(config_of(prepared, "seed=5")).task()
    with pytest.raises(UserError, match="other settings"):
        train(other, tmp_path)
    with pytest.raises(UserError, match="other settings"):
        train_side_by_side([(other, tmp_path, None)])


def test_drawn_records_are_those_of_the_workdir(tmp_path):
    config = quickstart.get_config()
    for name in ("a", "b"):
        named = sweep.with_drawn_records(config, tmp_path / name)
        assert named.data.records == str(tmp_path / name / "records")
    left_by_a_run = from_json(json.dumps(json_settings(typed(named))))
    moved = sweep.with_drawn_records(left_by_a_run, tmp_path / "moved")
    assert moved.data.records == str(tmp_path / "moved" / "records")


def test_evaluation_without_a_checkpoint_says_so(prepared, tmp_path):
    with pytest.raises(UserError, match="train first"):
        sweep.run_all(config_of(prepared), tmp_path, "evaluate")
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="nowhere holds no checkpoint"):
        sweep.run_all(config_of(prepared), tmp_path / "nowhere", "evaluate")
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("fold=7", "no fold 7"),
        ("records=nowhere", "apanet_jax.prepare"),
        ("weights=nowhere.pth", "nowhere.pth"),
        ("min_area=1000000", "left out of the drawing, 2 of 2 classes: class3, class4"),
        ("devices=4,training.batch_size=6", "multiple of 4"),
        ("devices=99", "99"),
        ("folds=0+9", "no fold 9"),
        ("training.batch_size=99,steps=0", "99 is more than the .* training images"),
        ("folds=1+1", "every number once"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(prepared, tmp_path, options, says):
    config = with_options(config_of(prepared), options)
    with pytest.raises(UserError, match=says) as refused:
        sweep.run_all(config, tmp_path / "run", "train")
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()


def test_a_loss_that_is_no_number_stops_the_run(prepared, tmp_path, monkeypatch):
    original = EpisodeIterator.__next__

    def without_numbers(self):
        batch = original(self)
        return batch | {"query_middle": np.full_like(batch["query_middle"], np.nan)}

    monkeypatch.setattr(EpisodeIterator, "__next__", without_numbers)
    run = make_run(config_of(prepared, "log_every=1"))
    with pytest.raises(UserError, match="the loss is nan at step 1 .*checkpoint is of step None"):
        train(run.task(), tmp_path)


@pytest.mark.slow
def test_pictures_instead_of_kept_features_train_too(prepared, tmp_path):
    config = config_of(
        prepared, "keep=False,masked_support=True,priors=high,cluster_features=high,shots=1"
    )
    (row,) = sweep.run_all(config, tmp_path / "run", "train_and_evaluate")["run"]
    assert row["step"] == 4


@pytest.mark.slow
def test_a_checkpoint_of_pfenet_is_scored_on_its_fold(tmp_path):
    tensors = reference_cases.seeded_tensors("vgg16_bn")
    state = {f"module.{name}": torch.tensor(x) for name, x in tensors.items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "split1.pth")
    voc, sbd, _ = trees.pascal_tree(tmp_path, own=30, sbd=40, both=5, val=60)
    write_records(PascalSource(voc, sbd, any_count=True), tmp_path / "records")
    config = pascal.get_config(
        f"records={tmp_path / 'records'},folds=1,backbone=vgg16_bn,comparison=fem,num_clusters=0,"
        f"checkpoint={tmp_path}/split{{fold}}.pth,image_size=65,min_area=50,episodes=6,"
        "evaluation.batch_size=3,shots=1+2,devices=1,workers=0,pictures=0,write_episodes=True"
    )
    rows = sweep.run_all(config, tmp_path / "run", "evaluate")["fold1"]
    assert [(r["checkpoint"], r["fold"], r["shot"]) for r in rows] == [
        ("given", 1, 1),
        ("given", 1, 2),
    ]
    # The network put together by hand from the same file.
    backbone, head = pfenet.load_checkpoint(tmp_path / "split1.pth", "vgg16_bn", pfenet.head())
    network = Network(backbones.create("vgg16_bn"), pfenet.head())
    (part,) = sweep.parts(config)
    run = make_run(part.config)
    lines = (tmp_path / "run/fold1/episodes/given_2shot.jsonl").read_text().splitlines()
    with run.data.test_batches(2, range(6)) as batches:
        counts, _ = count_episodes(
            make_count(network, head, backbone, run.mesh, Programs()), batches, episodes=6
        )
    assert [json.loads(line)["union"] for line in lines] == counts.union.tolist()


run_command = functools.partial(subprocess.run, capture_output=True, text=True)


WRONG = {
    "no --config": [],
    "nothing.py": ["--config=configs/nothing.py"],
    "did you mean 'fold'": ["--config=configs/folder.py:fodl=1"],
    "holds no records": ["--config=configs/folder.py:records=nowhere"],
    "used: 'fodl' Did you mean": ["--config=configs/folder.py", "--config.fodl=1"],
    "dream": ["--config=configs/folder.py", "--mode=dream"],
    "surplus": ["--config=configs/folder.py", "surplus"],
    "--workdir= is empty": ["--config=configs/folder.py", "--workdir="],
    "no_python.py is no config": ["--config=no_python.py"],
    "no_function.py is no config": ["--config=no_function.py"],
    "missing 1 required": ["--config=no_default.py"],
    "it returns None": ["--config=no_return.py"],
    "numbered from 0 to 1": [
        *("--config=folder", "--process=2", "--processes=2", "--coordinator=localhost:1"),
    ],
    "expected HOST:PORT": [
        *("--config=folder", "--process=0", "--processes=2", "--coordinator=localhost"),
    ],
    "'many'": ["--config=folder", "--config.model.num_clusters=many"],
    "no --workdir": ["--mode=verify"],
    "empty holds no results.json": ["--mode=verify", "--workdir=empty"],
}
"""Command lines, by what the answer says."""

# A process for each, without the seconds in which each would import.
EACH = """
import json, os, runpy, sys, tempfile
import apanet_jax.runs.sweep
answers = []
for arguments in json.loads(sys.argv[1]):
    with tempfile.TemporaryFile() as errors:
        child = os.fork()
        if not child:
            os.dup2(errors.fileno(), 2)
            sys.argv = ["apanet_jax.main", *arguments]
            runpy.run_module("apanet_jax.main", run_name="__main__")
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        errors.seek(0)
        answers.append((status, errors.read().decode()))
print(json.dumps(answers))
"""


CONFIGS = {
    "no_python.py": "def get_config(:",
    "no_function.py": "config = 3",
    "no_default.py": "def get_config(options): return options",
    "no_return.py": "def get_config(): pass",
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """The status and the errors of each wrong command line."""
    folder = tmp_path_factory.mktemp("wrong")
    (folder / "empty").mkdir()
    for name, content in CONFIGS.items():
        (folder / name).write_text(content)
    command = [sys.executable, "-c", EACH, json.dumps(list(WRONG.values()))]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = run_command(command, cwd=folder, env=environment)
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {*CONFIGS, "empty"}
    assert done.returncode == 0, done.stderr
    return dict(zip(WRONG, json.loads(done.stdout), strict=True))


@pytest.mark.parametrize("says", WRONG)
def test_a_wrong_command_line_is_answered_without_a_traceback(answers, says):
    status, errors = answers[says]
    assert status == 2 and says in errors
    assert errors.startswith("error: ") and errors.count("\n") == 1, errors


def test_scored_episodes_are_left_as_a_list_that_can_be_scored_again(prepared, tmp_path):
    config = config_of(prepared, "write_episodes=True,every=2")
    first = sweep.run_all(config, tmp_path / "run", "train_and_evaluate")["run"]
    folder = tmp_path / "run" / "episodes"
    assert {path.name for path in folder.iterdir()} == {
        f"{name}_{shot}shot.jsonl" for name in ("best", "last") for shot in (1, 2)
    }
    listed = folder / "last_2shot.jsonl"
    lines = [json.loads(line) for line in listed.read_text().splitlines()]
    (row,) = [r for r in first if (r["checkpoint"], r["shot"]) == ("last", 2)]
    for name, iou in row["iou_per_class"].items():
        mine = [line for line in lines if line["class"] == name]
        ratio = sum(x["intersection"][1] for x in mine) / sum(x["union"][1] for x in mine)
        assert iou == pytest.approx(100 * ratio, abs=1e-3)
    # The same episodes, in another order, whatever the seed and the shots of the config.
    reversed_list = tmp_path / "reversed.jsonl"
    reversed_list.write_text("\n".join(reversed(listed.read_text().splitlines())) + "\n")
    config = config_of(prepared, f"evaluation.seed=9,list={reversed_list},every=2")
    again = sweep.run_all(config, tmp_path / "run", "evaluate")["run"]
    (second,) = [r for r in again if r["checkpoint"] == "last"]
    same = ("miou", "fb_iou", "iou_per_class", "shot", "episodes")
    assert {key: second[key] for key in same} == {key: row[key] for key in same}
    assert second["seed"] is None and second["episode_list"] == str(reversed_list)


@pytest.mark.slow
def test_compiled_programs_are_kept_for_the_next_process(prepared, tmp_path):
    options = f"{TINY},records={prepared},pictures=0,compilation_cache={tmp_path}/cache"
    config = f"--config=configs/folder.py:{options}"
    command = [sys.executable, "-m", "tests.small_backbone", "train", config]
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    written = []
    for name in ("first", "second"):
        done = run_command([*command, f"--workdir={tmp_path / name}"], env=environment)
        assert done.returncode == 0, done.stderr
        written.append({path.name for path in (tmp_path / "cache").glob("*-cache")})
    assert any(name.startswith("jit__step") for name in written[0])
    assert written[0] == written[1]
    results = [(tmp_path / name / "results.json").read_text() for name in ("first", "second")]
    assert results[0] == results[1]


def test_a_head_is_trained_on_all_classes(prepared, tmp_path):
    config = config_of(prepared, "fold=-1,pictures=0")
    for mode in ("train_and_evaluate", "evaluate"):
        with pytest.raises(UserError, match="fold=-1 has no novel class to score: .*--mode=train"):
            sweep.run_all(config, tmp_path / "run", mode)
    assert not (tmp_path / "run").exists()
    sweep.run_all(config, tmp_path / "run", "train")
    run = make_run(config)
    assert set(run.data.base.supports) == {1, 2, 3, 4}
    export(tmp_path / "run", tmp_path / "head")
    assert "all classes" in (tmp_path / "head" / "README.md").read_text()


def test_runs_of_several_seeds_share_kept_features(prepared):
    first, second, own = (
        make_run(config_of(prepared, options)).data.keeper.seed
        for options in ("seed=1,features.seed=0", "seed=2,features.seed=0", "seed=2")
    )
    assert (first, second, own) == (0, 0, 2)
