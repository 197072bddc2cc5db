"""The paper's figures as they are kept here."""

from pathlib import Path

import pytest

from apanet_jax.reports.paper import published, published_ablations, published_beside

PAPER = Path(__file__).resolve().parents[2] / "../shared/paper.md"

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


def test_rows_beside_another_label_are_marked():
    marked = [(r.method, r.shot, r.mean) for r in published() if r.label_differs]
    assert marked == [
        ("SCLNet", 1, 61.8),
        ("SCLNet", 5, 62.9),
        ("APANet", 1, 63.0),
        ("APANet", 5, 66.0),
    ]


def test_ablations_are_whole():
    rows = published_ablations()
    named = {table: [r.row for r in rows if r.table == table] for table in ("IV", "V", "VI", "VII")}
    assert named == {
        "IV": ["0", "1", "2", "3", "4", "5"],
        "V": ["a", "b", "c", "d"],
        "VI": ["0", "0.1", "0.3", "0.5", "0.7", "0.9", "1.0"],
        "VII": ["2x2", "3x3", "4x4", "5x5"],
    }
    assert sum(map(len, named.values())) == len(rows)


@pytest.mark.skipif(not PAPER.exists(), reason="the paper is not beside the project")
def test_ablations_are_the_papers_tables():
    printed, table = [], None
    for line in PAPER.read_text().replace("<b>", "").replace("</b>", "").splitlines():
        if line.startswith("TABLE "):
            table = line.split()[1]
        cells = line.split("\t")
        if table in ("IV", "V", "VI", "VII") and len(cells) == 6 and cells[1] != "Fold-0":
            name = cells[0].removeprefix("Fig. 1(").removesuffix(")").replace(" $\\times$ ", "x")
            printed.append((table, name, *map(float, cells[1:])))
    assert printed == [(r.table, r.row, *r.folds, r.mean) for r in published_ablations()]


def test_ablations_that_do_not_fit_say_so():
    rows = published_ablations()
    # 242.3 / 4 = 60.575 against 57.7; 242.9 / 4 = 60.725 against 60.8.
    off = {(r.table, r.row) for r in rows if r.mean_differs}
    assert off == {("VI", "0.9"), ("IV", "0"), ("V", "a"), ("VI", "0")}
    repeats = {(r.table, r.row): [(o.table, o.row) for o in r.repeats] for r in rows if r.repeats}
    assert repeats == {("V", "b"): [("VII", "5x5")], ("VII", "5x5"): [("V", "b")]}
    notes = {(r.table, r.row): r.note for r in rows if r.note}
    assert notes.keys() == off | repeats.keys()
    assert notes["VI", "0.9"] == "printed mean 57.7, but its folds average 60.575"
    assert notes["V", "b"] == "the same numbers as Table VII, row 5x5"


def test_what_one_experiment_is_called_in_several_tables_prints_the_same():
    numbers = {}
    for row in published_ablations():
        numbers.setdefault(row.experiment, set()).add((row.folds, row.mean))
    assert all(len(each) == 1 for each in numbers.values())
    assert len(numbers) == 16


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
