"""Ablation tables and their intervals: hand-made runs, sums by plain loops, and one tiny sweep."""

import csv
import json

import numpy as np
import pytest

from apanet_jax.config.settings import check
from apanet_jax.reports.paper import published_ablations
from configs import folder
from experiments.paper import ablations
from experiments.paper.ablation_report import Table, TableRow, write_table
from experiments.paper.paired import difference, miou, read_sums
from experiments.paper.run_lines import FIELDS
from tests.scripts import assert_refused, run_script

CLASSES = ("bird", "cup")


def a_run(folder, rng, skill, shots=(1,), images=12, seed=0, fold=0):
    """Leaves what an evaluated run leaves; returns its episodes."""
    (folder / "episodes").mkdir(parents=True)
    results, all_lines = [], {}
    for shot in shots:
        lines = []
        for number in range(3 * images):
            union = int(rng.integers(50, 100))
            share = np.clip(skill + 0.1 * rng.standard_normal(), 0, 1)
            lines.append(
                {
                    "query": f"drive_{number % images:03d}",
                    "class": CLASSES[number % 2],
                    "supports": ["x"],
                    "intersection": [0, int(share * union)],
                    "union": [0, union],
                }
            )
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / "episodes" / f"last_{shot}shot.jsonl").write_text(text)
        results.append(
            {
                **{"dataset": "mine", "backbone": "resnet50", "checkpoint": "last"},
                **{"num_clusters": 3, "agnostic_weight": 0.5, "episodes": 36, "step": 9},
                **{"shot": shot, "fold": fold, "training_seed": seed},
                **{"miou": by_hand(lines), "fb_iou": 50.0, "iou_per_class": {}},
            }
        )
        all_lines[shot] = lines
    (folder / "results.json").write_text(json.dumps(results))
    return all_lines


def by_hand(lines):
    scores = []
    for name in CLASSES:
        mine = [line for line in lines if line["class"] == name]
        intersection, union = (
            sum(line[key][1] for line in mine) for key in ("intersection", "union")
        )
        scores.append(100 * intersection / union)
    return sum(scores) / len(scores)


def test_all_images_once_give_the_mean_of_the_classes_ious(tmp_path):
    lines = a_run(tmp_path, np.random.default_rng(0), 0.6)[1]
    sums = read_sums(tmp_path, 1)
    assert len(sums.blocks) == 12
    np.testing.assert_allclose(miou(sums.sums, np.ones((1, 12))), by_hand(lines))
    twice = np.ones((1, 12))
    twice[0, 3] = 2
    repeated = lines + [line for line in lines if line["query"] == sums.blocks[3]]
    np.testing.assert_allclose(miou(sums.sums, twice), by_hand(repeated))


def test_frames_that_follow_each_other_are_one_block(tmp_path):
    a_run(tmp_path, np.random.default_rng(0), 0.6)
    alone, together = read_sums(tmp_path, 1), read_sums(tmp_path, 1, block=5)
    assert len(together.blocks) == 3
    np.testing.assert_array_equal(together.sums[0], alone.sums[:5].sum(0))
    np.testing.assert_array_equal(together.sums[2], alone.sums[10:].sum(0))


def test_a_class_that_is_not_drawn_is_left_out_of_the_mean():
    sums = np.array([[[5, 10], [0, 0]], [[0, 0], [9, 10]]])
    np.testing.assert_allclose(miou(sums, np.array([[1.0, 0], [0, 1], [1, 1]])), [50, 90, 70])


def test_the_interval_holds_the_difference_and_knows_a_sure_one_from_a_chance(tmp_path):
    rng = np.random.default_rng(0)
    runs = {}
    for name, skill in (("good", 0.7), ("bad", 0.5), ("as_bad", 0.5)):
        a_run(tmp_path / name, rng, skill)
        runs[name] = read_sums(tmp_path / name, 1)
    sure = difference({0: [(runs["good"], runs["bad"])], 1: [(runs["good"], runs["bad"])]})
    expected = miou(runs["good"].sums, np.ones((1, 12))) - miou(runs["bad"].sums, np.ones((1, 12)))
    np.testing.assert_allclose(sure.mean, expected[0])
    assert 0 < sure.low < sure.mean < sure.high
    chance = difference({0: [(runs["as_bad"], runs["bad"])]})
    assert chance.low < 0 < chance.high
    same = difference({0: [(runs["bad"], runs["bad"])]})
    assert same == (0, 0, 0)


def test_runs_of_other_images_are_not_compared(tmp_path):
    rng = np.random.default_rng(0)
    a_run(tmp_path / "one", rng, 0.5)
    a_run(tmp_path / "other", rng, 0.5, images=10)
    with pytest.raises(ValueError, match="different images"):
        difference({0: [(read_sums(tmp_path / "one", 1), read_sums(tmp_path / "other", 1))]})


def test_the_table_holds_means_spread_differences_and_the_papers_row(tmp_path):
    rng = np.random.default_rng(0)
    scores = {}
    for seed in (0, 1):
        for fold in (0, 1):
            for name, skill in (("baseline", 0.5), ("apanet", 0.7)):
                folder = tmp_path / f"seed{seed}" / f"fold{fold}" / name
                lines = a_run(folder, rng, skill, shots=(1, 5), seed=seed, fold=fold)
                scores[name, seed, fold] = by_hand(lines[1])
    (tmp_path / "seed2" / "fold0" / "apanet").mkdir(parents=True)  # not finished
    table = Table("IV", "n", (TableRow("0", "baseline", "0"), TableRow("3", "apanet", "3")))
    markdown = write_table(table, tmp_path, tmp_path / "table_4")
    rows = json.loads((tmp_path / "table_4.json").read_text())["rows"]
    assert [(row["row"], row["shot"]) for row in rows] == [("0", 1), ("0", 5), ("3", 1), ("3", 5)]
    ours = rows[2]
    of_seeds = [np.mean([scores["apanet", seed, fold] for fold in (0, 1)]) for seed in (0, 1)]
    np.testing.assert_allclose(ours["mean"], np.mean(of_seeds), atol=0.01)
    np.testing.assert_allclose(ours["spread"], np.std(of_seeds, ddof=1), atol=0.01)
    expected = np.mean(
        [scores["apanet", s, f] - scores["baseline", s, f] for s in (0, 1) for f in (0, 1)]
    )
    np.testing.assert_allclose(ours["difference"], expected, atol=0.01)
    assert ours["low"] < ours["difference"] < ours["high"] and (ours["above"], ours["pairs"]) == (
        4,
        4,
    )
    paper = next(p for p in published_ablations() if (p.table, p.row) == ("IV", "3"))
    assert ours["paper_mean"] == paper.mean and ours["paper_folds"] == list(paper.folds)
    assert rows[0]["difference"] is None and rows[3]["paper_mean"] is None
    assert f"{ours['mean']:.1f} ± {ours['spread']:.1f}" in markdown and "4 of 4" in markdown
    with (tmp_path / "table_4.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert tuple(lines[0]) == FIELDS and len(lines) == 2 * 2 * 2 * 2
    for line in lines:
        assert line["dataset"] == "mine" and line["steps"] == "9" and line["comparison"] == ""
        if line["shot"] == "1":
            key = line["variant"], int(line["seed"]), int(line["fold"])
            np.testing.assert_allclose(float(line["miou"]), scores[key])


def test_every_row_of_the_papers_ablations_has_a_run():
    rows = {(table.paper, row.paper) for table in ablations.TABLES.values() for row in table.rows}
    assert {(p.table, p.row) for p in published_ablations()} <= rows
    for table in ablations.TABLES.values():
        for run in table.runs:
            assert run in ablations.RUNS or run.startswith("training_free_")


def test_every_run_can_be_made_and_stands_in_a_table():
    assert set(ablations.RUNS) <= set().union(*(t.runs for t in ablations.TABLES.values()))
    for options in ablations.RUNS.values():
        check(folder.get_config(options))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--table=8", "--workdir=x"), "argument --table: '8' is unknown"),
        (("--table=4",), "--workdir"),
        (("--table=4", "--workdir=x", "--seeds=one"), "expected whole numbers"),
        (("--table=4", "--workdir=x", "--report"), "holds no results.json"),
    ],
)
def test_wrong_arguments_are_answered_in_a_line(arguments, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert_refused(run_script("ablations", "--config=folder", *arguments), said)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--workdir=x",), "--config"),
        (("--config=configs/nothing.py", "--workdir=x"), "nothing.py"),
        (("--config=folder:folds=x", "--workdir=x"), "several folds"),
    ],
)
def test_matching_without_training_answers_in_a_line_too(arguments, said):
    for script in ("training_free", "thresholds"):
        assert_refused(run_script(script, *arguments), said)
