"""What is counted of own images, by hand; and the script on a small tree."""

import argparse
import json

import numpy as np
import pytest

from apanet_jax.inference.matching.presence import Decision
from experiments.own_pictures.calibration import fitted, presence_weights
from experiments.own_pictures.large_images import HEIGHT, WIDTH, drawn_image, wanted
from experiments.own_pictures.own_pictures import summary, table
from experiments.own_pictures.tasks import Prediction, tasks_of
from tests import trees
from tests.scripts import assert_refused, run_script


def row(*predicted, method="head"):
    queries = [x._asdict() | {"found": x.found} for x in predicted]
    return {"source": "a", "size": 65, "shot": 1, "method": method, "queries": queries}


def test_shares_and_ious_are_counted_for_each_class_and_averaged():
    first = row(
        Prediction(0, True, 0.9, 2.0, 0.1, 40, 30, 60),
        Prediction(0, True, 0.1, 0.1, 0.1, 20, 10, 40),
        Prediction(0, False, 0.8, 1.0, 0.1, 0, 0, 90),
        Prediction(0, False, 0.0, 0.0, 0.1, 0, 0, 0),
    )
    second = row(Prediction(0, True, 0.7, 1.0, 0.1, 10, 10, 10))
    means = summary([first, second])
    # What was found where the class is not counts in no IoU; what was missed counts with its area.
    assert means["mean_iou"] == pytest.approx(100 * ((30 / 60 + 10 / 40) / 2 + 1) / 2)
    assert means["miou"] == pytest.approx(100 * (40 / 100 + 1) / 2)
    assert means["miou_found"] == pytest.approx(100 * (30 / 80 + 1) / 2)
    assert means["found"] == 75 and means["false"] == 50
    # Of the six pairs of an image with the class and one without, four are in order.
    assert means["roc"] == pytest.approx(100 * 4 / 6)
    expected = "| a | 65 | 1 | head | 2 | 68.8 | 70.0 | 68.8 | 75.0 | 50.0 | 66.7 |"
    assert expected in table([first, second])


def test_presence_is_the_likeliest_where_half_of_the_images_show_the_class():
    rng = np.random.default_rng(0)
    shown = rng.random(200) < 0.3
    peak, likeness = rng.normal(shown * 1.5), rng.normal(shown * 0.2)
    given = zip(shown, peak, likeness, strict=True)
    predicted = [Prediction(0, bool(a), 0.0, float(b), float(c), 0, 0, 0) for a, b, c in given]
    decision = Decision(0.0, 1.0, *presence_weights(predicted))
    found = np.array([decision.presence(x.peak, x.likeness) for x in predicted])
    # The likelihood is at its top where its derivatives by the three numbers are zero.
    rest = np.where(shown, (1 - found) / shown.sum(), -found / (~shown).sum())
    for sign in (np.ones(200), peak, likeness):
        assert (rest * sign).sum() == pytest.approx(0, abs=1e-3)


def test_supports_are_no_neighbours_of_queries():
    rng = np.random.default_rng(0)
    images = []
    for _ in range(60):
        label = np.zeros((40, 40), np.uint8)
        label[:, : rng.choice([0, 10, 40])] = 1
        images.append((np.zeros((40, 40, 3), np.uint8), label))
    given = argparse.Namespace(gap=20, shot=[1, 5], min_area=1000, queries=10, negatives=3)
    (task,) = tasks_of(images, [1, 2], given)
    assert len(task.supports) == 5 and task.shown and task.absent
    queries = task.shown + task.absent
    assert min(queries) - max(task.supports) >= 20
    area = [(label == 1).sum() for _, label in images]
    assert min(area[i] for i in task.supports + task.shown) >= 1000
    assert not any(area[i] for i in task.absent + task.negatives)
    assert len(task.negatives) == 3 and min(queries) - max(task.negatives) >= 20


def test_an_object_of_a_large_image_has_the_share_of_its_side_that_is_asked_for():
    rng, images = np.random.default_rng(0), []
    for number in range(44):
        image, label = rng.integers(0, 100, (300, 400, 3), np.uint8), np.zeros((300, 400), np.uint8)
        if number < 4:
            label[50:250, 80:300] = 1
            image[label == 1] = 255
        images.append((image, label))
    given = argparse.Namespace(gap=0, shot=[1], min_area=1000, queries=40, negatives=0)
    (task,) = tasks_of(images[2:] + images[:2], [1], given)
    images = images[2:] + images[:2]
    for number, scenes in ((0, None), (1, images[2:40])):
        canvas, truth = drawn_image(images, task, 0.03, number, scenes)
        rows, columns = (np.ptp(x) + 1 for x in np.nonzero(truth))
        assert canvas.shape == (HEIGHT, WIDTH, 3) and (columns, rows) == (120, 109)
        assert (canvas[truth == 1] > 200).mean() > 0.95
    assert not drawn_image(images, task, 0.0, 2, None)[1].any()
    kinds = list(wanted([0.03, 0.1], ["enlarged", "mosaic"]))
    assert sorted(x[0] for x in kinds) == [0, 0, 0, 0.03, 0.03, 0.1, 0.1]
    assert len({x[2] for x in kinds}) == len(kinds)


def test_weights_that_are_fitted_are_tried_on_the_class_that_was_left_out():
    """Two classes whose signs mean the opposite: each is told wrongly by the other."""
    rng, rows = np.random.default_rng(0), []
    for sign in (1, -1):
        shown = rng.random(60) < 0.5
        given = zip(shown, sign * rng.normal(4.0 * shown), rng.normal(size=60), strict=True)
        made = [Prediction(0, bool(a), 0.5, float(b), float(c), 1, 1, 1) for a, b, c in given]
        rows.append(row(*made))
    (both,) = fitted(rows)
    roc = float(both.split()[-1])
    weights = presence_weights(
        [
            Prediction(**{k: v for k, v in x.items() if k != "found"})
            for one in rows
            for x in one["queries"]
        ]
    )
    assert both.startswith("head, 1 supports: " + ", ".join(f"{x:.3f}" for x in weights))
    assert roc < 40
    (alike,) = fitted([rows[0], rows[0]])
    assert float(alike.split()[-1]) > 95


@pytest.mark.slow
def test_a_folder_becomes_a_table(tmp_path):
    tree = trees.folder_tree(tmp_path / "mine")
    options = ["--queries=1", "--min_area=20", "--size=65", "--method=drawn,small"]
    options += [f"--output={tmp_path / 'out.md'}", f"--features={tmp_path / 'features'}"]
    done = run_script("own_pictures", f"--source={tree}", *options)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.md").read_text().count("| mine | 65 |") == 4
    rows = json.loads((tmp_path / "out.json").read_text())
    assert {row["method"] for row in rows} == {"drawn", "small"}
    names = (tree / "ImageSets" / "Segmentation" / "val.txt").read_text().split()
    for row in rows:
        queries = [x["image"] for x in row["queries"]]
        assert len(row["supports"]) == row["shot"] and {*queries, *row["supports"]} <= {*names}
        assert not {*queries} & {*row["supports"]}
    again = run_script("own_pictures", f"--source={tree}", *options)
    assert again.returncode == 0 and json.loads((tmp_path / "out.json").read_text()) == rows


def test_bad_input_gets_one_line():
    assert_refused(run_script("own_pictures"), "no --source and --output")
    assert_refused(run_script("own_pictures", "--method=magic"), "'magic' is unknown")
