"""After a training its head is compared with those of the package, on the run's test images."""

import numpy as np
import pytest

import apanet_jax
from apanet_jax.data.records.writing import write_records
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.reports.head_comparison import OWN, UNTRAINED, advice, read, table
from apanet_jax.runs import bundled_heads, sweep
from apanet_jax.runs.run import make_run
from configs import folder
from tests import trees
from tests.small_backbone import OPTIONS


def rows(**ious):
    return [
        {"head": head, "use": f"--head={head}", "class": "abb"[n], "supports": 5, "iou": iou}
        for head, of_head in ious.items()
        for n, iou in enumerate(of_head)
    ]


def test_the_table_weighs_classes_alike():
    found = table(rows(**{OWN: (50, 10, 20), "small": (10, 40, 60)}))
    assert found == [(OWN, [50, 15], 32.5), ("small", [10, 50], 30)]


@pytest.mark.parametrize(
    ("own", "small", "said"),
    [
        ((50, 40, 60), (20, 12, 31), "use this run's head: its IoU is higher than that of small"),
        ((20, 12, 31), (50, 40, 60), "use small (--head=small): its IoU is higher by 29.0"),
        # Differences 10, -8 and 4: mean 2, standard deviation sqrt(84), divided by sqrt(3).
        ((20, 18, 30), (30, 10, 34), "3 images do not tell this run's head from small"),
        ((20, 18, 30), (30, 10, 34), "is +2.0 on average, with a standard error of 5.3"),
    ],
)
def test_advice_knows_how_little_few_images_tell(own, small, said):
    assert said in advice(rows(**{OWN: own, "drawn": (0, 0, 0), "small": small}))


@pytest.mark.slow
def test_each_head_is_scored_as_predict_segments(small_backbone, tmp_path, monkeypatch, capsys):
    write_records(FolderSource(trees.folder_tree(tmp_path / "mine")), tmp_path / "records")
    options = f"{OPTIONS},episodes=2,shots=1,devices=1,records={tmp_path / 'records'}"
    config, workdir = folder.get_config(options), tmp_path / "run"
    opened = []

    def load(head, trained=True):
        opened.append((head, trained))
        return apanet_jax.load(workdir)

    monkeypatch.setattr(bundled_heads, "load", load)
    monkeypatch.setattr(bundled_heads, "large_at_hand", lambda: True)
    config.evaluation.bundled = 2
    sweep.run_all(config, workdir, "train_and_evaluate")
    assert opened == [("dinov2", True), ("small", True), ("drawn", True), ("auto", False)]
    found = read(workdir)
    told = capsys.readouterr().out
    assert "beside the heads that come with the package" in told and advice(found) in told
    run = make_run(config)
    split, images = run.data.test_split, {x["name"]: x for x in run.data.test_split}
    for task in bundled_heads.tasks_of(run):
        name = run.records.class_names[task.class_id - 1]
        (support,) = (split[n] for n in task.supports)
        segmenter = apanet_jax.load(workdir)
        segmenter.fit([support["image"]], [support["label"] == task.class_id])
        for row in (x for x in found if x["class"] == name):
            label = images[row["image"]]["label"]
            (mask,) = segmenter.predict([images[row["image"]]["image"]])
            mask, truth = mask & (label != 255), label == task.class_id
            iou = 100 * (mask & truth).sum() / (mask | truth).sum()
            assert row["iou"] == pytest.approx(iou, abs=0.01)
    assert {x["head"] for x in found} == {OWN, "dinov2", "small", "drawn", UNTRAINED}
    assert np.unique([x["supports"] for x in found]).tolist() == [1]
    page = (workdir / "report.html").read_text()
    assert "Beside the heads of the package" in page
