"""Tables I to III with results beside them, from small hand-made results.json files."""

import csv
import json

import pytest

from apanet_jax.data.sources.pascal import CLASS_NAMES
from apanet_jax.runtime.errors import UserError
from configs import pascal
from experiments.paper import main_tables
from experiments.paper.main_tables import markdown, runs_of, tables
from experiments.paper.run_lines import read_lines
from tests.scripts import assert_refused, run_script

APANET = "ours: apanet (n = 3, λ = 0.5)"


def result(fold, miou, *, seed=0, shot=1, checkpoint="last", classes=None, **others):
    """Returns one object of results.json; a fold's classes are PASCAL-5i's unless given."""
    classes = CLASS_NAMES[5 * fold : 5 * fold + 5] if classes is None else classes
    return {
        "dataset": "pascal",
        "backbone": "resnet50",
        "num_clusters": 3,
        "agnostic_weight": 0.5,
        "checkpoint": checkpoint,
        "fold": fold,
        "shot": shot,
        "training_seed": seed,
        "episodes": 5000,
        "miou": miou,
        "fb_iou": miou + 10,
        "iou_per_class": {name: miou for name in classes},
    } | others


def write(folder, *rows):
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(rows))


def sweep(workdir, values, **others):
    """Writes a sweep's folders: `values` holds each seed's mIoU by fold."""
    for seed, by_fold in values.items():
        for fold, miou in by_fold.items():
            write(workdir / f"seed{seed}" / f"fold{fold}", result(fold, miou, seed=seed, **others))


def read_runs(workdirs):
    return runs_of(read_lines(workdirs))


def lines(table, start):
    return [line for line in markdown(table).splitlines() if line.startswith(f"| {start}")]


def test_a_sweep_stands_in_its_tables_with_spread_seeds_and_episodes(tmp_path):
    sweep(tmp_path, {0: {0: 60, 1: 70, 2: 50, 3: 60}, 3: {0: 62, 1: 72, 2: 54, 3: 64}})
    first, second, second_fb, third = tables(read_runs([tmp_path]))
    # Seeds' means are 60 and 63, fold 0's values 60 and 62: deviations 3/sqrt(2) and sqrt(2).
    assert lines(first, "ours") == [
        f"| {APANET} | resnet50 | last | 61.0 ± 1.4 | 71.0 ± 1.4 | 52.0 ± 2.8 | "
        "62.0 ± 2.8 | 61.5 ± 2.1 |  |  |  |  |  | 2 | 5000 |"
    ]
    assert "| 71.0 ± 1.4 | 81.0 ± 1.4 |" in lines(third, "ours")[0]
    assert not lines(second, "ours") and not lines(second_fb, "ours")
    names = [line.split(" | ")[0] for line in markdown(first).splitlines()]
    assert names.index(f"| {APANET}") == names.index("| FWB", names.index("| CANet")) - 1


def test_published_rows_are_all_there_and_marked():
    first, second, _, third = tables([])
    assert [len(t.rows) for t in (first, second, third)] == [40, 26, 28]
    (rpmm, other) = lines(first, "RPMM")
    assert rpmm.endswith("| 53.0 | 55.0 | 66.5 | 51.9 | 47.6 | 54.0\\* |  |  |")
    assert "\\*" not in other.replace("56.3\\*", "")
    assert [line.split(" | ")[1] for line in lines(first, "APANet†")] == ["resnet50"]
    assert len(lines(first, "SCLNet†")) == 1
    text = markdown(first)
    assert "\n\\* printed so" in text and "\n† printed beside the label ResNet-101" in text
    assert "†" not in markdown(second) and "†" not in markdown(third)
    assert "co-FCN | vgg16 | as printed | – | – | – | – | 60.1 |" in markdown(third)


def test_best_and_last_and_variants_are_rows_of_their_own(tmp_path):
    for variant, clusters in (("baseline", 0), ("apanet", 3)):
        rows = [
            result(0, value, shot=shot, checkpoint=name, num_clusters=clusters)
            for shot in (1, 5)
            for name, value in (("best", 41.0 + clusters), ("last", 40.0 + clusters))
        ]
        write(tmp_path / "fold0" / variant, *rows)
    table = tables(read_runs([tmp_path]))[0]
    found = [line.split(" | ")[::3][:2] for line in lines(table, "ours")]
    assert found == [
        [f"| {APANET}", "44.0"],
        [f"| {APANET}", "43.0"],
        ["| ours: baseline", "41.0"],
        ["| ours: baseline", "40.0"],
    ]
    assert '"last" was not chosen' in markdown(table)


def test_the_mean_is_of_seeds_with_every_fold_alone(tmp_path):
    sweep(tmp_path, {0: {0: 60, 1: 70, 2: 50, 3: 60}, 1: {0: 10}})
    (line,) = lines(tables(read_runs([tmp_path]))[0], "ours")
    assert " | 35.0 ± 35.4 | 70.0 | 50.0 | 60.0 | 60.0 | " in line
    assert line.endswith("| 2, 1 with every fold | 5000 |")


def test_workdirs_of_single_folds_make_up_a_row(tmp_path):
    for fold in range(4):
        write(tmp_path / str(fold), result(fold, 60 + fold, episodes=1000))
    (line,) = lines(tables(read_runs([tmp_path / str(f) for f in range(4)]))[0], "ours")
    assert "| 60.0 | 61.0 | 62.0 | 63.0 | 61.5 |" in line and line.endswith("| 1 | 1000‡ |")
    assert len(read_runs([tmp_path / "0", tmp_path / "1" / ".." / "0"])) == 1


def test_runs_of_other_settings_are_kept_apart(tmp_path):
    for name, comparison in (("one", "conv"), ("two", "fem")):
        config = pascal.get_config(f"comparison={comparison},fold=1")
        write(tmp_path / name, result(1, 50))
        (tmp_path / name / "config.json").write_text(json.dumps(config.to_dict()))
    labels = [runs.label for runs in read_runs([tmp_path / "one", tmp_path / "two"])]
    label = "apanet (n = 3, λ = 0.5), comparison"
    assert labels == [f"{label} conv", f"{label} fem"]
    config = pascal.get_config("comparison=conv,fold=2,seed=5")
    (tmp_path / "two" / "results.json").write_text(json.dumps([result(2, 50, seed=5)]))
    (tmp_path / "two" / "config.json").write_text(json.dumps(config.to_dict()))
    assert len(read_runs([tmp_path / "one", tmp_path / "two"])) == 1


@pytest.mark.parametrize(
    ("changed", "title"),
    [
        ({"dataset": "scenes", "classes": ["lamp"]}, "mIoU on scenes, %"),
        ({"classes": ["person"]}, "mIoU on pascal, %; other folds than the paper's"),
        ({"dataset": "coco", "classes": ["person", "bicycle"]}, "mIoU on coco, %; other folds"),
    ],
)
def test_other_data_and_other_folds_have_a_table_without_the_paper(tmp_path, changed, title):
    write(tmp_path / "run", result(0, 30, **changed))
    *of_paper, miou, fb_iou = tables(read_runs([tmp_path]))
    assert len(of_paper) == 4 and not any(lines(table, "ours") for table in of_paper)
    assert miou.title.startswith(title) and fb_iou.title.startswith("FB-IoU")
    assert [row.method for row in miou.rows] == ["ours: run (n = 3, λ = 0.5)"]
    assert lines(miou, "ours")[0].endswith("| 30.0 | 30.0 | 1 | 5000 |")


def test_interleaved_coco_folds_stand_in_table_two(tmp_path):
    coco = {"dataset": "coco", "classes": ["bicycle", "bus"], "episodes": 20000}
    write(tmp_path / "run", result(1, 30, **coco))
    first, second, second_fb, third, *others = tables(read_runs([tmp_path]))
    assert lines(second, "ours") and lines(second_fb, "ours") and not others
    assert not lines(first, "ours") and not lines(third, "ours")


def test_coco_has_its_80_classes_in_the_order_of_their_ids():
    names = main_tables.CLASSES["coco"]
    assert len(set(names)) == 80
    places = {"person": 1, "stop sign": 12, "cat": 16, "hot dog": 53, "tv": 63, "toothbrush": 80}
    assert {name: names.index(name) + 1 for name in places} == places


def test_the_script_writes_tables_and_a_line_for_each_run(tmp_path):
    config = pascal.get_config("fold=2,steps=7")
    write(tmp_path / "run" / "fold2", result(2, 44.44, step=7), result(2, 50, shot=5, step=7))
    (tmp_path / "run" / "fold2" / "config.json").write_text(json.dumps(config.to_dict()))
    output = tmp_path / "tables"
    done = run_script("main_tables", f"--workdir={tmp_path / 'run'}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    text = (output / "main_tables.md").read_text()
    assert done.stdout.strip() == text.strip() and "| – | – | 44.4 | – | – |" in text
    with (output / "main_tables.csv").open() as file:
        first, second = csv.DictReader(file)
    assert first == {
        **{"dataset": "pascal", "fold": "2", "seed": "0", "shot": "1", "variant": "apanet"},
        **{"backbone": "resnet50", "comparison": "conv", "num_clusters": "3"},
        **{"agnostic_weight": "0.5", "training_list": "all", "prior": "high"},
        **{"image_size": "473", "steps": "7", "checkpoint": "last"},
        **{"miou": "44.44", "fb_iou": "54.44", "episodes": "5000"},
    }
    assert (second["shot"], second["miou"]) == ("5", "50")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("not json", "cannot be read"),
        ("{}", "expected a list of results"),
        (json.dumps([result(0, 50, backbone=None)]), "'backbone' of a result is None"),
        (json.dumps([result(0, 50) | {"miou": "high"}]), "'miou' of a result is 'high'"),
    ],
)
def test_results_that_cannot_be_read_are_named(tmp_path, content, said):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=said) as error:
        read_runs([tmp_path])
    assert str(tmp_path / "results.json") in str(error.value)


def test_a_run_that_is_there_twice_is_refused(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / name, result(0, 50))
    with pytest.raises(UserError, match="hold the same run, fold 0 with seed 0"):
        read_runs([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--workdir"),
        (["--workdir={}"], "holds no results.json"),
        (["--workdir={}", "--run"], "--run needs a --config"),
        (["--workdir={}", "--workdir=b", "--run", "--config=pascal"], "one --workdir"),
        (["--workdir={}", "--baseline"], "pass --run, too"),
        (["--workdir={}", "--run", "--config=pascal:records=nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, arguments, said):
    done = run_script("main_tables", *(each.format(tmp_path) for each in arguments))
    assert_refused(done, said)


def test_missing_runs_are_made_of_every_fold_with_the_baseline(tmp_path, monkeypatch):
    asked = []

    def run_missing(config, workdir):
        asked.append((config.sweep.folds, config.variants.to_dict(), workdir))
        sweep(workdir, {0: {0: 50}})

    monkeypatch.setattr("experiments.harness.run_missing", run_missing)
    workdir = tmp_path / "run"
    arguments = (f"--workdir={workdir}", "--run", "--baseline", "--config=pascal:seeds=0")
    assert run_script("main_tables", *arguments).returncode == 0
    variants = {"baseline": "num_clusters=0", "apanet": ""}
    assert asked == [(("all",), variants, workdir)]
