"""Tables I to III with results beside them, from small hand-made results.json files."""

import csv
import json

import pytest

from apanet_jax.data import records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.pascal import CLASS_NAMES
from apanet_jax.runtime.errors import UserError
from configs import pascal
from experiments.paper import main_tables
from experiments.paper.main_tables import markdown, read_runs, run_missing, tables
from tests import trees
from tests.scripts import run_script


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


def lines(table, start):
    return [line for line in markdown(table).splitlines() if line.startswith(f"| {start}")]


def test_a_sweep_stands_in_its_tables_with_spread_seeds_and_episodes(tmp_path):
    sweep(tmp_path, {0: {0: 60, 1: 70, 2: 50, 3: 60}, 3: {0: 62, 1: 72, 2: 54, 3: 64}})
    first, second, second_fb, third = tables(read_runs([tmp_path]))
    # Seeds' means are 60 and 63, fold 0's values 60 and 62: deviations 3/sqrt(2) and sqrt(2).
    assert lines(first, "ours") == [
        "| ours: n = 3, λ = 0.5 | resnet50 | last | 61.0 ± 1.4 | 71.0 ± 1.4 | 52.0 ± 2.8 | "
        "62.0 ± 2.8 | 61.5 ± 2.1 |  |  |  |  |  | 2 | 5000 |"
    ]
    assert "| 71.0 ± 1.4 | 81.0 ± 1.4 |" in lines(third, "ours")[0]
    assert not lines(second, "ours") and not lines(second_fb, "ours")
    names = [line.split(" | ")[0] for line in markdown(first).splitlines()]
    assert names.index("| ours: n = 3, λ = 0.5") == names.index("| FWB", names.index("| CANet")) - 1


def test_published_rows_are_all_there_and_marked():
    first, second, _, third = tables([])
    assert [len(t["rows"]) for t in (first, second, third)] == [40, 26, 28]
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
        ["| ours: apanet (n = 3, λ = 0.5)", "44.0"],
        ["| ours: apanet (n = 3, λ = 0.5)", "43.0"],
        ["| ours: baseline (n = 0)", "41.0"],
        ["| ours: baseline (n = 0)", "40.0"],
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
    assert labels == ["n = 3, λ = 0.5, one", "n = 3, λ = 0.5, two"]
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
    assert miou["title"].startswith(title) and fb_iou["title"].startswith("FB-IoU")
    assert [row["source"] for row in miou["rows"]] == ["ours"]
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


def test_the_script_writes_markdown_csv_and_json(tmp_path):
    write(tmp_path / "run" / "fold2", result(2, 44.44))
    output = tmp_path / "tables"
    done = run_script("main_tables.py", f"--workdir={tmp_path / 'run'}", f"--output={output}")
    assert done.returncode == 0, done.stderr
    text = (output / "main_tables.md").read_text()
    assert done.stdout.strip() == text.strip() and "| – | – | 44.4 | – | – |" in text
    with (output / "main_tables.csv").open() as file:
        rows = list(csv.DictReader(file))
    # 112 of the paper, and mIoU and FB-IoU of ours.
    assert len(rows) == 114
    (ours,) = [row for row in rows if row["source"] == "ours" and row["table"] == "I"]
    assert [ours[k] for k in ("fold2", "mean", "seeds", "episodes")] == ["44.44", "", "1", "5000"]
    found = json.loads((output / "main_tables.json").read_text())["tables"][0]
    assert found["table"] == "I" and len(found["rows"]) == 41


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
        ([], "no --workdir"),
        (["--workdir={}"], "holds no results.json"),
        (["--workdir={}", "--run"], "no --config"),
        (["--workdir={}", "--workdir=b", "--run"], "one --workdir"),
        (["--workdir={}", "--baseline"], "pass --run, too"),
        (["--workdir={}", "--run", "--config=configs/pascal.py:records=nowhere"], "nowhere"),
    ],
)
def test_bad_input_gets_one_line(tmp_path, arguments, said):
    done = run_script("main_tables.py", *(each.format(tmp_path) for each in arguments))
    assert done.returncode == 2 and said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_only_what_has_no_results_is_run(tmp_path, monkeypatch):
    ran = []

    def run_all(config, workdir, mode):
        ran.append((config.fold, config.seed, workdir, mode))

    monkeypatch.setattr("apanet_jax.runs.sweep.run_all", run_all)
    config = pascal.get_config("seeds=0+1,shots=1+5,compilation_cache=")
    config.sweep.folds = (0, 1)
    both = [result(0, 50, shot=shot) for shot in (1, 5)]
    write(tmp_path / "seed0" / "fold0", *both)
    write(tmp_path / "seed0" / "fold1", result(1, 50, shot=1))
    write(tmp_path / "seed1" / "fold0", *(row | {"episodes": 10} for row in both))
    run_missing(config, tmp_path)
    assert ran == [
        (fold, seed, tmp_path / f"seed{seed}" / f"fold{fold}", "train_and_evaluate")
        for seed, fold in ((0, 1), (1, 0), (1, 1))
    ]


@pytest.mark.slow
def test_one_command_runs_every_fold_and_tells(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
    records.write(FolderSource(trees.folder_tree(tmp_path / "mine")), tmp_path / "records")
    options = (
        f"records={tmp_path / 'records'},min_area=50,image_size=65,longer_side=65,channels=8,"
        "steps=2,training.batch_size=2,evaluation.batch_size=2,episodes=4,shots=1,pictures=0,"
        "devices=1,compilation_cache="
    )
    command = (
        "main_tables.py",
        f"--workdir={tmp_path / 'run'}",
        "--run",
        "--baseline",
        f"--config=configs/folder.py:{options}",
    )
    done = run_script(*command)
    assert done.returncode == 0, done.stderr
    files = sorted((tmp_path / "run").rglob("results.json"))
    folders = {str(f.parent.relative_to(tmp_path / "run")) for f in files}
    assert folders == {f"fold{i}/{name}" for i in (0, 1) for name in ("baseline", "apanet")}
    last = done.stdout[done.stdout.index("## mIoU on ") :]
    assert "ours: baseline (n = 0)" in last and "ours: apanet (n = 3, λ = 0.5)" in last
    means = [
        sum(json.loads(f.read_text())[0]["miou"] for f in files if f.parent.name == name) / 2
        for name in ("apanet", "baseline")
    ]
    assert all(f"| {mean:.1f} | 1 | 4 |" in last for mean in means)
    times = [f.stat().st_mtime_ns for f in files]
    files[0].unlink()
    assert run_script(*command).returncode == 0
    again = [f.stat().st_mtime_ns for f in files]
    assert again[0] > times[0] and again[1:] == times[1:]
