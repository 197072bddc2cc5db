"""What the correction loop counts, by hand; and the script on a small tree."""

import json

import numpy as np
import pytest

from experiments.own_pictures.correction_loop import (
    correlation,
    covering,
    difference,
    gains,
    iou,
    orders,
    table,
)
from tests import trees
from tests.scripts import assert_refused, run_script


def count(listed, others, qualities):
    measures = dict.fromkeys(("score", "expected IoU", "certainty of all pixels"))
    measures = {name: qualities for name in measures} | {"quality": qualities}
    return {"listed": listed, "others": others, "measures": measures}


def row(shift=0.0):
    start = count([0.2, 0.4, 0.6], [0.5, 0.3], [0.1, 0.2, 0.3])
    worst = count([1.0, 0.5, 0.6], [0.7 + shift, 0.5], [0.9, 0.1, 0.3])
    at_random = count([0.2, 1.0, 0.6], [0.5, 0.5], [0.3, 0.9, 0.2])
    made = [
        {"order": "worst", "chosen": [0], "counts": [start, worst]},
        {"order": "covering", "chosen": [1], "counts": [start, at_random]},
        {"order": "random", "chosen": [1], "counts": [start, at_random]},
    ]
    return {"orders": made}


def test_means_differences_and_correlations():
    rows = [row(), row(0.2)]
    np.testing.assert_allclose(gains(rows, "others", "worst"), [[40, 60], [40, 70]])
    np.testing.assert_allclose(gains(rows, "listed", "random"), [[40, 60], [40, 60]])
    assert correlation(rows, "quality", 0) == pytest.approx(1)
    # After one correction: in order where the worst was corrected, reversed in the other two.
    assert correlation(rows, "quality", 1) == pytest.approx(-1 / 3)
    # The standard deviation of 10 and 20 is 7.07, that of their mean 5.
    assert difference(np.array([10.0, 20.0])) == "+15.0 ± 9.8"
    assert "| 1 | 65.0 | 50.0 | +15.0 ± 9.8 | 70.0 | 60.0 | +10.0 ± 0.0 |" in table(rows)


def test_what_stands_best_for_what_is_bad_is_corrected():
    """Two images alike, one of its own kind, and the support's kind."""
    described = np.array([[0, 0, 1], [1, 0, 0], [0.8, 0.6, 0], [0, 1, 0], [0, 0, 1]], float)
    left, expected = [0, 1, 2, 3], [0.2, 0.5, 0.8, 0.1]
    # By hand: 0.8 * 1 + 0.5 * 0.8, 0.8 * 0.8 + 0.5 + 0.2 * 0.6, 0.5 * 0.6 + 0.2; 0.9 come of the
    # last image however, which has its like already.
    assert covering(described, [], left, expected) == 1
    assert covering(described, [1], [0, 2, 3], expected) == 0
    assert covering(described, [], left, [0.0, 0.9, 0.9, 0.0]) == 0


def test_what_is_ignored_counts_nowhere():
    mask = np.array([[True, True, False, True]])
    assert iou(mask, np.array([[1, 0, 1, 255]])) == pytest.approx(1 / 3)


def test_the_worst_is_corrected_first_and_none_twice(monkeypatch):
    """Qualities change with each correction; what was corrected stays out, however bad."""
    asked = []

    def counted(_segmenter, _collection, corrected):
        asked.append(list(corrected))
        return count([0.5] * 4, [0.5], [[3, 1, 2, 4], [3, 0, 2, 1], [0, 0, 0, 0]][len(corrected)])

    monkeypatch.setattr("experiments.own_pictures.correction_loop.counted", counted)
    collection = type("Collection", (), {"listed": range(4)})
    monkeypatch.setattr(
        "experiments.own_pictures.correction_loop.descriptors", lambda *_: np.eye(5)
    )
    worst, _, at_random = orders(None, collection, np.random.default_rng(0), 1, 2)
    assert worst["chosen"] == [1, 3] and asked[:3] == [[], [1], [1, 3]]
    assert len(set(at_random["chosen"])) == 2


@pytest.mark.slow
def test_a_folder_becomes_two_tables(tmp_path):
    tree = trees.folder_tree(tmp_path / "mine", train=12)
    options = ["--collection=2", "--others=1", "--corrections=1", "--random=1", "--repeats=1"]
    options += ["--head=drawn", f"--source={tree}", f"--output={tmp_path / 'out.md'}"]
    done = run_script("correction_loop", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.md").read_text() in done.stdout
    for found in json.loads((tmp_path / "out.json").read_text()):
        assert [x["order"] for x in found["orders"]] == ["worst", "covering", "random"]


def test_bad_input_gets_one_line():
    assert_refused(run_script("correction_loop"), "no --source and --output")
    given = ["--source=a", "--output=b.md", "--collection=2", "--corrections=3"]
    assert_refused(run_script("correction_loop", *given), "--corrections=3 of a --collection of 2")
