"""Does it pay to correct the worst masks, and are those listed as worst the worst?

    python experiments/own_pictures/correction_loop.py --source=VOC_LAYOUT_DIR --output=FILE.md \
        [--classes=cat,dog] [--repeats=2] [--collection=12] [--others=12] [--random=2] \
        [--corrections=3] [--head=small-untrained] [--size=193] [--features=DIR] [--seed=1]

For each class, `--repeats` times: one image with its mask is the support, a collection of others is
segmented, and one mask after the other is corrected: its true mask becomes a support too. Either
the image whose mask has the lowest of `Answer.qualities` is corrected, each time anew; or the one
that stands best for images whose masks are expected to be bad (`covering`); or one at random,
`--random` times. All images are of the train list and show the class on 2 % of their pixels or
more. Borders are not refined. Counted is the mean IoU

  of other images, which are neither corrected nor listed, and
  of the collection, where a corrected mask is right.

The last table says how what could order the list goes together with IoU (Spearman's rank
correlation within a collection, mean over collections): before anything is corrected, and after.
FILE.json has what was counted.
"""

import itertools
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.folder import FolderSource
from apanet_jax.data.transforms import binary_label
from apanet_jax.inference.answers.answer import Answer
from apanet_jax.inference.answers.mask_options import MaskOptions
from apanet_jax.inference.matching.geometry import fitted_square
from apanet_jax.inference.matching.presence import inside
from apanet_jax.inference.matching.whitening import unit
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import Parser, UserError
from experiments import harness
from experiments.harness import Row
from experiments.own_pictures.tasks import METHODS, Labelled, class_ids, opened

LEAST_SHARE = 0.02
WORST, COVERING, RANDOM = "worst", "covering", "random"
MEASURES = ("quality", "score", "expected IoU", "certainty of all pixels")


class Collection(NamedTuple):
    """The images of one class and repetition.

    Attributes:
      support: that is known from the start.
      listed: that are segmented and corrected.
      others: on which the masks are only counted.
    """

    support: Labelled
    listed: list[Labelled]
    others: list[Labelled]


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__)
    parser.add_argument("--source", type=Path, help="a data set in the VOC layout")
    parser.add_argument("--output", type=Path, help="FILE.md; FILE.json comes beside it")
    parser.add_argument("--classes", default="", help="names of those to find (all)")
    untrained = {"choices": METHODS, "default": "small-untrained"}
    parser.add_argument(
        "--head", **untrained, help="one that has not seen the images (%(default)s)"
    )
    size = {"type": harness.whole(0), "default": 0}
    parser.add_argument("--size", **size, help="longer side of images (the head's own)")
    parser.add_argument("--features", type=Path, help="keeps features here, for later runs")
    named = (
        ("repeats", 2, "collections of a class"),
        ("collection", 12, "images in a collection"),
        ("others", 12, "images beside a collection"),
        ("random", 2, "orders at random"),
        ("corrections", 3, "masks that are corrected"),
        ("seed", 1, "of what is drawn"),
    )
    harness.add_whole(parser, 1, named)
    return parser


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and writes the tables after each collection."""
    given = arguments().parse_args(argv)
    if not given.source or not given.output:
        raise UserError("no --source and --output: name a data set, and a file for the tables")
    if given.corrections > given.collection:
        raise UserError(
            f"--corrections={given.corrections} of a --collection of {given.collection} images: "
            "expected no more"
        )
    source = FolderSource(given.source)
    segmenter = opened(given.head, given.size, given.features)
    # Borders along the image's edges take several times the time of all else here.
    segmenter.options = MaskOptions(refine=False)
    start, rows = time.process_time(), []
    rngs = {x: np.random.default_rng((x, given.seed)) for x in class_ids(source, given.classes)}
    images = {class_id: drawn(source, class_id, rng) for class_id, rng in rngs.items()}
    for repeat, class_id in itertools.product(range(given.repeats), rngs):
        name, number = source.class_names[class_id - 1], 1 + given.collection + given.others
        taken = list(itertools.islice(images[class_id], number))
        if len(taken) < number:
            print(f"{source.name}: too few images of {name}, left out", file=sys.stderr)
            continue
        split = 1 + given.collection
        collection = Collection(taken[0], taken[1:split], taken[split:])
        row = {"source": source.name, "class": name, "repeat": repeat, "head": given.head}
        row["size"] = segmenter.matcher.grid.size
        counts = orders(segmenter, collection, rngs[class_id], given.random, given.corrections)
        rows.append(row | {"orders": counts})
        write_json(given.output.with_suffix(".json"), rows)
        write_bytes(given.output, table(rows).encode())
        seconds = time.process_time() - start
        print(f"{len(rows)} collections, {seconds:.0f} s of the processor", file=sys.stderr)
    print(table(rows))


def drawn(source: FolderSource, class_id: int, rng: np.random.Generator) -> Iterator[Labelled]:
    """Yields images of the train list that show a class, with their binary labels."""
    for name in rng.permutation(sorted(source.names("train"))):
        sample = source.read("train", str(name))
        label = binary_label(sample.label, class_id)
        if (label == 1).mean() >= LEAST_SHARE:
            image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
            yield np.ascontiguousarray(image[..., ::-1]), label


def orders(
    segmenter: Segmenter,
    collection: Collection,
    rng: np.random.Generator,
    at_random: int,
    corrections: int,
) -> list[Row]:
    """Corrects in each order, and returns what was counted after each correction."""
    described = descriptors(segmenter, collection)
    known: dict[tuple[int, ...], Row] = {}

    def count(chosen: Sequence[int]) -> Row:
        key = tuple(sorted(chosen))
        if key not in known:
            known[key] = counted(segmenter, collection, key)
        return known[key]

    made = []
    for order in (WORST, COVERING, *[RANDOM] * at_random):
        chosen: list[int] = []
        counts, shuffled = [count(chosen)], rng.permutation(len(collection.listed))
        for step in range(corrections):
            measures = counts[-1]["measures"]
            left = [i for i in range(len(collection.listed)) if i not in chosen]
            if order == WORST:
                chosen.append(min(left, key=measures["quality"].__getitem__))
            elif order == COVERING:
                chosen.append(covering(described, chosen, left, measures["expected IoU"]))
            else:
                chosen.append(int(shuffled[step]))
            counts.append(count(chosen))
        made.append({"order": order, "chosen": chosen, "counts": counts})
    return made


def descriptors(
    segmenter: Segmenter, collection: Collection
) -> Float[np.ndarray, "images channels"]:
    """Returns unit vectors of the support and of those listed: their mean features of objects."""
    matcher, found = segmenter.matcher, []
    for image, _ in (collection.support, *collection.listed):
        rows, columns = matcher.grid.inside(image.shape[:2])
        features = matcher.embed(fitted_square(image, matcher.grid))
        window = (rows, columns), matcher.grid.positions
        found.append(inside(matcher.appearance(features), *window).mean((0, 1)))
    return unit(np.stack(found))


def covering(
    described: Float[np.ndarray, "images channels"],
    chosen: Sequence[int],
    left: Sequence[int],
    expected: Sequence[float],
) -> int:
    """Returns which image to correct, so that what is expected to be bad has a support like it.

    With the cosines of the images' descriptors and the expected IoU e of their masks, it is the i
    of those left with the largest

        sum over j of those left of (1 - e_j) max(cos_ij, largest cos_j to a support)

    as in facility location.

    Args:
      described: of the support, then of those listed.
      chosen: those corrected, which are supports now.
      left: the others.
      expected: IoU of each that is listed.
    """
    listed = described[1:][left]
    supports = described[[0, *(1 + i for i in chosen)]]
    known = (listed @ supports.T).max(1)
    weights = 1 - np.asarray(expected)[left]
    gains = (np.maximum(listed @ listed.T, known) * weights).sum(1)
    return left[int(gains.argmax())]


def counted(segmenter: Segmenter, collection: Collection, corrected: Sequence[int]) -> Row:
    """Returns the IoU of each image, and what else is said of those listed."""
    supports = [collection.support, *(collection.listed[i] for i in corrected)]
    segmenter.fit([image for image, _ in supports], [label for _, label in supports])
    ious, measures = [], {name: [] for name in MEASURES}
    for image, label in collection.listed:
        (answer,) = segmenter.answers([image])
        ious.append(iou(answer.mask(0), label))
        for name, value in measured(answer).items():
            measures[name].append(value)
    for index in corrected:
        ious[index] = 1.0
    others = [iou(next(segmenter.answers([x])).mask(0), label) for x, label in collection.others]
    return {"listed": ious, "others": others, "measures": measures}


def measured(answer: Answer) -> Mapping[str, float]:
    """Returns what could order the list, of an answer with one class."""
    probability, mask = answer.probability(0), answer.mask(0)
    # The expected intersection of mask and object by their expected union.
    expected = float(probability[mask].sum() / (mask.sum() + probability[~mask].sum()))
    certainty = float(np.abs(2 * probability - 1).mean())
    values = (float(answer.qualities[0]), float(answer.scores[0]), expected, certainty)
    return dict(zip(MEASURES, values, strict=True))


def iou(mask: np.ndarray, label: np.ndarray) -> float:
    """Returns the IoU of a mask; what the label ignores counts nowhere."""
    mask, truth = mask & (label != IGNORE), label == 1
    return float((mask & truth).sum() / (mask | truth).sum())


def gains(rows: Sequence[Row], images: str, order: str) -> np.ndarray:
    """Returns `[collections, corrections + 1]`, the mean IoU in percent after each correction."""

    def of_row(row: Row) -> np.ndarray:
        of_order = [x for x in row["orders"] if x["order"] == order]
        return np.mean([[np.mean(c[images]) for c in x["counts"]] for x in of_order], 0)

    return 100 * np.array([of_row(row) for row in rows])


def correlation(rows: Sequence[Row], measure: str, step: int) -> float:
    """Returns Spearman's correlation with the IoU of what is not corrected, mean over orders."""
    found = []
    for row in rows:
        for order in row["orders"] if step else row["orders"][:1]:
            count, corrected = order["counts"][step], order["chosen"][:step]
            left = [i for i in range(len(count["listed"])) if i not in corrected]
            pair = (
                [values[i] for i in left]
                for values in (count["measures"][measure], count["listed"])
            )
            found.append(spearmanr(*pair).statistic)
    return float(np.nanmean(found))


def table(rows: Sequence[Row]) -> str:
    """Returns the tables."""
    lines = []
    for order, said in ((WORST, "the worst"), (COVERING, "covering")):
        lines += [
            f"| corrected | other images: {said} | at random | difference | "
            f"collection: {said} | at random | difference |",
            "|---|---|---|---|---|---|---|",
        ]
        for step in range(len(rows[0]["orders"][0]["counts"])):
            parts = [str(step)]
            for images in ("others", "listed"):
                chosen, at_random = (gains(rows, images, x)[:, step] for x in (order, RANDOM))
                parts += [
                    f"{chosen.mean():.1f}",
                    f"{at_random.mean():.1f}",
                    difference(chosen - at_random),
                ]
            lines.append(f"| {' | '.join(parts)} |")
        lines.append("")
    last = len(rows[0]["orders"][0]["counts"]) - 1
    lines += [
        f"| correlation with IoU | no mask corrected | {last} corrected |",
        "|---|---|---|",
    ]
    for name in MEASURES:
        values = (correlation(rows, name, step) for step in (0, last))
        lines.append(f"| {name} | {' | '.join(f'{x:.2f}' for x in values)} |")
    return "\n".join(lines) + "\n"


def difference(values: np.ndarray) -> str:
    """Returns a mean with its 95 % interval over collections, by the normal distribution."""
    spread = 1.96 * values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{values.mean():+.1f} ± {spread:.1f}"


if __name__ == "__main__":
    main()
