"""How much of a fold's novel classes its training images hide: the paper's Fig. 3 and Fig. 2.

    python experiments/paper/hidden_classes.py [--output=FOLDER] [--images=4] \\
        --config=configs/folder.py:records=RECORDS,folds=all

Training labels objects of novel classes as background wherever they are beside an object of a base
class. Shares of a fold's training list, as training reads it (`episode_data.training_lists`:
images with a base class on `data.min_area` pixels or more, and supports enough):

    pairs        of all pairs of an image and a class in it, those of a novel class
    images       of all images, those with a novel class in them
    pixels       of all pixels of any class, those of novel classes
    background   of all pixels that training takes for background, those of novel classes

A class is in an image with one pixel or more; ignored pixels (255) count nowhere. The paper's
Fig. 3 is of pairs: of PASCAL-5i's Fold-2 that rule gives the 23.5 % that its text prints. Of a
config's seeds and variants the first counts.

FOLDER gets the table as Markdown, JSON with the counts, the shares as a bar chart (Fig. 3), and a
sheet of `--images` training images a fold, with base-class objects in yellow and hidden novel ones
in pink (Fig. 2).
"""

import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.config.settings import typed
from apanet_jax.data.episode_data import training_lists
from apanet_jax.data.folds import novel_classes
from apanet_jax.data.records.reading import Records, RecordSplit, open_records
from apanet_jax.reports import overlays
from apanet_jax.runs.sweep import parts
from apanet_jax.runtime.atomic_files import cannot_write, write_bytes, write_json
from apanet_jax.runtime.errors import Parser
from experiments import harness

BASE, HIDDEN = overlays.GIVEN, overlays.PREDICTION
_SIDE, _CAPTION_LETTERS, _COLOURS = 256, 58, 128


class Share(NamedTuple):
    """A part and the whole that it is of, as counts."""

    part: int
    whole: int

    @property
    def percent(self) -> float:
        """The share in percent; not a number where the whole is empty."""
        return 100 * self.part / self.whole if self.whole else float("nan")


Shares = dict[str, Share]


def arguments() -> Parser:
    """Returns the parser of the command line."""
    parser = harness.parser(__doc__, config="data and folds")
    parser.add_argument("--output", type=Path, help="folder for table, chart and images")
    images = {"type": harness.whole(1), "default": 4}
    parser.add_argument("--images", **images, help="training images to show of each fold (4)")
    return parser


def hidden_shares(
    areas: Int[np.ndarray, "images ids"],
    listed: Int[np.ndarray, " listed"],
    novel: tuple[int, ...],
) -> Shares:
    """Returns the shares by their names in the module's docstring.

    Args:
      areas: pixels of each class id in each image of the training split, column 0 background.
      listed: the rows of the training list.
      novel: class ids, from 1.
    """
    objects = areas[listed, 1:].astype(np.int64)
    hidden = areas[np.ix_(listed, novel)].astype(np.int64)
    pixels = int(hidden.sum())
    return {
        "pairs": Share(int((hidden > 0).sum()), int((objects > 0).sum())),
        "images": Share(int((hidden > 0).any(1).sum()), len(listed)),
        "pixels": Share(pixels, int(objects.sum())),
        "background": Share(pixels, pixels + int(areas[listed, 0].sum(dtype=np.int64))),
    }


def table(rows: Mapping[int, Shares]) -> str:
    """Returns Markdown: a line a share, a column a fold, percent."""
    lines = [
        [name, *(f"{s[name].percent:.1f}" if s[name].whole else "none" for s in rows.values())]
        for name in next(iter(rows.values()))
    ]
    return harness.table(["%", *(f"fold {fold}" for fold in rows)], lines)


def chart(rows: Mapping[int, Shares], path: Path) -> None:
    """Draws a group of bars for each fold."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axis = figure.subplots()
    units = ("pairs", "images", "pixels")
    width = 0.8 / len(units)
    for number, unit in enumerate(units):
        places = np.arange(len(rows)) + (number - 1) * width
        heights = [np.nan_to_num(shares[unit].percent) for shares in rows.values()]
        bars = axis.bar(places, heights, width, label=unit, color=f"C{number}")
        axis.bar_label(bars, fmt="%.1f", fontsize=7, padding=1)
    axis.set_xticks(np.arange(len(rows)), [f"fold {fold}" for fold in rows])
    axis.set_ylabel("of novel classes, %")
    axis.margins(y=0.1)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=len(units))
    figure.savefig(path, dpi=120)


def images_to_show(
    areas: Int[np.ndarray, "images ids"],
    listed: Int[np.ndarray, " listed"],
    novel: tuple[int, ...],
    count: int,
) -> list[int]:
    """Returns up to `count` images of the list in which much of a novel class hides.

    First those where the smaller of the two, base-class objects and novel ones, is largest; a
    novel class that is shown already waits until each of the others had its turn.
    """
    hidden = areas[np.ix_(listed, novel)].astype(np.int64)
    base = areas[listed, 1:].sum(1, dtype=np.int64) - hidden.sum(1)
    visible = np.minimum(hidden.sum(1), base)
    order = [row for row in np.argsort(-visible, kind="stable") if visible[row] > 0]
    largest = hidden.argmax(1)
    turns, seen = {}, dict.fromkeys(range(len(novel)), 0)
    for row in order:
        turns[row] = seen[largest[row]]
        seen[largest[row]] += 1
    chosen = sorted(order, key=turns.__getitem__)[:count]
    return [int(listed[row]) for row in chosen]


def contact_sheet(
    records: Records, lists: Mapping[int, Int[np.ndarray, " listed"]], count: int
) -> UInt8[np.ndarray, "height width 3"] | None:
    """Returns a row of up to `count` training images a fold; None where nothing hides at all."""
    split, rows = records.split("train"), []
    for fold, listed in lists.items():
        novel = novel_classes(records, fold)
        numbers = images_to_show(split.areas, listed, novel, count)
        rows.append([_shown(records, split, number, fold, novel) for number in numbers])
    rows = [row for row in rows if row]
    return overlays.sheet(rows, _SIDE) if rows else None


def _shown(
    records: Records, split: RecordSplit, number: int, fold: int, novel: tuple[int, ...]
) -> tuple[str, UInt8[np.ndarray, "height width 3"]]:
    read = split[number]
    label = read["label"]
    hidden = np.isin(label, novel)
    image = overlays.overlay(read["image"], (label > 0) & (label != 255) & ~hidden, BASE)
    ids = [c for c in np.argsort(-split.areas[number]) if c > 0 and split.areas[number, c] > 0]
    names = {
        is_novel: ", ".join(records.class_names[c - 1] for c in ids if (c in novel) == is_novel)
        for is_novel in (False, True)
    }
    caption = f"fold {fold}, novel: {names[True]}; base: {names[False]}"
    shortened = textwrap.shorten(caption, _CAPTION_LETTERS, placeholder=" …")
    return shortened, overlays.overlay(image, hidden, HIDDEN)


def page(records: Records, rows: Mapping[int, Shares]) -> str:
    """Returns the table as a Markdown page."""
    lists = ", ".join(f"{shares['images'].whole} in fold {f}" for f, shares in rows.items())
    lines = (
        f"# Novel classes hidden in the training images of {records.name}",
        f"{len(records.split('train'))} images; training list: {lists}.",
    )
    return "\n\n".join((*lines, table(rows)))


def as_json(records: Records, configs: Mapping[int, ConfigDict], rows: Mapping[int, Shares]) -> Any:
    """Returns what the JSON file holds: settings and, by fold and share, part, whole, percent."""
    folds = [
        {
            "fold": fold,
            "min_area": configs[fold].data.min_area,
            "novel": records.folds[fold],
            "shares": {
                name: share._asdict() | {"percent": share.percent if share.whole else None}
                for name, share in shares.items()
            },
        }
        for fold, shares in rows.items()
    ]
    return {"data": records.name, "fingerprint": records.fingerprint, "folds": folds}


@harness.command
def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, and writes what was asked for."""
    given = arguments().parse_args(argv)
    configs: dict[int, ConfigDict] = {}
    for part in parts(given.config):
        configs.setdefault(part.config.fold, part.config)
    records = open_records(Path(given.config.data.records))
    areas = records.split("train").areas
    lists = {
        fold: training_lists(
            typed(single).data, records, fold=fold, shot=single.shot, seed=single.seed
        ).queries
        for fold, single in configs.items()
    }
    rows = {
        fold: hidden_shares(areas, listed, novel_classes(records, fold))
        for fold, listed in lists.items()
    }
    text = page(records, rows)
    print(text)
    if output := given.output:
        with cannot_write(output):
            output.mkdir(parents=True, exist_ok=True)
            write_bytes(output / "hidden_classes.md", text.encode())
            write_json(output / "hidden_classes.json", as_json(records, configs, rows))
            chart(rows, output / "hidden_classes.png")
            if (sheet := contact_sheet(records, lists, given.images)) is not None:
                Image.fromarray(sheet).quantize(_COLOURS).save(output / "hidden_images.png")


if __name__ == "__main__":
    main()
