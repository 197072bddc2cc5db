"""The other benchmarks run to their end at small sizes, and their rows say what they should."""

import json

import numpy as np
import pytest

from apanet_jax.data.sources.coco import CocoSource
from experiments.speed import coco_evaluation, gpu_summary, memory_benchmark, prepare_benchmark
from tests.scripts import assert_refused, run_script
from tests.small_backbone import OPTIONS

SMALL = f"{OPTIONS},devices=1,workers=0,compilation_cache="


def rows_of(path):
    return json.loads(path.read_text())["rows"]


@pytest.mark.slow
def test_the_pipeline_benchmark_writes_a_row_for_each(tiny_records, tmp_path):
    done = run_script(
        "pipeline_benchmark",
        f"--source={tiny_records.parent / 'mine'}",
        f"--records={tiny_records}",
        *("--size=48", "--longer_side=48", "--min_area=50", "--workers=1", "--batches=2"),
        *("--repetitions=1", f"--json={tmp_path / 'rows.json'}"),
    )
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path / "rows.json")
    assert len(rows) == 4 and all(row["episodes_per_core_second"][0] > 0 for row in rows)


@pytest.mark.slow
def test_both_paths_of_evaluation_count_the_same(tiny_records, small_backbone, tmp_path):
    done = run_script(
        "evaluation_benchmark",
        f"--config=folder:{SMALL},records={tiny_records},episodes=6,shots=1,keep=False",
        *("--repetitions=1", "--sample=4", f"--json={tmp_path / 'rows.json'}"),
    )
    assert done.returncode == 0, done.stderr
    once, every = rows_of(tmp_path / "rows.json")
    assert (once["path"], every["path"]) == ("embeds once", "every episode")
    assert (once["episodes"], every["episodes"]) == (6, 4)
    assert once["differing"] <= 2 and once["compared"] > 10_000
    assert abs(once["intersection"] - every["intersection"]) <= 2 and once["union"] > 0
    assert "no PyTorch" in done.stderr


@pytest.mark.slow
def test_heads_side_by_side_make_the_same_steps(tiny_records, small_backbone, tmp_path):
    done = run_script(
        "side_by_side_benchmark",
        f"--config=folder:{SMALL},records={tiny_records},shots=1,num_clusters=0",
        *("--heads=2", "--steps=1", "--repetitions=1", f"--json={tmp_path / 'rows.json'}"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "rows.json").read_text())
    assert result["largest_difference_of_losses"] < 1e-4
    assert [row["implementation"] for row in result["rows"]] == [
        "one after another",
        "side by side",
    ]


def test_the_tree_that_is_prepared_is_in_cocos_layout(tmp_path):
    prepare_benchmark.make_tree(tmp_path / "coco", 6)
    source = CocoSource(tmp_path / "coco", tmp_path / "coco" / "annotations", any_count=True)
    assert [len(list(source.names(split))) for split in ("train", "val")] == [4, 2]
    assert_refused(run_script("prepare_benchmark", "--images=39"), "from 40 on")


def test_the_drawn_coco_tree_shows_a_class_of_fold_0_in_every_image(tmp_path):
    for split in ("train", "val"):
        coco_evaluation.make_tree(tmp_path, split, 2, 64)
    source = CocoSource(tmp_path, tmp_path / "annotations", any_count=True)
    labels = [source.read("val", name).label for name in source.names("val")]
    # One scene, in eight ways.
    assert len(labels) == 8
    for label in labels:
        classes, areas = np.unique(label[(label > 0) & (label < 255)], return_counts=True)
        assert classes[areas.argmax()] % 4 == 1
    # Outlines run through the middles of pixels, so each turn fills other pixels at the edge.
    assert np.mean((labels[1] > 0) != np.rot90(labels[0] > 0)) < 0.1


@pytest.mark.slow
def test_coco_is_scored_alike_within_budgets_and_after_a_kill(tmp_path):
    file = tmp_path / "rows.json"
    done = run_script(
        "coco_evaluation",
        *("--images=240", "--train=120", "--episodes=24", "--sample=8", "--size=65", "--steps=2"),
        *("--shots=1", "--comparisons=conv", "--ways=disk,killed,every"),
        *(f"--workdir={tmp_path}", f"--json={file}"),
    )
    assert done.returncode == 0, done.stderr
    disk, killed, every = rows_of(file)
    assert disk["differing"] == killed["differing"] == 0 and every["differing"] <= 4
    assert disk["union"] == killed["union"] > 0
    assert 0 < killed["disk_bytes"] < disk["disk_bytes"]


def test_memory_is_of_ten_times_as_much(monkeypatch, tmp_path):
    commands = []

    def run(command, folder):
        commands.append(command)
        return memory_benchmark.harness.Ended(1.0, 1.0, 3_000_000, 2_000_000, "")

    monkeypatch.setattr("experiments.harness.run", run)
    file = tmp_path / "rows.json"
    options = ("--config=folder:records=R", "--steps=6", "--episodes=5", f"--json={file}")
    done = run_script("memory_benchmark", *options)
    assert done.returncode == 0, done.stderr
    counts = [(row["of"], row["count"], row["own_mb"]) for row in rows_of(file)]
    assert counts == [("training", 6, 2), ("training", 60, 2)] + [
        ("evaluation", 5, 2),
        ("evaluation", 50, 2),
    ]
    assert "--mode=evaluate" in commands[3] and "--config.training.steps=6" in commands[3]


def test_the_short_table_says_what_is_missing_wrong_or_other_in_another_process(tmp_path):
    part = {"part": "repeat", "status": 1, "seconds": 7}
    (tmp_path / "parts.jsonl").write_text(f"{json.dumps(part)}\n")
    both = [{"path": "kept features", "right": True, "digest": "a"}, {"missing": "grain"}]
    (tmp_path / "repeat.json").write_text(json.dumps({"rows": both}))
    for digest, says in (("a", "the same bits |  |"), ("b", " | WRONG |")):
        other = {"path": "kept features", "right": False, "digest": digest}
        (tmp_path / "repeat_again.json").write_text(json.dumps({"rows": [other]}))
        table = gpu_summary.summary(tmp_path).splitlines()
        assert table[2:5] == [
            "| repeat |  | 7 s | FAILED |",
            "| repeat |  |  | missing: grain |",
            "| repeat_again | kept features |  | WRONG |",
        ]
        assert table[5].startswith("| 2 processes | kept features |") and says in table[5]
