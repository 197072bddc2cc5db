"""What is counted of own pictures, by hand; and the script on a small tree."""

import json

import numpy as np
import pytest
from absl import flags

from experiments.own_pictures import Seen, best_presence, summary, table, tasks_of
from tests import trees
from tests.scripts import run_script


@pytest.fixture(autouse=True)
def parsed():
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["own_pictures"])


def row(*seen, method="head"):
    queries = [x._asdict() for x in seen]
    return {"source": "a", "size": 65, "shot": 1, "method": method, "queries": queries}


def test_shares_and_ious_are_counted_for_each_class_and_averaged():
    first = row(
        Seen(True, True, 2.0, 40, 30, 60),
        Seen(True, False, 0.1, 20, 10, 40),
        Seen(False, True, 1.0, 0, 0, 90),
        Seen(False, False, 0.0, 0, 0, 0),
    )
    second = row(Seen(True, True, 1.0, 10, 10, 10))
    means = summary([first, second])
    # What was found where the thing is not counts in no IoU; what was missed counts with its area.
    assert means["miou"] == pytest.approx(100 * (40 / 100 + 1) / 2)
    assert means["miou_found"] == pytest.approx(100 * (30 / 80 + 1) / 2)
    assert means["found"] == 75 and means["false"] == 50
    assert "| a | 65 | 1 | head | 70.0 | 68.8 | 75.0 | 50.0 |" in table([first, second])


def test_presence_is_where_both_errors_are_smallest():
    rng = np.random.default_rng(0)
    shown = rng.random(60) < 0.4
    score = rng.normal(shown * 1.5)
    seen = [Seen(bool(a), False, float(b), 0, 0, 0) for a, b in zip(shown, score, strict=True)]
    presence, missed, false = best_presence(seen)
    assert missed == (score[shown] <= presence).mean()
    assert false == (score[~shown] > presence).mean()
    tried = np.linspace(-5, 5, 2001)
    errors = [(score[shown] <= x).mean() + (score[~shown] > x).mean() for x in tried]
    assert missed + false == pytest.approx(min(errors))


def test_supports_stand_apart_from_queries():
    rng = np.random.default_rng(0)
    pictures = []
    for _ in range(60):
        label = np.zeros((40, 40), np.uint8)
        label[:, : rng.choice([0, 10, 40])] = 1
        pictures.append((np.zeros((40, 40, 3), np.uint8), label))
    (task,) = tasks_of(pictures, [1, 2], gap=20)
    assert len(task.supports) == 5 and task.shown and task.absent
    queries = task.shown + task.absent
    assert min(queries) - max(task.supports) >= 20
    area = [(label == 1).sum() for _, label in pictures]
    assert min(area[i] for i in task.supports + task.shown) >= 1000
    assert not any(area[i] for i in task.absent)


@pytest.mark.slow
def test_a_folder_becomes_a_table(tmp_path):
    tree = trees.folder_tree(tmp_path / "mine")
    options = ["--queries=1", "--min_area=20", "--size=65", f"--output={tmp_path / 'out.md'}"]
    done = run_script("own_pictures.py", f"--source={tree}", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.md").read_text().count("| mine | 65 |") == 4
    rows = json.loads((tmp_path / "out.json").read_text())
    assert {row["method"] for row in rows} == {"head", "untrained"}
    assert run_script("own_pictures.py").returncode == 2
