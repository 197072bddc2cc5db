"""Counts a workdir's test episodes again and compares with what its `results.json` says."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from apanet_jax.config import saved
from apanet_jax.evaluation.results import RESULTS, read_results
from apanet_jax.runs.run import Run, make_run
from apanet_jax.runs.scoring import counted, result
from apanet_jax.runs.sweep import parts, with_drawn_records
from apanet_jax.runtime.errors import UserError

_NAMES_A_ROW = ("checkpoint", "shot")
_OF_THE_RUN = ("data_fingerprint", "weights_fingerprint", "config_fingerprint", "step", "episodes")
_COUNTED = ("counts", "iou_per_class", "miou", "fb_iou")
_CIRCUMSTANCES = ("device", "versions")


def verify(workdir: Path, config: ConfigDict | None = None) -> int:
    """Prints a line for each row of the workdir's results: the same again, or what differs.

    Rows from before counts were written are compared by their rounded scores.

    Args:
      workdir: of one run or of several, that were evaluated. Nothing is written to it.
      config: the settings; None: those that the runs left there.

    Returns:
      How many rows differ.

    Raises:
      UserError: there are no results, or the heads cannot be evaluated.
    """
    differing = 0
    for run_config, folder in _runs(workdir, config):
        rows = read_results(folder)
        run = make_run(run_config)
        scored = {(head, shot): row for head, shot, row in _scored(run, folder)}
        for row in rows:
            again = scored.get(tuple(row.get(key) for key in _NAMES_A_ROW))
            difference = _difference(row, again)
            differing += difference is not None
            name = f"{folder} {row.get('checkpoint')} {row.get('shot')}-shot"
            print(f"{name}: {difference or _same(row)}", flush=True)
    return differing


def _runs(workdir: Path, config: ConfigDict | None) -> list[tuple[ConfigDict, Path]]:
    if config is not None:
        if config.data.generate:
            config = with_drawn_records(config, workdir)
        return [(part.config, workdir / part.folder) for part in parts(config)]
    if (workdir / saved.FILE).exists():
        return [(saved.of_run(workdir), workdir)]
    folders = sorted(path.parent for path in workdir.glob(f"**/{RESULTS}"))
    if not folders:
        raise UserError(f"--workdir={workdir} holds no {RESULTS}: evaluate there first")
    return [(saved.of_run(folder), folder) for folder in folders]


def _scored(run: Run, folder: Path) -> Iterator[tuple[str, int, dict[str, Any]]]:
    for head, shot, counts, class_id in counted(run, folder):
        yield head.name, shot, result(run, head, shot, counts, class_id)


def _difference(row: dict[str, Any], again: dict[str, Any] | None) -> str | None:
    """Returns what differs between a stored row and the same counted again, None for nothing."""
    if again is None:
        return "DIFFERS: these settings and checkpoints give no such row"
    # What its makers know as a tuple or a number comes back from JSON as that leaves it.
    again = json.loads(json.dumps(again))
    for key in _OF_THE_RUN:
        if key in row and row[key] != again[key]:
            return f"DIFFERS: {key} is {row[key]!r} there and {again[key]!r} here"
    for key in _COUNTED:
        if key in row and row[key] != again[key]:
            return f"DIFFERS: {_first(key, row[key], again[key])}{_circumstances(row, again)}"
    if not any(key in row for key in _COUNTED):
        return "DIFFERS: the row holds no scores"
    return None


def _first(key: str, there: Any, here: Any) -> str:
    """Names the first value that differs."""
    if isinstance(there, dict) and isinstance(here, dict):
        name = next(k for k in {**there, **here} if there.get(k) != here.get(k))
        return _first(f"{key} of {name}", there.get(name), here.get(name))
    return f"{key} is {there!r} there and {here!r} here"


def _circumstances(row: dict[str, Any], again: dict[str, Any]) -> str:
    others = [
        f"{key} {row[key]} there, {again[key]} here"
        for key in _CIRCUMSTANCES
        if key in row and row[key] != again[key]
    ]
    return f" ({'; '.join(others)})" if others else ""


def _same(row: dict[str, Any]) -> str:
    scores = f"mIoU {row['miou']:.2f}, FB-IoU {row['fb_iou']:.2f}" if "miou" in row else "scores"
    return f"the same again, {scores}" + ("" if "counts" in row else ", without counts")
