"""What the correction loop counts, by hand; and the script on a small tree."""

import json

import numpy as np
import pytest

from experiments.own_pictures.correction_loop import (
    correlation,
    difference,
    gains,
    iou,
    orders,
    table,
    telling,
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
        {"order": "telling", "chosen": [0], "counts": [start, worst]},
        {"order": "random", "chosen": [1], "counts": [start, at_random]},
    ]
    return {"orders": made}


def test_means_differences_and_correlations():
    rows = [row(), row(0.2)]
    np.testing.assert_allclose(gains(rows, "others", "worst"), [[40, 60], [40, 70]])
    np.testing.assert_allclose(gains(rows, "listed", "random"), [[40, 60], [40, 60]])
    assert correlation(rows, "quality", 0) == pytest.approx(1)
    # After one correction: in order but for the order at random, where it is reversed.
    assert correlation(rows, "quality", 1) == pytest.approx((1 + 1 - 1) / 3)
    # The standard deviation of 10 and 20 is 7.07, that of their mean 5.
    assert difference(np.array([10.0, 20.0])) == "+15.0 ± 9.8"
    numbers = "50.0 | 65.0 | +15.0 ± 9.8 | 65.0 | +15.0 ± 9.8 |"
    assert f"| other images | 1 | {numbers}" in table(rows)
    assert "| the collection | 1 | 60.0 | 70.0 | +10.0 ± 0.0 |" in table(rows)


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
    monkeypatch.setattr("experiments.own_pictures.correction_loop.likenesses", lambda *_: np.eye(5))
    collection = type("Collection", (), {"listed": range(4)})
    worst, told, at_random = orders(None, collection, np.random.default_rng(0), 1, 2)
    assert worst["chosen"] == [1, 3] and asked[:3] == [[], [1], [1, 3]]
    assert len(set(told["chosen"])) == len(set(at_random["chosen"])) == 2


def test_the_most_telling_image_is_like_what_is_uncertain_and_not_yet_known():
    # Of images 0 to 3, the first two are alike, and the third is like the support.
    alike = np.eye(5)
    for i, j in ((0, 1), (2, 4)):
        alike[i, j] = alike[j, i] = 0.9
    assert telling(alike, [0.5, 0.5, 0.1, 0.6], [], [0, 1, 2, 3]) in (0, 1)
    # The pair is certain, or one of it was corrected.
    assert telling(alike, [0.9, 0.9, 0.1, 0.6], [], [0, 1, 2, 3]) == 3
    assert telling(alike, [0.5, 0.5, 0.1, 0.6], [0], [1, 2, 3]) == 3


@pytest.mark.slow
def test_a_folder_becomes_two_tables(tmp_path):
    tree = trees.folder_tree(tmp_path / "mine", train=12)
    options = ["--collection=2", "--others=1", "--corrections=1", "--random=1", "--repeats=1"]
    options += ["--head=drawn", f"--source={tree}", f"--output={tmp_path / 'out.md'}"]
    done = run_script("correction_loop", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.md").read_text() in done.stdout
    for found in json.loads((tmp_path / "out.json").read_text()):
        assert [x["order"] for x in found["orders"]] == ["worst", "telling", "random"]


def test_bad_input_gets_one_line():
    assert_refused(run_script("correction_loop"), "no --source and --output")
    given = ["--source=a", "--output=b.md", "--collection=2", "--corrections=3"]
    assert_refused(run_script("correction_loop", *given), "--corrections=3 of a --collection of 2")
