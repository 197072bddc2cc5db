"""The paper's figures as they are kept here."""

from pathlib import Path

import pytest

from apanet_jax.paper import published, published_beside

PAPER = Path(__file__).resolve().parents[1] / "../shared/paper.md"

PASCAL = tuple(f"c{i}" for i in range(20))
COCO = tuple(f"c{i}" for i in range(80))
PASCAL_FOLDS = [PASCAL[5 * i : 5 * i + 5] for i in range(4)]
INTERLEAVED = [COCO[i::4] for i in range(4)]


def test_tables_are_whole():
    rows = published()
    assert len(set(row[:6] for row in rows)) == len(rows) == 112
    assert {row.shot for row in rows} == {1, 5}
    assert all(len(row.folds) in (0, 4) and 15 < row.mean < 80 for row in rows)
    per_table = {table: len([r for r in rows if r.table == table]) for table in ("I", "II", "III")}
    assert per_table == {"I": 40, "II": 44, "III": 28}


@pytest.mark.skipif(not PAPER.exists(), reason="the paper is not beside the project")
def test_every_row_stands_in_the_paper():
    text = PAPER.read_text().replace("<b>", "").replace("</b>", "")
    lines = [line.split("\t") for line in text.splitlines()]
    for row in published():
        cells = [f"{value:.1f}" for value in (*row.folds, row.mean)]
        # One figure is printed without its decimal.
        found = [
            line
            for line in lines
            if any(
                [c if "." in c else f"{c}.0" for c in line[i : i + len(cells)]] == cells
                for i in range(len(line))
            )
        ]
        assert any(row.method in line[0] or "ours" in line[0].lower() for line in found), row


def test_means_that_do_not_fit_are_marked():
    marked = {(r.method, r.backbone, r.shot) for r in published() if r.mean_differs}
    assert ("RPMM", "vgg16", 5) in marked and ("APANet", "resnet50", 1) not in marked


def test_the_baseline_and_ours_stand_beside_runs_of_the_same_folds():
    rows = published_beside("pascal", "vgg16_bn", PASCAL, PASCAL_FOLDS)
    assert {(r.method, r.metric, r.shot) for r in rows} == {
        (method, metric, shot)
        for method in ("PFENet", "APANet")
        for metric in ("miou", "fb_iou")
        for shot in (1, 5)
    }
    (best,) = [r for r in rows if (r.method, r.metric, r.shot) == ("APANet", "miou", 1)]
    assert best.folds == (58.0, 68.9, 57.0, 52.2) and best.mean == 59.0
    assert published_beside("coco", "resnet50", COCO, INTERLEAVED)


@pytest.mark.parametrize(
    ("dataset", "backbone", "names", "folds"),
    [
        ("scenes", "resnet50", PASCAL, PASCAL_FOLDS),
        ("pascal", "efficientnet_lite0", PASCAL, PASCAL_FOLDS),
        ("pascal", "resnet50", PASCAL, PASCAL_FOLDS[::-1]),
        ("coco", "resnet50", COCO, [COCO[20 * i : 20 * i + 20] for i in range(4)]),
        ("coco", "resnet50", PASCAL, PASCAL_FOLDS),
    ],
)
def test_nothing_stands_beside_what_does_not_compare(dataset, backbone, names, folds):
    assert published_beside(dataset, backbone, names, folds) == ()
