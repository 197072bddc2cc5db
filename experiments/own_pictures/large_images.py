"""How many small objects are found in images of 12 megapixels, by default and without close-ups.

    python experiments/own_pictures/large_images.py --source=VOC_LAYOUT_DIR --scenery=OTHER_DIR \
        --heads=DIR --output=FILE.md [--method=small,dinov2] [--split=val] \
        [--classes=cat,cow,dog,horse,person,sheep] [--shares=0.03,0.06,0.1] \
        [--without=bird,cattle,hoofed,rodent,seamammal]

Objects are cut out of photographs by their masks and pasted into images of 4000x3000 pixels, whose
longer side they have a share of. The background is one photograph of the source that does not show
the class, enlarged, or a mosaic of 36 images of `--scenery`, of those that show none of the classes
`--without`. For each class there is an object of each share on both kinds, and two enlarged
photographs and a mosaic without the class. Supports (five, of the usual size) and queries are drawn
as in `own_pictures.py`; `--heads` has the heads that never saw the class, see there.

An object is marked where the mask has an IoU of 25 % with it. FILE.md is the table, FILE.json has a
row for each image; both are written anew after each kind of image.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.sources.source import Source
from apanet_jax.data.transforms import binary_label
from apanet_jax.inference.heads.bundled import frozen_matcher
from apanet_jax.inference.heads.head_choice import DINOV2, SMALL
from apanet_jax.inference.multiscale import search
from apanet_jax.inference.multiscale.tiles import largest_part
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row
from experiments.own_pictures.tasks import Labelled, Task, class_ids, embedding_once, read, tasks_of

HEIGHT, WIDTH = 3000, 4000
MOSAIC = 6
SHOT, MARKED = 5, 0.25
LEAST_OBJECT = 180
"""Longer side of an object that is cut out, in pixels of its photograph."""
ENLARGED, MIXED = "enlarged", "mosaic"
Canvas = UInt8[np.ndarray, "3000 4000 3"]


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    for name, meaning in (
        ("source", "a data set in the VOC layout"),
        ("scenery", "another, for mosaics"),
        ("heads", "exported heads METHOD_fold0, METHOD_fold1, …"),
        ("output", "FILE.md; FILE.json comes beside it"),
    ):
        parser.add_argument(f"--{name}", type=Path, required=True, help=meaning)
    parser.add_argument("--split", choices=("train", "val"), default="val", help="of the data sets")
    for name, default, meaning in (
        ("classes", "cat,cow,dog,horse,person,sheep", "names of those to find"),
        ("without", "bird,cattle,hoofed,rodent,seamammal", "classes that no mosaic shows"),
        ("shares", "0.03,0.06,0.1", "of the longer side, of the objects"),
        ("kinds", f"{ENLARGED},{MIXED}", "of backgrounds"),
    ):
        parser.add_argument(f"--{name}", default=default, help=f"{meaning} ({default})")
    heads = {"type": harness.some_of((SMALL, DINOV2)), "default": f"{SMALL},{DINOV2}"}
    parser.add_argument("--method", **heads, help="which heads (%(default)s)")
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes the table."""
    given = arguments().parse_args(argv)
    source, scenery = FolderSource(given.source), FolderSource(given.scenery)
    images = read(source, given.split)
    drawn = argparse.Namespace(shot=[SHOT], min_area=1000, gap=0, queries=40, negatives=0)
    tasks = tasks_of(images, class_ids(source, given.classes), drawn)
    unwanted = class_ids(scenery, given.without)
    scenes = [x for x in read(scenery, given.split) if not np.isin(x[1], unwanted).any()]
    if len(scenes) < MOSAIC**2:
        raise UserError(f"--without leaves {len(scenes)} images of {scenery.name} for a mosaic")
    fitted = {
        (method, task.class_id): fitted_to(source, method, task, images, given.heads)
        for method in given.method
        for task in tasks
    }
    shares, rows = [float(x) for x in given.shares.split(",")], []
    for share, kind, number in wanted(shares, given.kinds.split(",")):
        for task in tasks:
            mosaic = scenes if kind == MIXED else None
            canvas, truth = drawn_image(images, task, share, number, mosaic)
            seen = {}
            for method in given.method:
                row = {"class": source.class_names[task.class_id - 1], "share": share, "kind": kind}
                found = measured(fitted[method, task.class_id], canvas, truth, seen)
                rows.append({"method": method} | row | found)
                print(rows[-1], file=sys.stderr, flush=True)
        write_json(given.output.with_suffix(".json"), rows)
        write_bytes(given.output, table(rows).encode())
    print(table(rows))


def wanted(shares: Sequence[float], kinds: Sequence[str]) -> Iterator[tuple[float, str, int]]:
    """Yields the share of the object (0: there is none), the background, and a number for draws."""
    objects = [(share, kind) for share in shares for kind in kinds]
    without = [(0.0, kind) for kind in (ENLARGED, MIXED, ENLARGED) if kind in kinds]
    pairs = (pair for of_both in zip_longest(objects, without) for pair in of_both if pair)
    for number, (share, kind) in enumerate(pairs):
        yield share, kind, number


def fitted_to(
    source: Source, method: str, task: Task, images: Sequence[Labelled], heads: Path
) -> Segmenter:
    """Returns a segmenter that has learned a class, by a head that never saw it."""
    name = source.class_names[task.class_id - 1]
    fold = next((n for n, novel in enumerate(source.folds) if name in novel), None)
    if fold is None:
        raise UserError(f"{name} is novel in no fold of {source.name}")
    of_fold = {name: heads / f"{name}_fold{fold}" for name in (SMALL, DINOV2)}
    segmenter = Segmenter(frozen_matcher(method, None, of_fold), head=method)
    shown = [images[i] for i in task.supports[:SHOT]]
    masks = [binary_label(label, task.class_id) for _, label in shown]
    return embedding_once(segmenter.fit([image for image, _ in shown], masks))


def drawn_image(
    images: Sequence[Labelled],
    task: Task,
    share: float,
    number: int,
    scenes: Sequence[Labelled] | None,
) -> tuple[Canvas, UInt8[np.ndarray, "3000 4000"]]:
    """Draws an image, and the mask of the object.

    Args:
      images: of the source.
      task: the class.
      share: of the longer side, of the object; 0: there is none.
      number: of the draw.
      scenes: of a mosaic; None: an enlarged photograph.
    """
    rng = np.random.default_rng([number, task.class_id])
    absent = [images[i] for i in task.absent]
    pool, side = (absent, 1) if scenes is None else (scenes, MOSAIC)
    canvas, truth = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH), np.uint8)
    rows, columns = (np.linspace(0, n, side + 1).astype(int) for n in (HEIGHT, WIDTH))
    chosen = rng.permutation(len(pool))
    for cell in range(side**2):
        row, column = divmod(cell, side)
        height, width = rows[row + 1] - rows[row], columns[column + 1] - columns[column]
        image = pool[chosen[cell]][0]
        factor = max(height / image.shape[0], width / image.shape[1])
        size = [int(np.ceil(n * factor)) for n in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)[:height, :width]
        canvas[rows[row] : rows[row + 1], columns[column] : columns[column + 1]] = image
    if share:
        paste(canvas, truth, *cut_out(images, task, rng), round(share * WIDTH), rng)
    return canvas, truth


def cut_out(
    images: Sequence[Labelled], task: Task, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a part of a photograph with its largest object, and the object's mask."""
    for index in rng.permutation(task.shown):
        image, label = images[index]
        mask = label == task.class_id
        top, left, height, width = largest_part(mask)
        part = np.s_[top : top + height, left : left + width]
        if max(height, width) >= LEAST_OBJECT and mask[part].mean() > 0.3:
            _, numbers = cv2.connectedComponents(mask.astype(np.uint8))
            largest = numbers == 1 + np.bincount(numbers.ravel())[1:].argmax()
            return image[part], largest[part].astype(np.float32)
    raise UserError(f"no query has an object of {LEAST_OBJECT} pixels to cut out")


def paste(canvas, truth, image, mask, longer: int, rng: np.random.Generator) -> None:
    """Pastes an object whose longer side is to have so many pixels, anywhere but at the edges."""
    factor = longer / max(mask.shape)
    size = [max(round(n * factor), 1) for n in mask.shape[::-1]]
    way = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    image, mask = cv2.resize(image, size, interpolation=way), cv2.resize(mask, size)
    top, left = (
        int(np.clip(rng.uniform(0.1, 0.9) * most - n / 2, 0, most - n))
        for most, n in zip(truth.shape, mask.shape, strict=True)
    )
    window = np.s_[top : top + mask.shape[0], left : left + mask.shape[1]]
    share = mask[..., None]
    canvas[window] = (share * image + (1 - share) * canvas[window]).astype(np.uint8)
    truth[window] = mask > 0.5


def measured(segmenter: Segmenter, canvas: Canvas, truth: np.ndarray, seen: dict) -> Row:
    """Returns what is found, without close-ups ("before") and by default ("after").

    Args:
      segmenter: it has learned the class.
      canvas: the image.
      truth: the mask of the object.
      seen: what the heads have in common of this image is computed once, and kept here.
    """
    most_alike, row = search.close_ups.most_alike, {}

    def once(*given):
        if "alike" not in seen:
            began = time.process_time()
            seen["alike"] = most_alike(*given)
            seen["seconds"] = round(time.process_time() - began, 2)
        return seen["alike"]

    search.close_ups.most_alike = once
    try:
        for name, size in (("before", segmenter.matcher.grid.size), ("after", None)):
            began = time.process_time()
            segmenter._size = size
            (answer,) = segmenter.answers([canvas])
            mask, score = answer.mask(0), float(answer.scores[0])
            common = int((mask & (truth == 1)).sum())
            either = int((mask | (truth == 1)).sum())
            row[name] = {"found": bool(answer.found[0]), "score": score}
            row[name] |= {"iou": common / max(either, 1), "marked": float(mask.mean())}
            row[name]["seconds"] = round(time.process_time() - began, 2)
    finally:
        search.close_ups.most_alike = most_alike
    alike = {"by": seen["alike"][0].by, "search_seconds": seen["seconds"]} if seen else {}
    return row | alike


def table(rows: Sequence[Row]) -> str:
    """Returns the counts and the mean IoU (percent) as Markdown."""
    keys, lines = ("method", "kind", "share"), []
    for group in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        of_group = [row for row in rows if tuple(row[key] for key in keys) == group]
        line = [*group, len(of_group)]
        for what in (
            lambda x: sum(y["found"] for y in x),
            lambda x: sum(y["iou"] >= MARKED for y in x),
            lambda x: f"{100 * np.mean([y['iou'] for y in x]):.1f}",
        ):
            pair = (what([row[name] for row in of_group]) for name in ("before", "after"))
            line.append(" / ".join(map(str, pair)))
        lines.append(line if group[2] else [*line[:5], "–", "–"])
    heads = ("", "background", "object's side", "images", "found, before / after")
    return harness.table((*heads, "marked, before / after", "mean IoU, before / after"), lines)


if __name__ == "__main__":
    main()
