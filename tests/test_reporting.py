"""Tables and the files of a run."""

import json

from apanet_jax.reporting import MetricsLog, fold_table, results_table


def row(fold, seed, miou, shot=1, checkpoint="last"):
    return {
        "fold": fold,
        "training_seed": seed,
        "shot": shot,
        "checkpoint": checkpoint,
        "miou": miou,
        "fb_iou": miou + 20,
    }


def test_a_table_over_folds_has_their_means():
    table = fold_table({"apanet": [row(0, 7, 40.0), row(2, 7, 50.0)]}).splitlines()
    assert table[0] == "|  | shot | checkpoint | fold 0 | fold 2 | mean mIoU | FB-IoU |"
    assert table[2:] == ["| apanet | 1 | last | 40.0 | 50.0 | 45.0 | 65.0 |"]


def test_a_table_over_seeds_has_the_spread_of_the_means_over_folds():
    rows = [row(0, 0, 40.0), row(1, 0, 50.0), row(0, 1, 42.0), row(1, 1, 52.0)]
    table = fold_table({"a": rows, "b": [row(0, 0, 10.0, 5), row(1, 0, 20.0, 5)]})
    # Seeds' means are 45 and 47: mean 46, standard deviation sqrt(2).
    assert "| a | 1 | last | 41.0 | 51.0 | 46.0 ± 1.4 | 66.0 ± 1.4 |" in table


def test_a_table_of_one_fold_has_a_row_per_checkpoint():
    rows = [row(0, 0, 30.0, 1), row(0, 0, 35.0, 5), row(0, 0, 31.0, 1, "best")]
    lines = results_table({"apanet": rows}).splitlines()
    assert lines[1].split() == ["apanet", "(last)", "30.0", "50.0", "35.0", "55.0"]
    assert lines[2].split() == ["apanet", "(best)", "31.0", "51.0"]


def test_metrics_go_on_after_the_step_that_was_kept(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(step, loss=float(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with MetricsLog(tmp_path, 2) as log:
        log.write(3, loss=9.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 9.0},
    ]
