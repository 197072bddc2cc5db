"""A run's head beside those that come with the package: what `heads.json` says, and what to use."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apanet_jax.runtime.errors import UserError

FILE = "heads.json"
OWN = "this run"
UNTRAINED = "no training"
"""The frozen features of the best backbone at hand alone."""

Row = Mapping[str, Any]
"""What one head found in one image: `head`, `class`, `supports`, `image` and `iou` in percent; for
a head other than `OWN`, the options by which `use` chooses it."""

_NEEDED = {"head": str, "class": str, "supports": int, "image": str, "iou": int | float}


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns the rows in a run's folder; none where there is no such file.

    Raises:
      UserError: the file cannot be read.
    """
    path = folder / FILE
    if not path.exists():
        return []
    try:
        rows = json.loads(path.read_text())
        if all(isinstance(row[name], kind) for row in rows for name, kind in _NEEDED.items()):
            return rows
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass
    raise UserError(f"{path} holds no rows: expected {', '.join(_NEEDED)} in each; remove it")


def table(rows: Sequence[Row]) -> list[tuple[str, list[float], float]]:
    """Returns each head with its IoU of each class and the mean over classes, the best first."""
    classes = list(dict.fromkeys(row["class"] for row in rows))
    found = []
    for head in dict.fromkeys(row["head"] for row in rows):
        of_head = [row for row in rows if row["head"] == head]
        means = [
            statistics.mean(row["iou"] for row in of_head if row["class"] == name)
            for name in classes
        ]
        found.append((head, means, statistics.mean(means)))
    return sorted(found, key=lambda line: -line[-1])


def advice(rows: Sequence[Row]) -> str:
    """Returns which head to use, and how sure that is.

    Sure is a mean difference to this run's head of more than two standard errors over the images.
    """
    other = next(head for head, *_ in table(rows) if head != OWN)
    ious = {head: [row["iou"] for row in rows if row["head"] == head] for head in (OWN, other)}
    differences = [a - b for a, b in zip(ious[other], ious[OWN], strict=True)]
    count, mean = len(differences), statistics.mean(differences)
    error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else math.inf
    options = next(row["use"] for row in rows if row["head"] == other)
    if abs(mean) <= 2 * error:
        return (
            f"{count} images do not tell this run's head from {other} ({options}): its IoU is "
            f"{mean:+.1f} on average, with a standard error of {error:.1f}"
        )
    if mean < 0:
        return f"use this run's head: its IoU is higher than that of {other} by {-mean:.1f}"
    return f"use {other} ({options}): its IoU is higher by {mean:.1f} on average"


def text(rows: Sequence[Row]) -> str:
    """Returns the table as text, and the advice."""
    classes = list(dict.fromkeys(row["class"] for row in rows))
    lines = table(rows)
    width = max(len(head) for head, *_ in lines)
    columns = [max(len(name), 5) for name in (*classes, "mean")]
    cells = [["", *classes, "mean"]]
    cells += [[head, *(f"{x:.1f}" for x in (*means, mean))] for head, means, mean in lines]
    shown = [
        f"{first:<{width}}" + "".join(f"  {x:>{n}}" for x, n in zip(rest, columns, strict=True))
        for first, *rest in cells
    ]
    return "\n".join([title(rows), "", *shown, "", advice(rows)])


def title(rows: Sequence[Row]) -> str:
    """Returns what was compared, on how many images."""
    images = len({row["image"] for row in rows})
    supports = sorted({row["supports"] for row in rows})
    return (
        f"beside the heads that come with the package, {images} test images, "
        f"{' or '.join(map(str, supports))} supports, mean IoU, %"
    )
