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
import hashlib
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
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
from apanet_jax.inference.answers.mask_options import DEFAULT_OPTIONS
from apanet_jax.inference.heads.bundled import frozen_matcher
from apanet_jax.inference.heads.head_choice import DINOV2, SMALL
from apanet_jax.inference.heads.saved_head import DECISION
from apanet_jax.inference.matching.presence import Decision
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row

_UNTRAINED = "-untrained"
METHODS = ("drawn", "small", "small-untrained", "dinov2", "dinov2-untrained")
PIXELS = 300
"""Drawn from each image for the scale."""

Labelled = tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]
"""An image and its label map."""


class Task(NamedTuple):
    """A class to find, as numbers of images.

    Attributes:
      class_id: 1 for the first.
      supports: as many as the largest number of supports, or all that there are.
      shown: queries that show the class.
      absent: queries without a pixel of it.
      negatives: images without a pixel of it that are given beside the supports.
    """

    class_id: int
    supports: list[int]
    shown: list[int]
    absent: list[int]
    negatives: list[int]


class Prediction(NamedTuple):
    """What a segmenter predicts of a query.

    Attributes:
      image: number of the query.
      shown: whether the query shows the class.
      score: how likely that is, see `segmenter.Answer`.
      peak: likewise.
      likeness: likewise.
      area: pixels of the class.
      common: pixels of it in the mask.
      either: pixels of the class or in the mask; ignored ones count nowhere.
    """

    image: int
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
    for name, default, meaning in (
        ("queries", 10, "of a class that show it, and as many that do not"),
        ("gap", 0, "names left out between supports and queries"),
        ("min_area", 1000, "pixels of a class that an image needs to show it"),
        ("negatives", 0, "images without the class that are given beside its supports"),
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


def class_ids(source: Source, names: str) -> list[int]:
    """Returns the ids of classes by their names, separated by commas; of all where there are none.

    Raises:
      UserError: the source has no class of a name.
    """
    wanted = names.split(",") if names else source.class_names
    if unknown := set(wanted) - set(source.class_names):
        raise UserError(
            f"--classes: {source.name} has no {', '.join(sorted(unknown))}: expected some of "
            f"{', '.join(source.class_names)}"
        )
    return [source.class_names.index(name) + 1 for name in wanted]


def read(source: Source, split: str) -> list[Labelled]:
    """Returns the images of a split with their label maps."""

    def one(name: str) -> Labelled:
        sample = source.read(split, name)
        image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
        return np.ascontiguousarray(image[..., ::-1]), sample.label

    return [one(name) for name in sorted(source.names(split))]


def tasks_of(
    images: Sequence[Labelled], class_ids: Sequence[int], given: argparse.Namespace
) -> list[Task]:
    """Draws supports and queries of each class that has the fewest supports asked for and a query.

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
        if len(supports) >= min(given.shot) and shown:
            negatives = [int(i) for i in first if area[i] == 0][: given.negatives]
            tasks.append(Task(class_id, supports, shown, absent, negatives))
    return tasks


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
            folder = given.heads / f"{method}_fold{fold}"
            matcher = frozen_matcher(method, size or None, folder)
            yield embedding_once(Segmenter(matcher, head=str(folder)), features), of_fold


def opened(method: str, size: int, folder: Path | None) -> Segmenter:
    """Returns the segmenter of a method; see `embedding_once`."""
    head, trained = method.removesuffix(_UNTRAINED), not method.endswith(_UNTRAINED)
    segmenter = apanet_jax.load(head=head, size=size or None, trained=trained)
    return embedding_once(segmenter, folder and folder / head)


def embedding_once(segmenter: Segmenter, folder: Path | None = None) -> Segmenter:
    """Makes a segmenter embed every image once, however often it is given.

    Args:
      segmenter: whose images these are.
      folder: keeps the features for later runs; None: they are kept while this one lasts.
    """
    embed, kept = segmenter.matcher.embed, {}

    def embed_once(square):
        key = hashlib.sha256(square.tobytes()).hexdigest()
        path = folder and folder / f"{key}.pickle"
        if key not in kept and path and path.exists():
            kept[key] = pickle.loads(path.read_bytes())
        if key not in kept:
            kept[key] = jax.device_get(embed(square))
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, pickle.dumps(kept[key]))
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
    negatives = [images[i][0] for i in task.negatives]
    segmenter.fit([image for image, _ in supports], masks, negatives=negatives)
    found = []
    for number in task.shown + task.absent:
        image, label = images[number]
        (answer,) = segmenter.answers([image])
        mask, truth = answer.mask(0), binary_label(label, task.class_id)
        counted, shown = truth != IGNORE, number in task.shown
        if shown:
            keep(answer.margin(0), truth)
        area = int(np.count_nonzero(truth == 1))
        common = int(np.count_nonzero(mask & (truth == 1)))
        either = int(np.count_nonzero((mask & counted) | (truth == 1)))
        signs = (float(x[0]) for x in (answer.scores, answer.peaks, answer.likenesses))
        found.append(Prediction(number, shown, *signs, area, common, either))
    return found


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


def calibrate(given: argparse.Namespace) -> Row:
    """Returns the content of a head's decision.json: see the module."""
    size = given.size[0] or None
    source = SyntheticSource(seed=1, train=0, val=given.drawn, size=400)
    images = read(source, "val")
    class_numbers = [source.class_names.index(name) + 1 for name in FOLDS[0]]
    tasks = tasks_of(images, class_numbers, given)
    segmenter = embedding_once(apanet_jax.load(given.calibrate, size=size))
    decisions, errors = {}, {}
    for shot in given.shot:
        decision, found = _decision(segmenter, images, tasks, shot)
        decisions[shot] = decision._asdict()
        errors[shot] = _errors(decision, found)
    return {
        "size": segmenter.matcher.grid.size,
        "decisions": decisions,
        "on drawn pictures": errors,
    }


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


def fitted(rows: Sequence[Row]) -> list[str]:
    """Returns a line for each method and number of supports, see `--fit` in the module."""
    lines = []
    for method, shot in dict.fromkeys((row["method"], row["shot"]) for row in rows):
        of_classes = [
            [Prediction(**{k: v for k, v in x.items() if k != "found"}) for x in row["queries"]]
            for row in rows
            if (row["method"], row["shot"]) == (method, shot)
        ]
        weights = presence_weights([x for of_class in of_classes for x in of_class])
        signs, shown = [], []
        for index, of_class in enumerate(of_classes):
            others = [x for n, rest in enumerate(of_classes) if n != index for x in rest]
            bias, of_peak, of_likeness = presence_weights(others or of_class)
            signs += [bias + of_peak * x.peak + of_likeness * x.likeness for x in of_class]
            shown += [x.shown for x in of_class]
        roc = 100 * roc_auc_score(shown, signs)
        rounded = ", ".join(f"{x:.3f}" for x in weights)
        lines.append(f"{method}, {shot} supports: {rounded}; ROC by the other classes {roc:.1f}")
    return lines


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
