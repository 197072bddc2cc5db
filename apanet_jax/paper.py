"""The paper's figures, as printed in its Tables I to III, to stand beside ours.

`paper_tables.csv` holds every row of the three tables. Two things in print are not as they should
be: Table I shows SCLNet and APANet's 63.0 / 66.0 beside the label ResNet-101, and both belong to
ResNet-50; and some means are not the means of their folds (`PublishedRow.mean_differs`).
"""

import csv
import functools
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_TABLES = Path(__file__).with_name("paper_tables.csv")

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
        return bool(self.folds) and abs(statistics.mean(self.folds) - self.mean) > 0.0501


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
    count = {"pascal": 20, "coco": 80}.get(dataset)
    if len(class_names) != count:
        return ()
    # PASCAL-5i takes five classes after the other, COCO-20i every fourth.
    spans = {
        "pascal": [class_names[5 * i : 5 * i + 5] for i in range(4)],
        "coco": [class_names[i::4] for i in range(4)],
    }
    if [set(fold) for fold in folds] != [set(fold) for fold in spans[dataset]]:
        return ()
    return tuple(
        row
        for row in published()
        if (row.dataset, row.backbone) == (dataset, backbone.removesuffix("_bn"))
        and row.method in (BASELINE, OURS)
    )
