"""What `apanet_jax.load()` finds in pictures that its head was not trained for, and what it misses.

    python experiments/own_pictures/general_head.py --source=VOC_LAYOUT_DIR --output=FILE.md \
        [--gap=30]
    python experiments/own_pictures/general_head.py --calibrate=apanet_jax/inference/heads/drawn

The pictures are those of `val`: supports come from the first half of its list, queries from the
second, `--gap` names apart (the frames of a film). For each class the queries are some with the
thing, on `--min_area` pixels or more, and some without a pixel of it. FILE.md is the table, beside
it lies FILE.json with what was counted in each query.

`--calibrate` looks at drawn pictures of the classes that the head was not trained on, and writes
what it needs to decide (`presence.Decision`) beside the head:
  bias, peak_weight, likeness_weight: logistic regression of whether a picture shows the thing.
  scale: with it the margins are the log-odds that a pixel is of the thing, by maximum likelihood on
    pictures that show it (Platt, with the threshold held at 0).
All are for the number of supports: with more of them margins are lower.
"""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from absl import flags
from jaxtyping import UInt8
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parents[2]))

import apanet_jax
from apanet_jax.config.flags import run_command
from apanet_jax.data.source import Source
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.synthetic import FOLDS, SyntheticSource
from apanet_jax.data.transforms import IGNORE, binary_label
from apanet_jax.inference.presence import Decision
from apanet_jax.inference.saved_head import DECISION
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import UserError

PIXELS = 300
"""Drawn from each picture for the scale."""

_SOURCE = flags.DEFINE_multi_string("source", [], "A data set in the VOC layout.")
_OUTPUT = flags.DEFINE_string("output", None, "FILE.md; FILE.json comes beside it.")
_CALIBRATE = flags.DEFINE_string(
    "calibrate", None, "A head; its decision.json is written, for --size."
)
_SIZES = flags.DEFINE_multi_integer("size", [193, 289, 385], "Pictures are looked at so large.")
_QUERIES = flags.DEFINE_integer("queries", 10, "With the thing, and as many without, a class.")
_SHOTS = flags.DEFINE_multi_integer("shot", [1, 5], "Supports of a class.")
_METHODS = flags.DEFINE_multi_enum("method", ["head", "untrained"], ["head", "untrained"], "How.")
_GAP = flags.DEFINE_integer("gap", 0, "Names left out between supports and queries.")
_MIN_AREA = flags.DEFINE_integer("min_area", 1000, "Pixels of the thing that count as shown.")
_DRAWN = flags.DEFINE_integer("drawn", 240, "Pictures that are drawn for --calibrate.")

Labelled = tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]


class Task(NamedTuple):
    """A class to look for, as numbers of pictures.

    Attributes:
      class_id: 1 for the first.
      supports: as many as the largest `--shot`.
      shown: queries that show the thing.
      absent: queries without a pixel of it.
    """

    class_id: int
    supports: list[int]
    shown: list[int]
    absent: list[int]


class Seen(NamedTuple):
    """What a segmenter says of a query.

    Attributes:
      shown: whether the thing is there.
      score: how likely that is, see `segmenter.Answer`.
      peak: likewise.
      likeness: likewise.
      area: pixels of the thing.
      common: pixels of it above the threshold.
      either: pixels of the thing or above the threshold; ignored ones count nowhere.
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
        """Whether the segmenter says that it is there."""
        return self.score > 0.5


def read(source: Source) -> list[Labelled]:
    """Returns the pictures of `val` with their labels."""

    def one(name: str) -> Labelled:
        sample = source.read("val", name)
        image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
        return np.ascontiguousarray(image[..., ::-1]), sample.label

    return [one(name) for name in sorted(source.names("val"))]


def tasks_of(pictures: Sequence[Labelled], class_ids: Sequence[int], gap: int = 0) -> list[Task]:
    """Draws supports and queries of each class that has supports enough and a query.

    All classes go through the pictures in one random order, so that few pictures are looked at.
    """
    half = (len(pictures) - gap) // 2
    rng = np.random.default_rng(0)
    first, second = rng.permutation(half), half + gap + rng.permutation(len(pictures) - half - gap)
    tasks = []
    for class_id in class_ids:
        area = [np.count_nonzero(label == class_id) for _, label in pictures]
        supports = [int(i) for i in first if area[i] >= _MIN_AREA.value][: max(_SHOTS.value)]
        shown = [int(i) for i in second if area[i] >= _MIN_AREA.value][: _QUERIES.value]
        absent = [int(i) for i in second if area[i] == 0][: _QUERIES.value]
        if len(supports) == max(_SHOTS.value) and shown:
            tasks.append(Task(class_id, supports, shown, absent))
    return tasks


def seeing_once(segmenter: Segmenter) -> Segmenter:
    """Lets a segmenter embed every picture once, however often it is given."""
    embed, kept = segmenter.matcher.embed, {}

    def embed_once(square):
        key = square.tobytes()
        if key not in kept:
            kept[key] = embed(square)
        return kept[key]

    segmenter.matcher.embed = embed_once
    return segmenter


def look(
    segmenter: Segmenter, pictures: Sequence[Labelled], task: Task, shot: int, keep: Callable
) -> list[Seen]:
    """Shows a segmenter `shot` supports and all queries.

    Args:
      segmenter: it learns the class.
      pictures: of the data set.
      task: the class.
      shot: supports to show.
      keep: is called with each query's margins and label, where it shows the thing.
    """
    supports = [pictures[i] for i in task.supports[:shot]]
    masks = [binary_label(label, task.class_id) for _, label in supports]
    segmenter.fit([image for image, _ in supports], masks)
    seen = []
    for number in task.shown + task.absent:
        image, label = pictures[number]
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
        seen.append(Seen(shown, *signs, area, common, either))
    return seen


def measure(source: Source, method: str, size: int, pictures, tasks) -> list[dict[str, Any]]:
    """Returns a row for each class and number of supports."""
    segmenter = seeing_once(apanet_jax.load(size=size, trained=method == "head"))
    rows = []
    for task in tasks:
        for shot in _SHOTS.value:
            seen = look(segmenter, pictures, task, shot, lambda *_: None)
            rows.append(
                {
                    "source": source.name,
                    "class": source.class_names[task.class_id - 1],
                    "method": method,
                    "size": size,
                    "shot": shot,
                    "queries": [x._asdict() | {"found": x.found} for x in seen],
                }
            )
    return rows


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Returns the means over classes, in percent, of one method's rows at a size and a shot.

    `miou` counts the queries that show the thing, found or not; `miou_found` takes the mask for
    empty where it was not found. A class that is in all pictures has no false ones. `roc` is the
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


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the summaries as Markdown, in percent."""
    lines = [
        "| source | size | supports | | mIoU | mIoU of what was found | found where it is "
        "| found where it is not | area under the ROC curve of the scores |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    keys = ("source", "size", "shot", "method")
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        means = summary([row for row in rows if tuple(row[key] for key in keys) == group])
        numbers = ("–" if np.isnan(value) else f"{value:.1f}" for value in means.values())
        lines.append(f"| {' | '.join([*map(str, group), *numbers])} |")
    return "\n".join(lines) + "\n"


def calibrate(head: Path, size: int) -> dict[str, Any]:
    """Returns what a head's decision.json says: see the module."""
    source = SyntheticSource(seed=1, train=0, val=_DRAWN.value, size=400)
    pictures = read(source)
    tasks = tasks_of(pictures, [source.class_names.index(name) + 1 for name in FOLDS[0]])
    segmenter = seeing_once(apanet_jax.load(head, size=size))
    decisions, errors = {}, {}
    for shot in _SHOTS.value:
        rng, margins, labels, seen = np.random.default_rng(1), [], [], []

        def keep(margin, truth, rng=rng, margins=margins, labels=labels):
            chosen = rng.choice(np.flatnonzero(truth != IGNORE), PIXELS)
            margins.append(margin.ravel()[chosen])
            labels.append(truth.ravel()[chosen] == 1)

        for task in tasks:
            seen += look(segmenter, pictures, task, shot, keep)
        fit = LogisticRegression(fit_intercept=False, C=np.inf)
        fit.fit(np.concatenate(margins)[:, None], np.concatenate(labels))
        numbers = Decision(0.0, 1 / fit.coef_[0, 0], *presence_weights(seen))
        decision = Decision(*(round(float(x), 3) for x in numbers))
        decisions[shot] = decision._asdict()
        shown = np.array([x.shown for x in seen])
        scores = np.array([decision.presence(x.peak, x.likeness) for x in seen])
        found = scores > 0.5
        errors[shot] = {
            "shown": int(shown.sum()),
            "absent": int((~shown).sum()),
            "missed": round(float((~found[shown]).mean()), 3),
            "found wrongly": round(float(found[~shown].mean()), 3),
            "area under the ROC curve": round(float(roc_auc_score(shown, scores)), 3),
        }
    return {"size": size, "decisions": decisions, "on drawn pictures": errors}


def presence_weights(seen: Sequence[Seen]) -> tuple[float, float, float]:
    """Returns `Decision`'s bias, peak_weight and likeness_weight, fitted to what was seen.

    Logistic regression in which the pictures that show the thing count as much as those without.
    """
    signs = np.array([[x.peak, x.likeness] for x in seen])
    fit = LogisticRegression(class_weight="balanced", C=np.inf)
    fit.fit(signs, np.array([x.shown for x in seen]))
    return float(fit.intercept_[0]), *map(float, fit.coef_[0])


def main() -> None:
    """Measures, or calibrates."""
    if _CALIBRATE.value:
        head = Path(_CALIBRATE.value)
        content = calibrate(head, _SIZES.value[0])
        print(content)
        write_json(head / DECISION, content)
        return
    if not _SOURCE.value or not _OUTPUT.value:
        raise UserError("no --source and --output: name data sets, and a file for the table")
    output, rows = Path(_OUTPUT.value), []
    for directory in _SOURCE.value:
        source = FolderSource(Path(directory))
        pictures = read(source)
        tasks = tasks_of(pictures, range(1, len(source.class_names) + 1), _GAP.value)
        for size in _SIZES.value:
            for method in _METHODS.value:
                rows += measure(source, method, size, pictures, tasks)
                write_json(output.with_suffix(".json"), rows)
                write_bytes(output, table(rows).encode())
                print(table(rows), flush=True)


if __name__ == "__main__":
    run_command(main)
