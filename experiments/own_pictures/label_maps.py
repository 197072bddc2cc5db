"""How well several classes that look alike are told from each other in one label map.

    python experiments/own_pictures/label_maps.py --source=VOC_LAYOUT_DIR --output=FILE.md \
        [--classes=cat,dog,horse,cow,sheep,person] [--method=small,dinov2] [--shot=5] \
        [--queries=4] [--split=val] [--size=385]

Supports and queries of each class are drawn as in `own_pictures.py`; a query is asked for all
classes, and those of all classes are put together. A class that was not found has no pixel in the
label map. FILE.md has a row for each method: the IoU of each class over the pixels of all queries,
and how often it is found where it is and where it is not. FILE.json has the pixels of each class
that were called each other one, by query. Ignored pixels count nowhere; those of other classes are
background.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.transforms import binary_label
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row
from experiments.own_pictures.tasks import (
    METHODS,
    Labelled,
    Task,
    class_ids,
    opened,
    read,
    tasks_of,
)


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--source", type=Path, required=True, help="a data set in the VOC layout")
    parser.add_argument("--output", type=Path, required=True, help="FILE.md; FILE.json beside it")
    parser.add_argument("--split", choices=("train", "val"), default="val", help="of the data set")
    parser.add_argument(
        "--classes", default="cat,dog,horse,cow,sheep,person", help="names of those to find"
    )
    parser.add_argument(
        "--method", type=harness.some_of(METHODS), default="small,dinov2", help="which heads"
    )
    named = (
        ("shot", 5, "supports of each class"),
        ("queries", 4, "of each class"),
        ("min_area", 1000, "pixels of a class that an image needs to show it"),
        ("size", 0, "of an image; 0: the method's own"),
    )
    harness.add_whole(parser, 0, named)
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    given = arguments().parse_args(argv)
    given.shot, given.gap, given.negatives = [given.shot], 0, 0
    source = FolderSource(given.source)
    images, ids = read(source, given.split), class_ids(source, given.classes)
    names = [source.class_names[x - 1] for x in ids]
    tasks = tasks_of(images, ids, given)
    if len(tasks) < len(ids):
        raise UserError(f"{source.name} has too few images of some of {', '.join(names)}")
    rows = []
    for method in given.method:
        segmenter = fitted_to(opened(method, given.size, None), images, tasks, names)
        queries = sorted({number for task in tasks for number in task.shown})
        of_images = [measured(segmenter, images[number], ids) for number in queries]
        rows.append({"method": method, "classes": names, "queries": of_images})
        write_json(given.output.with_suffix(".json"), rows)
    text = table(rows)
    write_bytes(given.output, text.encode())
    print(text)


def fitted_to(
    segmenter: Segmenter, images: Sequence[Labelled], tasks: Sequence[Task], names: Sequence[str]
) -> Segmenter:
    """Fits a segmenter to the supports of all classes."""
    shown = [(images[i], task.class_id, name) for task, name in zip(tasks, names, strict=True)
             for i in task.supports]  # fmt: skip
    return segmenter.fit(
        [image for (image, _), _, _ in shown],
        [binary_label(label, class_id) for (_, label), class_id, _ in shown],
        [name for _, _, name in shown],
    )


def measured(segmenter: Segmenter, query: Labelled, ids: Sequence[int]) -> Row:
    """Returns what is found in a query.

    `pixels` are those of each class (rows; 0: background) that are called each class (columns).
    """
    image, label = query
    (answer,) = segmenter.answers([image])
    truth = np.select([label == x for x in ids], range(1, len(ids) + 1))
    pixels = confusion(truth[label != IGNORE], answer.labels()[label != IGNORE], len(ids) + 1)
    return {"pixels": pixels.tolist(), "found": [bool(x) for x in answer.found]}


def confusion(
    truth: Int[np.ndarray, " pixels"], called: Int[np.ndarray, " pixels"], classes: int
) -> Int[np.ndarray, "classes classes"]:
    """Returns how many pixels of each class are called each class."""
    pairs = classes * truth.astype(int) + called
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def table(rows: Sequence[Row]) -> str:
    """Returns the summaries as Markdown, in percent."""
    lines = []
    for row in rows:
        pixels = np.sum([x["pixels"] for x in row["queries"]], 0)
        right, objects = np.diag(pixels), pixels[1:]
        ious = right / (pixels.sum(0) + pixels.sum(1) - right)
        there = np.array([np.sum(x["pixels"], 1)[1:] > 0 for x in row["queries"]])
        found = np.array([x["found"] for x in row["queries"]])
        of_found = [
            np.mean(
                [x[y].mean() for x, y in zip(found.T, where.T, strict=True) if y.any()] or [np.nan]
            )
            for where in (there, ~there)
        ]
        means = ious[1:].mean(), right.sum() / pixels.sum(), right[1:].sum() / objects.sum()
        numbers = [*ious[1:], *means, *of_found]
        lines.append([row["method"], *(f"{100 * x:.1f}" for x in numbers)])
    heads = ("mean IoU", "pixels right", "of objects", "found where it is", "where it is not")
    return harness.table(("", *rows[0]["classes"], *heads), lines)


if __name__ == "__main__":
    main()
