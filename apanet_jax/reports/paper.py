"""The paper's figures, as printed in its Tables I to VII, to stand beside ours.

`paper_tables.csv` holds every row of Tables I to III. Two things in print are not as they should
be: Table I shows SCLNet and APANet's 63.0 / 66.0 beside the label ResNet-101, and both belong to
ResNet-50; and some means are not the means of their folds (`PublishedRow.mean_differs`).

`paper_ablations.csv` holds every row of Tables IV to VII (PASCAL-5i, ResNet-50, 1-shot mIoU). Here
too a mean is not its folds' (Table VI's 0.9 row by 2.9 points, the baseline's by less than 0.1),
and Table V(b) repeats Table VII's 5x5 row, which is another experiment
(`PublishedAblation.repeats`).
"""

import csv
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_TABLES = Path(__file__).with_name("paper_tables.csv")
_ABLATIONS = Path(__file__).with_name("paper_ablations.csv")

BASELINE, OURS = "PFENet", "APANet"
"""The paper's baseline is PFENet with its published numbers."""


class PublishedRow(NamedTuple):
    """One method's scores at one number of shots, in percent.

    Attributes:
      table: "I", "II" or "III".
      dataset: "pascal" or "coco".
      metric: "miou" or "fb_iou".
      backbone: as the configs name it; "vgg16" whether or not it has BatchNorm.
      method: by the paper's name.
      shot: 1 or 5.
      folds: of each fold; empty where only the mean was published.
      mean: as printed.
    """

    table: str
    dataset: str
    metric: str
    backbone: str
    method: str
    shot: int
    folds: tuple[float, ...]
    mean: float

    @property
    def mean_differs(self) -> bool:
        """Whether the printed mean is not the folds' mean, by more than rounding allows."""
        return _mean_differs(self.folds, self.mean)

    @property
    def label_differs(self) -> bool:
        """Whether print shows the row beside the label of another backbone than its own."""
        return (self.table, self.backbone, self.method) in _BESIDE_ANOTHER_LABEL


_BESIDE_ANOTHER_LABEL = {("I", "resnet50", "SCLNet"), ("I", "resnet50", OURS)}


class PublishedAblation(NamedTuple):
    """One row of the paper's ablations: mIoU in percent, PASCAL-5i, ResNet-50, 1-shot.

    Attributes:
      table: "IV", "V", "VI" or "VII".
      row: as the table names it: n of Table IV ("0" to "5"), the part of Fig. 1 of Table V ("a" to
        "d"), lambda of Table VI ("0" to "1.0"), the pooling's size of Table VII ("2x2" to "5x5").
      folds: of each fold.
      mean: as printed.
    """

    table: str
    row: str
    folds: tuple[float, ...]
    mean: float

    @property
    def mean_differs(self) -> bool:
        """Whether the printed mean is not the folds' mean, by more than rounding allows."""
        return _mean_differs(self.folds, self.mean)

    @property
    def experiment(self) -> str:
        """What was trained: tables that share an experiment print the same numbers for it."""
        return _SHARED_EXPERIMENTS.get((self.table, self.row), f"{self.table} {self.row}")

    @property
    def repeats(self) -> tuple["PublishedAblation", ...]:
        """The rows of other experiments that print the same numbers, which cannot all be right."""
        return tuple(
            other
            for other in published_ablations()
            if (other.folds, other.mean) == (self.folds, self.mean)
            and other.experiment != self.experiment
        )

    @property
    def note(self) -> str:
        """What is inconsistent about the row in print, in one sentence; empty for most."""
        notes = []
        if self.mean_differs:
            mean = statistics.mean(self.folds)
            notes.append(f"printed mean {self.mean:.1f}, but its folds average {mean:.3f}")
        notes += [f"the same numbers as Table {r.table}, row {r.row}" for r in self.repeats]
        return "; ".join(notes)


_SHARED_EXPERIMENTS = {
    ("IV", "0"): "baseline",
    ("V", "a"): "baseline",
    ("VI", "0"): "baseline",
    ("IV", "1"): "one prototype",
    ("V", "c"): "one prototype",
    ("IV", "3"): "APANet",
    ("V", "d"): "APANet",
    ("VI", "0.5"): "APANet",
}
"""The rows of several tables that are one experiment, by the paper's own words."""


def _mean_differs(folds: tuple[float, ...], mean: float) -> bool:
    return bool(folds) and abs(statistics.mean(folds) - mean) > 0.0501


@functools.lru_cache(maxsize=1)
def published() -> tuple[PublishedRow, ...]:
    """Returns every row of the paper's Tables I to III."""
    with _TABLES.open(newline="") as file:
        return tuple(
            PublishedRow(
                **{name: row[name] for name in PublishedRow._fields[:5]},
                shot=int(row["shot"]),
                folds=tuple(float(row[f"fold{i}"]) for i in range(4) if row[f"fold{i}"]),
                mean=float(row["mean"]),
            )
            for row in csv.DictReader(file)
        )


@functools.lru_cache(maxsize=1)
def published_ablations() -> tuple[PublishedAblation, ...]:
    """Returns every row of the paper's Tables IV to VII, in print's order."""
    with _ABLATIONS.open(newline="") as file:
        return tuple(
            PublishedAblation(
                table=row["table"],
                row=row["row"],
                folds=tuple(float(row[f"fold{i}"]) for i in range(4)),
                mean=float(row["mean"]),
            )
            for row in csv.DictReader(file)
        )


def paper_folds(dataset: str, class_names: Sequence[str]) -> list[tuple[str, ...]]:
    """Returns the novel classes of the paper's four folds; none where it has no such data set.

    PASCAL-5i takes five classes after the other, COCO-20i every fourth.

    Args:
      dataset: its name here.
      class_names: of all its classes, in order.
    """
    names = tuple(class_names)
    if (dataset, len(names)) == ("pascal", 20):
        return [names[5 * i : 5 * i + 5] for i in range(4)]
    if (dataset, len(names)) == ("coco", 80):
        return [names[i::4] for i in range(4)]
    return []


def published_beside(
    dataset: str, backbone: str, class_names: Sequence[str], folds: Sequence[Sequence[str]]
) -> tuple[PublishedRow, ...]:
    """Returns the rows that runs can be held against: the paper's baseline and its own.

    Args:
      dataset: the runs'.
      backbone: the runs'.
      class_names: of the data set.
      folds: of the data set: for each the names of its novel classes. Rows of other folds do not
        compare, so there are none unless these are the paper's.
    """
    expected = paper_folds(dataset, class_names)
    if not expected or [set(fold) for fold in folds] != [set(fold) for fold in expected]:
        return ()
    return tuple(
        row
        for row in published()
        if (row.dataset, row.backbone) == (dataset, backbone.removesuffix("_bn"))
        and row.method in (BASELINE, OURS)
    )
