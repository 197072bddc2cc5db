"""What a run leaves for people and scripts: metrics.jsonl, TensorBoard events, results.json."""

import json
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as JSON, whole or not at all."""
    write_whole(path, (json.dumps(value, indent=2, default=list) + "\n").encode())


class MetricsLog:
    """Appends lines to `metrics.jsonl` and scalars to TensorBoard's event files."""

    def __init__(self, workdir: Path, step: int):
        """Goes on after `step`: lines of later steps, from before an interruption, are dropped."""
        self._path = workdir / "metrics.jsonl"
        kept = [line for line in self._lines() if line["step"] <= step]
        temporary = self._path.with_name("metrics.jsonl.new")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, self._path)
        self._events = SummaryWriter(str(workdir), purge_step=step + 1 if step else None)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_) -> None:
        self._events.close()

    def write(self, step: int, **values: Any) -> None:
        """Writes a line `{"step": step, **values}`; numbers go to TensorBoard too."""
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float):
                self._events.add_scalar(name, value, step)

    def _lines(self) -> Iterable[dict[str, Any]]:
        if not self._path.exists():
            return
        for text in self._path.read_text().splitlines():
            try:
                yield json.loads(text)
            except json.JSONDecodeError:
                # The last line of a run that was killed while it wrote.
                continue


def results_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a table of runs: a row per run and checkpoint, mIoU and FB-IoU at each shot.

    Args:
      results: by the run's name, the objects of its `results.json`.
    """
    shots = sorted({r["shot"] for rows in results.values() for r in rows})
    width = max(len(name) for name in results) + 8
    header = "".join(f"{f'{k}-shot mIoU':>14}{'FB-IoU':>9}" for k in shots)
    lines = [f"{'':{width}}" + header]
    for name, rows in results.items():
        for checkpoint in dict.fromkeys(r["checkpoint"] for r in rows):
            cells = {r["shot"]: r for r in rows if r["checkpoint"] == checkpoint}
            line = f"{name + ' (' + checkpoint + ')':{width}}"
            for shot in shots:
                row = cells.get(shot)
                line += f"{row['miou']:14.1f}{row['fb_iou']:9.1f}" if row else " " * 23
            lines.append(line)
    return "\n".join(lines)


def fold_table(results: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Returns a Markdown table: mIoU of each fold and their mean, then the mean FB-IoU.

    A line stands for a variant, shot and checkpoint. Where there are several seeds, a cell is
    their mean, and the means over folds carry the standard deviation over seeds.

    Args:
      results: by variant, the objects of `results.json` of all its folds and seeds.
    """
    rows = [{"variant": variant} | row for variant, rows in results.items() for row in rows]
    folds = sorted({row["fold"] for row in rows})
    seeds = sorted({row["training_seed"] for row in rows})
    heads = ["", "shot", "checkpoint", *(f"fold {fold}" for fold in folds), "mean mIoU", "FB-IoU"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for key in dict.fromkeys((row["variant"], row["shot"], row["checkpoint"]) for row in rows):
        found = {
            (row["training_seed"], row["fold"]): row
            for row in rows
            if (row["variant"], row["shot"], row["checkpoint"]) == key
        }

        def mean_of(field, found=found, **only):
            return statistics.mean(
                row[field] for row in found.values() if all(row[k] == v for k, v in only.items())
            )

        cells = [f"{mean_of('miou', fold=fold):.1f}" for fold in folds]
        for field in ("miou", "fb_iou"):
            means = [mean_of(field, training_seed=seed) for seed in {seed for seed, _ in found}]
            spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
            cells.append(f"{statistics.mean(means):.1f}{spread}")
        lines.append("| " + " | ".join(map(str, [*key, *cells])) + " |")
    if len(seeds) > 1:
        lines += ["", f"Means over {len(seeds)} seeds, ± their standard deviation."]
    return "\n".join(lines)
