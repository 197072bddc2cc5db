"""What `apanet_jax.load()` finds in images that its head was not trained for, and what it misses.

    python experiments/own_pictures/own_pictures.py --source=VOC_LAYOUT_DIR \
        --output=FILE.md [--gap=30] [--size=289] [--shot=1,5] [--queries=10] [--method=head]
    python experiments/own_pictures/own_pictures.py --calibrate=apanet_jax/inference/heads/drawn

The images are those of `val`: supports come from the first half of its list, queries from the
second, `--gap` names apart (the frames of a film). For each class the queries are some that show
it, on `--min_area` pixels or more, and some without a pixel of it. FILE.md is the table; beside it,
FILE.json has what was counted in each query.

`--calibrate` predicts on drawn images of the classes that the head was not trained on, and writes
what it needs to decide (`presence.Decision`) beside the head:
  bias, peak_weight, likeness_weight: logistic regression of whether an image shows the class.
  scale: with it the margins are the log-odds that a pixel is of the class, by maximum likelihood on
    images that show it (Platt, with the threshold held at 0).
All are for the number of supports: with more of them margins are lower.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2]))

import apanet_jax
from apanet_jax.data.source import Source
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.synthetic import FOLDS, SyntheticSource
from apanet_jax.data.transforms import IGNORE, binary_label
from apanet_jax.inference.presence import Decision
from apanet_jax.inference.saved_head import DECISION
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row

METHODS = ("head", "untrained")
PIXELS = 300
"""Drawn from each image for the scale."""

Labelled = tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]
"""An image and its label map."""


class Task(NamedTuple):
    """A class to find, as numbers of images.

    Attributes:
      class_id: 1 for the first.
      supports: as many as the largest number of supports.
      shown: queries that show the class.
      absent: queries without a pixel of it.
    """

    class_id: int
    supports: list[int]
    shown: list[int]
    absent: list[int]


class Prediction(NamedTuple):
    """What a segmenter predicts of a query.

    Attributes:
      shown: whether the query shows the class.
      score: how likely that is, see `segmenter.Answer`.
      peak: likewise.
      likeness: likewise.
      area: pixels of the class.
      common: pixels of it above the threshold.
      either: pixels of the class or above the threshold; ignored ones count nowhere.
    """

    shown: bool
    score: float
    peak: float
    likeness: float
    area: int
    common: int
    either: int

    @property
    def found(self) -> bool:
        """Whether the segmenter says that the query shows the class."""
        return self.score > 0.5


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    folder = {"type": Path, "action": "append", "default": []}
    parser.add_argument("--source", **folder, help="a data set in the VOC layout; may be repeated")
    parser.add_argument("--output", type=Path, help="FILE.md; FILE.json comes beside it")
    parser.add_argument("--calibrate", type=Path, help="a head; its decision.json is written")
    for name, default, meaning in (
        ("size", "193,289,385", "of an image; the first for --calibrate"),
        ("shot", "1,5", "numbers of supports"),
    ):
        several = {"type": harness.numbers, "default": default}
        parser.add_argument(f"--{name}", **several, help=f"{meaning} ({default})")
    parser.add_argument(
        "--method", type=harness.some_of(METHODS), default=",".join(METHODS), help="with or without"
    )
    for name, default, meaning in (
        ("queries", 10, "of a class that show it, and as many that do not"),
        ("gap", 0, "names left out between supports and queries"),
        ("min_area", 1000, "pixels of a class that an image needs to show it"),
        ("drawn", 240, "images that are drawn for --calibrate"),
    ):
        number = {"type": harness.whole(0), "default": default}
        parser.add_argument(f"--{name}", **number, help=f"{meaning} ({default})")
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
        images = read(source)
        tasks = tasks_of(images, range(1, len(source.class_names) + 1), given)
        for size in given.size:
            for method in given.method:
                rows += measure(source, method, size, images, tasks, given.shot)
                write_json(given.output.with_suffix(".json"), rows)
                write_bytes(given.output, table(rows).encode())
    print(table(rows))


def read(source: Source) -> list[Labelled]:
    """Returns the images of `val` with their label maps."""

    def one(name: str) -> Labelled:
        sample = source.read("val", name)
        image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
        return np.ascontiguousarray(image[..., ::-1]), sample.label

    return [one(name) for name in sorted(source.names("val"))]


def tasks_of(
    images: Sequence[Labelled], class_ids: Sequence[int], given: argparse.Namespace
) -> list[Task]:
    """Draws supports and queries of each class that has supports enough and a query.

    All classes go through the images in one random order, so that few images are predicted.
    """
    half = (len(images) - given.gap) // 2
    rng = np.random.default_rng(0)
    first = rng.permutation(half)
    second = half + given.gap + rng.permutation(len(images) - half - given.gap)
    most, tasks = max(given.shot), []
    for class_id in class_ids:
        area = [np.count_nonzero(label == class_id) for _, label in images]
        supports = [int(i) for i in first if area[i] >= given.min_area][:most]
        shown = [int(i) for i in second if area[i] >= given.min_area][: given.queries]
        absent = [int(i) for i in second if area[i] == 0][: given.queries]
        if len(supports) == most and shown:
            tasks.append(Task(class_id, supports, shown, absent))
    return tasks


def embedding_once(segmenter: Segmenter) -> Segmenter:
    """Makes a segmenter embed every image once, however often it is given."""
    embed, kept = segmenter.matcher.embed, {}

    def embed_once(square):
        key = square.tobytes()
        if key not in kept:
            kept[key] = embed(square)
        return kept[key]

    segmenter.matcher.embed = embed_once
    return segmenter


def predictions(
    segmenter: Segmenter,
    images: Sequence[Labelled],
    task: Task,
    shot: int,
    keep: Callable = lambda margin, truth: None,
) -> list[Prediction]:
    """Gives a segmenter `shot` supports, and returns its prediction of each query.

    Args:
      segmenter: it is fitted to the class.
      images: of the data set.
      task: the class.
      shot: number of supports.
      keep: is called with the margins and the binary label map of each query that shows the class.
    """
    supports = [images[i] for i in task.supports[:shot]]
    masks = [binary_label(label, task.class_id) for _, label in supports]
    segmenter.fit([image for image, _ in supports], masks)
    found = []
    for number in task.shown + task.absent:
        image, label = images[number]
        (answer,) = segmenter.answers([image])
        margin, truth = answer.margin(0), binary_label(label, task.class_id)
        above, counted = margin > 0, truth != IGNORE
        shown = number in task.shown
        if shown:
            keep(margin, truth)
        area = int(np.count_nonzero(truth == 1))
        common = int(np.count_nonzero(above & (truth == 1)))
        either = int(np.count_nonzero((above & counted) | (truth == 1)))
        signs = (float(x[0]) for x in (answer.scores, answer.peaks, answer.likenesses))
        found.append(Prediction(shown, *signs, area, common, either))
    return found


def measure(
    source: Source,
    method: str,
    size: int,
    images: Sequence[Labelled],
    tasks: Sequence[Task],
    shots: Sequence[int],
) -> list[Row]:
    """Returns a row for each class and number of supports."""
    segmenter = embedding_once(apanet_jax.load(size=size, trained=method == "head"))
    rows = []
    for task in tasks:
        for shot in shots:
            found = predictions(segmenter, images, task, shot)
            rows.append(
                {
                    "source": source.name,
                    "class": source.class_names[task.class_id - 1],
                    "method": method,
                    "size": size,
                    "shot": shot,
                    "queries": [x._asdict() | {"found": x.found} for x in found],
                }
            )
            if task is tasks[-1]:
                done = f"{source.name}, {method}, {size} pixels, {shot} supports"
                print(done, file=sys.stderr, flush=True)
    return rows


def summary(rows: Sequence[Row]) -> dict[str, float]:
    """Returns the means over classes, in percent, of one method's rows at a size and a shot.

    `miou` counts the queries that show the class, found or not; `miou_found` takes the mask for
    empty where it was not found. A class that is in all images has no false ones. `roc` is the
    area under the ROC curve of the scores of all classes' queries.
    """
    miou, miou_found, found, false = [], [], [], []
    for row in rows:
        shown = [x for x in row["queries"] if x["shown"]]
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
    means = {"miou": miou, "miou_found": miou_found, "found": found, "false": false, "roc": roc}
    return {name: 100 * float(np.mean(values or [np.nan])) for name, values in means.items()}


def table(rows: Sequence[Row]) -> str:
    """Returns the summaries as Markdown, in percent."""
    keys = ("source", "size", "shot", "method")
    lines = []
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        means = summary([row for row in rows if tuple(row[key] for key in keys) == group])
        numbers = ("–" if np.isnan(value) else f"{value:.1f}" for value in means.values())
        lines.append([*group, *numbers])
    heads = ("source", "size", "supports", "", "mIoU", "mIoU of what was found")
    heads += ("found where it is", "found where it is not")
    return harness.table((*heads, "area under the ROC curve of the scores"), lines)


def calibrate(given: argparse.Namespace) -> Row:
    """Returns the content of a head's decision.json: see the module."""
    size = given.size[0]
    source = SyntheticSource(seed=1, train=0, val=given.drawn, size=400)
    images = read(source)
    class_ids = [source.class_names.index(name) + 1 for name in FOLDS[0]]
    tasks = tasks_of(images, class_ids, given)
    segmenter = embedding_once(apanet_jax.load(given.calibrate, size=size))
    decisions, errors = {}, {}
    for shot in given.shot:
        decision, found = _decision(segmenter, images, tasks, shot)
        decisions[shot] = decision._asdict()
        errors[shot] = _errors(decision, found)
    return {"size": size, "decisions": decisions, "on drawn pictures": errors}


def _decision(
    segmenter: Segmenter, images: Sequence[Labelled], tasks: Sequence[Task], shot: int
) -> tuple[Decision, list[Prediction]]:
    """Returns the decision for a number of supports, and the predictions that it is fitted to."""
    rng, margins, labels = np.random.default_rng(1), [], []

    def keep(margin, truth):
        chosen = rng.choice(np.flatnonzero(truth != IGNORE), PIXELS)
        margins.append(margin.ravel()[chosen])
        labels.append(truth.ravel()[chosen] == 1)

    found = [x for task in tasks for x in predictions(segmenter, images, task, shot, keep)]
    fit = LogisticRegression(fit_intercept=False, C=np.inf)
    fit.fit(np.concatenate(margins)[:, None], np.concatenate(labels))
    numbers = Decision(0.0, 1 / fit.coef_[0, 0], *presence_weights(found))
    return Decision(*(round(float(x), 3) for x in numbers)), found


def _errors(decision: Decision, predicted: Sequence[Prediction]) -> Row:
    shown = np.array([x.shown for x in predicted])
    scores = np.array([decision.presence(x.peak, x.likeness) for x in predicted])
    found = scores > 0.5
    return {
        "shown": int(shown.sum()),
        "absent": int((~shown).sum()),
        "missed": round(float((~found[shown]).mean()), 3),
        "found wrongly": round(float(found[~shown].mean()), 3),
        "area under the ROC curve": round(float(roc_auc_score(shown, scores)), 3),
    }


def presence_weights(predicted: Sequence[Prediction]) -> tuple[float, float, float]:
    """Returns `Decision`'s bias, peak_weight and likeness_weight, fitted to predictions.

    Logistic regression in which the images that show the class count as much as those without.
    """
    signs = np.array([[x.peak, x.likeness] for x in predicted])
    fit = LogisticRegression(class_weight="balanced", C=np.inf)
    fit.fit(signs, np.array([x.shown for x in predicted]))
    return float(fit.intercept_[0]), *map(float, fit.coef_[0])


if __name__ == "__main__":
    main()
