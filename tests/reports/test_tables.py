"""Tables and the files of a run."""

import json

from apanet_jax.reports.paper import PublishedRow
from apanet_jax.reports.tables import class_table, fold_lists, fold_markdown, results_table
from apanet_jax.training.metrics_log import MetricsLog, read_metrics


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
    table = fold_markdown({"apanet": [row(0, 7, 40.0), row(2, 7, 50.0)]}).splitlines()
    assert table[0] == "| mIoU | checkpoint | 1-shot fold 0 | 1-shot fold 2 | mean |"
    assert table[2] == "| apanet | last | 40.0 | 50.0 | 45.0 |"
    assert table[4] == "| FB-IoU | checkpoint | 1-shot fold 0 | 1-shot fold 2 | mean |"
    assert table[6:] == ["| apanet | last | 60.0 | 70.0 | 65.0 |"]


def test_a_table_over_seeds_has_the_spread_of_the_means_over_folds():
    rows = [row(0, 0, 40.0), row(1, 0, 50.0), row(0, 1, 42.0), row(1, 1, 52.0)]
    table = fold_markdown({"a": rows, "b": [row(0, 0, 10.0, 5), row(1, 0, 20.0, 5, "best")]})
    # Seeds' means are 45 and 47: mean 46, standard deviation sqrt(2).
    assert "| a | last | 41.0 | 51.0 | 46.0 ± 1.4 |  |  |  |" in table
    assert "| b | last |  |  |  | 10.0 |  | 10.0 |" in table
    assert "| b | best |  |  |  |  | 20.0 | 20.0 |" in table
    assert "Means over 2 seeds" in table


def test_the_paper_s_rows_stand_below_ours():
    published = [
        PublishedRow("I", "pascal", "miou", "vgg16", "APANet", 1, (1.0, 2.0, 3.0, 4.0), 2.5),
        PublishedRow("I", "pascal", "miou", "vgg16", "APANet", 5, (1.0, 2.0, 3.0, 4.0), 9.0),
        PublishedRow("III", "pascal", "fb_iou", "vgg16", "APANet", 1, (), 71.3),
    ]
    rows = [row(fold, 0, 30.0, shot) for fold in (1, 3) for shot in (1, 5)]
    lines = fold_markdown({"mine": rows}, published).splitlines()
    assert lines[3] == "| *APANet* | *paper* | 2.0 | 4.0 | 2.5 | 2.0 | 4.0 | 9.0\\* |"
    assert lines[8] == "| *APANet* | *paper* |  |  | 71.3 |  |  |  |"
    assert "A star marks" in lines[-1]


def test_a_table_of_one_fold_has_a_row_per_checkpoint():
    rows = [row(0, 0, 30.0, 1), row(0, 0, 35.0, 5), row(0, 0, 31.0, 1, "best")]
    lines = results_table({"apanet": rows}).splitlines()
    assert lines[1].split() == ["apanet", "(last)", "30.0", "50.0", "35.0", "55.0"]
    assert lines[2].split() == ["apanet", "(best)", "31.0", "51.0"]


def test_the_lists_for_a_terminal_say_what_the_tables_say_in_80_columns():
    rows = [
        row(fold, seed, 30.0 + fold, shot)
        for fold in range(4)
        for seed in (0, 1)
        for shot in (1, 5)
    ]
    published = [
        PublishedRow("I", "pascal", "miou", "vgg16", "APANet", 5, (1.0, 2.0, 3.0, 4.0), 9.0)
    ]
    lines = fold_lists({"fem_complement": rows}, published).splitlines()
    assert lines[0].split() == ["mIoU,", "1-shot", *"fold 0 fold 1 fold 2 fold 3 mean".split()]
    ours = "fem_complement (last) 30.0 31.0 32.0 33.0 31.5 ± 0.0"
    assert " ".join(lines[1].split()) == ours
    assert " ".join(lines[5].split()) == "APANet (paper) 1.0 2.0 3.0 4.0 9.0*"
    assert max(map(len, lines)) <= 80
    assert "Means over 2 seeds" in lines[-3] and "A star marks" in lines[-1]


def test_a_class_has_the_mean_over_seeds_at_each_shot():
    rows = [
        row(0, seed, 0.0, shot) | {"iou_per_class": {"bee": 10.0 * shot + seed, "ant": 5.0}}
        for seed in (0, 1)
        for shot in (1, 5)
    ]
    other = [row(1, 0, 0.0, 1) | {"iou_per_class": {"wasp": 7.0}}]
    lines = class_table({"apanet": rows + other, "baseline": other}).splitlines()
    assert [line.split() for line in lines] == [
        ["apanet", "(last),", "IoU", "1-shot", "5-shot"],
        ["bee", "10.5", "50.5"],
        ["ant", "5.0", "5.0"],
        ["wasp", "7.0"],
        [],
        ["baseline", "(last),", "IoU", "1-shot"],
        ["wasp", "7.0"],
    ]


def test_metrics_go_on_after_the_step_that_was_kept(tmp_path):
    with MetricsLog(tmp_path, 0) as log:
        for step in (1, 2, 3):
            log.write(step, loss=float(step))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    with MetricsLog(tmp_path, 2) as log:
        log.write(3, loss=9.0)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    seconds = [line.pop("seconds") for line in lines]
    assert lines == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 3, "loss": 9.0},
    ]
    assert seconds == sorted(seconds) and seconds[0] >= 0


def test_the_time_of_a_training_leaves_out_interruptions(tmp_path, monkeypatch):
    now = iter([100.0, 107.5, 9000.0, 9001.0])
    monkeypatch.setattr("apanet_jax.training.metrics_log.time.perf_counter", lambda: next(now))
    for step in (1, 2):
        with MetricsLog(tmp_path, step - 1) as log:
            log.write(step, loss=0.5)
    assert [line["seconds"] for line in read_metrics(tmp_path)] == [7.5, 8.5]
