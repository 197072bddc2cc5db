"""One script of each folder as a user runs it; and what the drill's page says."""

import argparse

import pytest

from experiments.reliability.fault_drill import report
from experiments.reliability.faults import FAULTS, Row
from tests.scripts import assert_refused, run_as_user, run_script


@pytest.mark.slow
def test_paper(tiny_records, tmp_path):
    config = f"configs/folder.py:records={tiny_records},min_area=50,folds=all"
    done = run_as_user("hidden_classes", f"--config={config}", f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    assert "| pairs |" in done.stdout and (tmp_path / "hidden_classes.png").exists()


@pytest.mark.slow
def test_speed():
    options = ("--shapes=small", "--repetitions=1", "--device=cpu")
    done = run_as_user("kmeans_benchmark", *options)
    assert done.returncode == 0, done.stderr
    assert "| 2 x 200 x 32, 3 |" in done.stdout and "scikit-learn" in done.stdout


@pytest.mark.slow
def test_reliability(tmp_path):
    options = ("--workers=0", "--interruptions=0,1", "--devices=1", f"--output={tmp_path}")
    done = run_as_user("repeatability", *options)
    assert done.returncode == 0, done.stderr
    first, second = (line for line in done.stdout.splitlines() if line.startswith("| 1 | 0 | "))
    assert first.endswith("| yes |") and second.endswith("| yes |")
    assert first.split("|")[4] == second.split("|")[4]
    assert (tmp_path / "repeatability.md").read_text().strip() == done.stdout.strip()


@pytest.mark.slow
def test_own_pictures(tiny_records, tmp_path):
    options = ("--queries=1", "--min_area=20", "--size=65", "--shot=1", "--method=small-untrained")
    output = tmp_path / "table.md"
    source = tiny_records.parent / "mine"
    done = run_as_user("own_pictures", f"--source={source}", *options, f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert output.read_text().count("| mine | 65 | 1 | small-untrained |") == 1


def test_the_drill_says_what_ended_differently():
    given = argparse.Namespace(kills=1, seed=3, together=2)
    rows = [
        Row("SIGKILL", "training", "going on | here", "again: ends with 0", ""),
        Row("disk full", "in prepare", "", "2", "other records"),
    ]
    page = report(rows, given)
    assert "fault_drill.py --kills=1 --seed=3 --together=2" in page and "\n1 of 2 ended" in page
    lines = [line for line in page.splitlines() if line.startswith("| ")][1:]
    assert lines == [
        "| 1 | SIGKILL | training | going on \\| here | again: ends with 0 | yes |",
        "| 2 | disk full | in prepare |  | 2 | other records |",
    ]


def test_faults_are_named_and_bad_input_is_a_line():
    assert all(function.__doc__ for function in FAULTS.values())
    assert_refused(run_script("fault_drill", "--faults=earthquake"), "'earthquake' is unknown")
    assert_refused(run_script("repeatability", "--devices=many"), "expected whole numbers")
    assert_refused(run_script("repeatability", "--devices=1,3"), "--devices=3: expected what 8")
