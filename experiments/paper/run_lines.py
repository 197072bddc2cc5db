"""Tables of runs: a line for each scored run, number of supports and checkpoint, as CSV."""

import csv
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from apanet_jax.evaluation.results import RESULTS, read_results
from apanet_jax.runtime.atomic_files import writing
from apanet_jax.runtime.errors import UserError

FIELDS = (
    *("dataset", "fold", "seed", "shot", "variant", "backbone", "comparison", "num_clusters"),
    *("agnostic_weight", "training_list", "prior", "image_size", "steps", "checkpoint"),
    *("miou", "fb_iou", "episodes"),
)
"""The columns of the CSV."""

BASELINE, APANET = "baseline", "apanet"
"""Variants: the plain rows without and with the class-agnostic branch."""

TRAINING_FREE = "training_free"
"""What the variant begins with where nothing was trained."""

_SETTINGS = (
    *("dataset", "variant", "backbone", "comparison", "num_clusters", "agnostic_weight"),
    *("training_list", "prior", "image_size", "steps"),
)
_KINDS = {
    "dataset": str,
    "backbone": str,
    "checkpoint": str,
    "num_clusters": int | None,
    "agnostic_weight": int | float | None,
    "fold": int,
    "shot": int,
    "training_seed": int,
    "episodes": int,
    "miou": int | float,
    "fb_iou": int | float,
    "iou_per_class": dict,
}


class RunLine(NamedTuple):
    """What a checkpoint scored on the test episodes with one number of supports.

    Attributes:
      folder: of the run, with its `results.json`.
      values: by the names of `FIELDS`; None where a column does not apply, or is not known.
      settings: those columns that are settings of the run, other than fold and seed; its steps only
        if they were set as such, since epochs have another number of them in each fold.
      classes: names of those that were scored.
    """

    folder: Path
    values: dict[str, Any]
    settings: dict[str, Any]
    classes: tuple[str, ...]


def read_lines(workdirs: Iterable[Path]) -> list[RunLine]:
    """Returns the lines of every `results.json` in the workdirs, however often one is named.

    Raises:
      UserError: a workdir holds none, or one cannot be read.
    """
    variants: dict[Path, str] = {}
    for workdir in workdirs:
        inside = sorted(workdir.rglob(RESULTS))
        if not inside:
            raise UserError(f"{workdir} holds no {RESULTS}, so no finished run: evaluate there")
        for path in inside:
            variants.setdefault(path.parent.resolve(), _variant(path.parent, workdir))
    return [line for folder, variant in variants.items() for line in _lines(folder, variant)]


def _variant(folder: Path, workdir: Path) -> str:
    """Returns the name of a run, from the folders below the workdir that name no seed or fold."""
    below = folder.relative_to(workdir).parts
    return "/".join(part for part in below if not re.fullmatch(r"(seed|fold)\d+", part))


def _lines(folder: Path, variant: str) -> Iterable[RunLine]:
    config = _config(folder)
    for row in read_results(folder):
        for name, kind in _KINDS.items():
            if not isinstance(row.get(name), kind):
                raise UserError(f"{folder / RESULTS}: {name!r} of a result is {row.get(name)!r}")
        settings = dict.fromkeys(_SETTINGS) | {k: row[k] for k in _SETTINGS if k in row} | config
        settings["variant"] = variant or (APANET if row["num_clusters"] else BASELINE)
        values = {name: settings.get(name, row.get(name)) for name in FIELDS}
        values |= {"seed": row["training_seed"], "steps": row.get("step")}
        yield RunLine(folder, values, settings, tuple(row["iou_per_class"]))


def _config(folder: Path) -> dict[str, Any]:
    """Returns the columns that a run's `config.json` has; none where it left no such file."""
    path = folder / "config.json"
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text())
        model, data = config["model"], config["data"]
        return {
            "comparison": model["comparison"],
            "prior": "+".join(model["priors"]),
            # Runs from before there was a choice had every image with a base class.
            "training_list": data.get("training_list", "all"),
            "image_size": config["image_size"],
            "steps": config["training"].get("steps") or None,
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is no config of a run: {error!r}") from error


def write_csv(path: Path, lines: Iterable[RunLine]) -> None:
    """Writes the lines, ordered by their columns up to `variant`, then as they come."""
    ordered = sorted(lines, key=lambda line: [line.values[name] for name in FIELDS[:4]])
    with writing(path) as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(line.values for line in ordered)
