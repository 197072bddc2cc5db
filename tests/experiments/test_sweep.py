"""The scripts that read finished runs, each on the same tiny sweep."""

import csv
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from experiments.paper import ablations
from experiments.paper.ablation_report import Table, TableRow
from tests.scripts import Done, assert_refused, run_script
from tests.small_backbone import NAME, OPTIONS

pytestmark = pytest.mark.slow


class Sweep(NamedTuple):
    """A finished sweep of baseline and APANet, fold 0, seeds 0 and 1, and rows without training.

    Attributes:
      workdir: with the runs and the table "tiny".
      config: the `--config` of it.
      arguments: of the command.
      done: what it printed.
    """

    workdir: Path
    config: str
    arguments: tuple[str, ...]
    done: Done


@pytest.fixture(scope="module")
def sweep(tiny_records, small_backbone, tmp_path_factory) -> Sweep:
    workdir = tmp_path_factory.mktemp("sweep") / "runs"
    config = (
        f"configs/folder.py:records={tiny_records},{OPTIONS},episodes=24,"
        "shots=1,devices=1,workers=0,compilation_cache="
    )
    rows = (
        TableRow("baseline", "baseline"),
        TableRow("APANet", "apanet"),
        TableRow("no training", "training_free_prototype"),
    )
    arguments = ("--table=tiny", "--folds=0", "--seeds=0,1", f"--workdir={workdir}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ablations.TABLES, "tiny", Table("", "tiny", rows))
        free = run_script(
            "training_free", f"--config={config},folds=0,seeds=0", f"--workdir={workdir}"
        )
        done = run_script("ablations", f"--config={config}", *arguments)
        assert free.returncode == 0, free.stderr
        yield Sweep(workdir, config, arguments, done)


def test_a_sweep_is_run_once_and_held_against_no_training(sweep):
    assert sweep.done.returncode == 0, sweep.done.stderr
    assert "run 4 of 4: seed1/fold0/" in sweep.done.stdout
    with (sweep.workdir / "table_tiny.csv").open() as file:
        lines = list(csv.DictReader(file))
    of_runs = {(line["variant"], line["seed"]): line for line in lines}
    assert set(of_runs) == {(name, seed) for name in ("baseline", "apanet") for seed in "01"} | {
        ("training_free_prototype", "0")
    }
    plain = of_runs["apanet", "1"]
    expected = {"fold": "0", "shot": "1", "backbone": NAME}
    expected |= {"comparison": "conv", "num_clusters": "3", "agnostic_weight": "0.5"}
    expected |= {"training_list": "all", "prior": "middle", "image_size": "65", "steps": "4"}
    assert expected.items() <= plain.items() and plain["checkpoint"] == "last"
    assert plain["dataset"]
    free = of_runs["training_free_prototype", "0"]
    assert (free["num_clusters"], free["steps"], free["image_size"]) == ("", "", "65")
    table = (sweep.workdir / "table_tiny.md").read_text()
    assert table.strip() in sweep.done.stdout and "| no training | 1 |" in table


def test_a_sweep_goes_on_and_refuses_other_settings(sweep):
    (sweep.workdir / "seed1" / "fold0" / "apanet" / "results.json").unlink()
    again = run_script("ablations", f"--config={sweep.config}", *sweep.arguments)
    assert "run 1 of 1: seed1/fold0/apanet" in again.stdout
    other = run_script("ablations", f"--config={sweep.config},learning_rate=0.1", *sweep.arguments)
    assert_refused(other, "other settings")


def test_a_threshold_of_0_scores_what_the_run_did(sweep):
    config = sweep.config.replace("folder.py", "compare.py") + ",folds=0,seeds=0"
    arguments = (f"--workdir={sweep.workdir}", "--base_episodes=10")
    done = run_script("thresholds", f"--config={config}", *arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads((sweep.workdir / "thresholds.json").read_text())
    assert {row["variant"] for row in found["rows"]} == {"baseline", "apanet"}
    at_zero = found["thresholds"].index(0.0)
    for row in found["rows"]:
        folder = sweep.workdir / "seed0" / "fold0" / row["variant"]
        (result,) = json.loads((folder / "results.json").read_text())
        assert abs(row["novel"][at_zero] - result["miou"]) < 0.02
        for name, sums in row["classes"].items():
            true, called, both, _ = np.array(sums).T
            assert (np.diff(called) <= 0).all() and len(set(true)) == 1
            iou = 100 * both[at_zero] / max(true[0] + called[at_zero] - both[at_zero], 1)
            assert abs(iou - result["iou_per_class"][name]) < 0.02
    assert (sweep.workdir / "thresholds.md").read_text().strip() in done.stdout
    done = run_script("thresholds", f"--config={config}", arguments[0], "--counted")
    assert done.returncode == 0, done.stderr
    by_class = (sweep.workdir / "called.md").read_text()
    for line in by_class.splitlines()[2:]:
        name, variant, _, *shares = [x.strip() for x in line.strip("|").split("|")]
        (sums,) = (row["classes"][name] for row in found["rows"] if row["variant"] == variant)
        true, called, both, pixels = sums[at_zero]
        expected = [both / (true + called - both), both / max(called, 1), both / true]
        expected = [100 * x for x in (*expected, called / pixels, true / pixels)]
        np.testing.assert_allclose([float(x) for x in shares], expected, atol=0.051)


def test_figure_6_shows_episodes_of_a_trained_pair(sweep, tmp_path):
    runs = sweep.workdir / "seed0" / "fold0"
    pair = [f"--{name}={runs / name}" for name in ("baseline", "apanet")]
    output = tmp_path / "figure6.png"
    done = run_script("figures", "--figure=6", *pair, f"--output={output}")
    assert done.returncode == 0, done.stderr
    content = json.loads(output.with_suffix(".json").read_text())
    assert content["rule"] in done.stdout
    assert len({row["query"] for row in content["episodes"]}) == len(content["episodes"]) == 7
    assert all(0 <= row[x] <= 100 for row in content["episodes"] for x in ("baseline", "apanet"))


def test_figure_7_shows_regions_of_training_images(sweep, tmp_path):
    output, columns, side = tmp_path / "figure7.png", 2, 64
    done = run_script(
        "figures",
        "--figure=7",
        f"--apanet={sweep.workdir / 'seed0' / 'fold0' / 'apanet'}",
        f"--output={output}",
        f"--columns={columns}",
        f"--side={side}",
    )
    assert done.returncode == 0, done.stderr
    assert len(json.loads(output.with_suffix(".json").read_text())["images"]) == columns
    assert Image.open(output).width == columns * (side + 8) + 8 + 21


def test_what_is_chosen_is_what_one_of_both_heads_scored(sweep):
    config = sweep.config.replace("folder.py", "compare.py") + ",folds=0,seeds=0"
    done = run_script("support_choice", f"--config={config}", f"--workdir={sweep.workdir}")
    assert done.returncode == 0, done.stderr
    assert "| chosen: above APANet | 1 |" in done.stdout

    def intersections(name):
        file = sweep.workdir / "seed0" / "fold0" / name / "episodes" / "last_1shot.jsonl"
        return np.array([json.loads(x)["intersection"] for x in file.read_text().splitlines()])

    one, other, chosen = map(intersections, ("baseline", "apanet", "rule_chosen"))
    # Kept features and comparison in other batches: a pixel on the border may fall either way.
    distance = np.minimum(*(np.abs(chosen - x).sum(-1) for x in (one, other)))
    assert len(chosen) == 24 and (distance <= 2).all()


def test_a_finished_sweep_of_other_data_has_tables_of_its_own(sweep):
    done = run_script("main_tables", f"--workdir={sweep.workdir}")
    assert done.returncode == 0, done.stderr
    last = done.stdout[done.stdout.index("## mIoU on ") :]
    for method, seeds in (("baseline", 2), ("apanet (n = 3, λ = 0.5)", 2)):
        assert f"| ours: {method}" in last and f"| {seeds} | 24 |" in last
    assert "| ours: training_free_prototype" in last
