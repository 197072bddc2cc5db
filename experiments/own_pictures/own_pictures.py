"""What `apanet_jax.load()` finds in images that its head was not trained for, and what it misses.

    python experiments/own_pictures/own_pictures.py --source=VOC_LAYOUT_DIR \
        --output=FILE.md [--method=small,dinov2] [--shot=1,5,25] [--queries=10] [--gap=30] \
        [--classes=cat,dog] [--split=val] [--size=385] [--features=DIR] [--heads=DIR] \
        [--negatives=5] [--no-refine] [--fit]
    python experiments/own_pictures/own_pictures.py --calibrate=apanet_jax/inference/heads/drawn

The images are those of `--split`: supports come from the first half of its list, queries from the
second, `--gap` names apart (the frames of a film). For each class the queries are some that show
it, on `--min_area` pixels or more, and some without a pixel of it. A class without enough supports
for a number of them is left out there, and named. FILE.md is the table; beside it, FILE.json has
the names of the images that were drawn and what was counted in each query. A method is a head of
`apanet_jax.load`, with "-untrained" behind it where no trained head is to be used. The heads of
`small` and `dinov2` were trained on all classes of voc_animals: with `--heads` DIR/METHOD_fold0,
DIR/METHOD_fold1, … are used in their place, each for the classes that are novel in its fold.

`--negatives` gives so many images of the first half that do not show the class. `--fit` prints the
presence's weights, fitted to the queries of each method and number of supports, and how well those
fitted to the other classes tell whether a class is there; for `bundled.py`, by `--split=train`.

`--no-refine` has the masks as the threshold makes them, see `refinement`.

`--calibrate` predicts on drawn images of the classes that the head was not trained on, and writes
what it needs to decide (`presence.Decision`) beside the head:
  bias, peak_weight, likeness_weight: logistic regression of whether an image shows the class.
  scale: with it the margins are the log-odds that a pixel is of the class, by maximum likelihood on
    images that show it (Platt, with the threshold held at 0).
All are for the number of supports: with more of them margins are lower.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.source import Source
from apanet_jax.inference.answers.mask_options import DEFAULT_OPTIONS
from apanet_jax.inference.heads.bundled import frozen_matcher
from apanet_jax.inference.heads.head_choice import DINOV2, SMALL
from apanet_jax.inference.heads.saved_head import DECISION
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row
from experiments.own_pictures.calibration import calibrate, fitted
from experiments.own_pictures.tasks import (
    METHODS,
    Labelled,
    Task,
    class_ids,
    embedding_once,
    opened,
    predictions,
    read,
    tasks_of,
)


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    folder = {"type": Path, "action": "append", "default": []}
    parser.add_argument("--source", **folder, help="a data set in the VOC layout; may be repeated")
    parser.add_argument("--output", type=Path, help="FILE.md; FILE.json comes beside it")
    parser.add_argument("--calibrate", type=Path, help="a head; its decision.json is written")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="of the data set")
    parser.add_argument("--classes", default="", help="names of those to find (all)")
    parser.add_argument("--features", type=Path, help="keeps features here, for later runs")
    parser.add_argument("--heads", type=Path, help="exported heads METHOD_fold0, METHOD_fold1, …")
    parser.add_argument("--fit", action="store_true", help="prints weights for `presence`")
    refine = {"action": argparse.BooleanOptionalAction, "default": DEFAULT_OPTIONS.refine}
    parser.add_argument("--refine", **refine, help="masks follow the images' edges (%(default)s)")
    for name, default, meaning in (
        ("size", "0", "of an image; 0: the method's own; the first for --calibrate"),
        ("shot", "1,5", "numbers of supports"),
    ):
        several = {"type": harness.numbers, "default": default}
        parser.add_argument(f"--{name}", **several, help=f"{meaning} ({default})")
    parser.add_argument(
        "--method", type=harness.some_of(METHODS), default=",".join(METHODS), help="which heads"
    )
    named = (
        ("queries", 10, "of a class that show it, and as many that do not"),
        ("gap", 0, "names left out between supports and queries"),
        ("min_area", 1000, "pixels of a class that an image needs to show it"),
        ("negatives", 0, "images without the class that are given beside its supports"),
        ("drawn", 240, "images that are drawn for --calibrate"),
    )
    harness.add_whole(parser, 0, named)
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, or calibrates."""
    given = arguments().parse_args(argv)
    if given.calibrate:
        content = calibrate(given)
        print(content)
        write_json(given.calibrate / DECISION, content)
        return
    if not given.source or not given.output:
        raise UserError("no --source and --output: name data sets, and a file for the table")
    rows: list[Row] = []
    for directory in given.source:
        source = FolderSource(directory)
        names = sorted(source.names(given.split))
        images = read(source, given.split)
        tasks = tasks_of(images, class_ids(source, given.classes), given)
        say_left_out(source, tasks, given)
        for size in given.size:
            for method in given.method:
                for segmenter, of_head in by_head(source, method, size, tasks, given):
                    segmenter.options = segmenter.options._replace(refine=given.refine)
                    rows += measure(source, method, segmenter, names, images, of_head, given.shot)
                write_json(given.output.with_suffix(".json"), rows)
                write_bytes(given.output, table(rows).encode())
    print(table(rows))
    if given.fit:
        print(*fitted(rows), sep="\n")


def say_left_out(source: Source, tasks: Sequence[Task], given: argparse.Namespace) -> None:
    """Says on stderr which classes have not enough supports, for each number of them."""
    for shot in given.shot:
        enough = {x.class_id for x in tasks if len(x.supports) >= shot}
        missing = [x for x in class_ids(source, given.classes) if x not in enough]
        if missing:
            names = ", ".join(source.class_names[x - 1] for x in missing)
            print(f"{source.name}, {shot} supports: left out {names}", file=sys.stderr)


def by_head(
    source: Source, method: str, size: int, tasks: Sequence[Task], given: argparse.Namespace
) -> Iterator[tuple[Segmenter, list[Task]]]:
    """Yields the segmenters of a method, each with the classes that it is to find.

    There are several where `--heads` has a head for each fold.
    """
    if given.heads is None or method not in (SMALL, DINOV2):
        yield opened(method, size, given.features), list(tasks)
        return
    features = given.features and given.features / method
    for fold, novel in enumerate(source.folds):
        of_fold = [x for x in tasks if source.class_names[x.class_id - 1] in novel]
        if of_fold:
            heads = {name: given.heads / f"{name}_fold{fold}" for name in (SMALL, DINOV2)}
            matcher = frozen_matcher(method, size or None, heads)
            yield embedding_once(Segmenter(matcher, head=str(heads[method])), features), of_fold


def measure(
    source: Source,
    method: str,
    segmenter: Segmenter,
    names: Sequence[str],
    images: Sequence[Labelled],
    tasks: Sequence[Task],
    shots: Sequence[int],
) -> list[Row]:
    """Returns a row for each class and number of supports."""
    size, rows = segmenter.matcher.grid.size, []
    for task in tasks:
        for shot in (x for x in shots if x <= len(task.supports)):
            found = predictions(segmenter, images, task, shot)
            rows.append(
                {
                    "source": source.name,
                    "class": source.class_names[task.class_id - 1],
                    "method": method,
                    "size": size,
                    "shot": shot,
                    "supports": [names[i] for i in task.supports[:shot]],
                    "queries": [
                        x._asdict() | {"image": names[x.image], "found": x.found} for x in found
                    ],
                }
            )
            if task is tasks[-1]:
                done = f"{source.name}, {method}, {size} pixels, {shot} supports"
                print(done, file=sys.stderr, flush=True)
    return rows


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Returns the means over classes, in percent, of one method's rows at a size and a shot.

    `mean_iou` is the mean over the queries that show the class, found or not; `miou` divides the
    sum of their common pixels by that of their union; `miou_found` takes the mask for empty where
    it was not found. A class that is in all images has no false ones. `roc` is the area under the
    ROC curve of the scores of all classes' queries.
    """
    mean_iou, miou, miou_found, found, false = [], [], [], [], []
    for row in rows:
        shown = [x for x in row["queries"] if x["shown"]]
        mean_iou.append(np.mean([x["common"] / x["either"] for x in shown]))
        absent = [x["found"] for x in row["queries"] if not x["shown"]]
        either = sum(x["either"] for x in shown)
        miou.append(sum(x["common"] for x in shown) / either)
        given = [x for x in shown if x["found"]]
        missed = sum(x["area"] for x in shown if not x["found"])
        miou_found.append(
            sum(x["common"] for x in given) / max(sum(x["either"] for x in given) + missed, 1)
        )
        found.append(np.mean([x["found"] for x in shown]))
        if absent:
            false.append(np.mean(absent))
    queries = [x for row in rows for x in row["queries"]]
    shown = [x["shown"] for x in queries]
    both = 0 < sum(shown) < len(shown)
    roc = roc_auc_score(shown, [x["score"] for x in queries]) if both else np.nan
    means = {"mean_iou": mean_iou, "miou": miou, "miou_found": miou_found, "found": found}
    means |= {"false": false, "roc": roc}
    return {name: 100 * float(np.mean(values or [np.nan])) for name, values in means.items()}


def table(rows: Sequence[Row]) -> str:
    """Returns the summaries as Markdown, in percent."""
    keys = ("source", "size", "shot", "method")
    lines = []
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        of_group = [row for row in rows if tuple(row[key] for key in keys) == group]
        means = summary(of_group)
        numbers = ("–" if np.isnan(value) else f"{value:.1f}" for value in means.values())
        lines.append([*group, len(of_group), *numbers])
    heads = (
        "source",
        "size",
        "supports",
        "",
        "classes",
        "mean IoU",
        "mIoU",
        "mIoU of what was found",
    )
    heads += ("found where it is", "found where it is not")
    return harness.table((*heads, "area under the ROC curve of the scores"), lines)


if __name__ == "__main__":
    main()
