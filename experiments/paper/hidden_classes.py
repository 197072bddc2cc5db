"""How much of a fold's novel classes its training pictures hide: the paper's Fig. 3 and Fig. 2.

    python experiments/paper/hidden_classes.py \\
        --config=configs/folder.py:records=RECORDS,folds=all [--output=DIRECTORY]

Training calls objects of novel classes background wherever they stand beside a base-class object.
The paper counts them "according to the original multi-labels of each image". Its rule is `labels`
below, pairs of image and class: of PASCAL-5i's Fold-2 it gives the 23.5 % that the paper prints
(tests/data/test_protocol_lists.py derives it from the official lists). Every rule is a share:

    T  the fold's training list, as training reads it (`run.training_lists`: a base class on
       `data.min_area` pixels or more, and supports enough)
    S  all pictures of the training split, listed or not
    N  the fold's novel classes;  C  all classes;  a(p, c)  pixels of class c in picture p

A class is in a picture with a(p, c) >= 1; in the rules named "large" with a(p, c) >= min_area.
Ignored pixels (255) count nowhere.

    pictures          pictures of T with a class of N in them / pictures of T
    labels            pairs (p in T, c in N in p) / pairs (p in T, c in C in p)
    pixels            sum of a(p, c) over T and N / the same over T and C
    background        sum of a(p, c) over T and N / the same plus the pixels of T of no class: of
                      what training never asks for, how much is a novel class
    pictures of all   pictures of T with a class of N in them / those of S
    labels of all     pairs (p in T, c in N in p) / pairs (p in S, c in N in p)
    pixels of all     sum of a(p, c) over T and N / the same over S and N
    large pictures, large labels, large pictures of all, large labels of all
                      the same, with classes in a picture as in the rules named "large"

With the records of PASCAL-5i's official lists the script says which rules come nearest to the
paper's 23.5 %. `data.min_area=1` counts with lists that hold every picture with a base class in it.

`--output` is given the table as Markdown and JSON (which has the counts), the shares as a bar chart
(Fig. 3), and a sheet of `--pictures` training pictures a fold, with base-class objects in yellow
and hidden novel ones in pink (Fig. 2). Of a config's seeds and variants the first counts.
"""

import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import flags
from jaxtyping import Int, UInt8
from ml_collections import ConfigDict
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

from apanet_jax.config.flags import config_flag, config_of, run_command
from apanet_jax.data.folds import novel_classes
from apanet_jax.data.records import Records, RecordSplit, open_records
from apanet_jax.data.sources import pascal
from apanet_jax.reports import overlays
from apanet_jax.runs.run import training_lists
from apanet_jax.runs.sweep import parts
from apanet_jax.runtime.atomic_files import cannot_write, write_bytes, write_json

PUBLISHED_FOLD, PUBLISHED = 2, 23.5
"""The one figure that the paper's text prints, in percent, for PASCAL-5i."""
PAPER_RULE = "labels"
"""The rule that gives it: pairs of a training image and a class in it."""

BASE, HIDDEN = overlays.GIVEN, overlays.PREDICTION
_SIDE, _CAPTION_LETTERS, _COLOURS = 256, 58, 128
_UNITS = ("pictures", "labels", "pixels")

_CONFIG = config_flag("Settings: data and folds.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for tables, chart and pictures.")
_PICTURES = flags.DEFINE_integer("pictures", 4, "Training pictures to show of each fold.", 1)


class Share(NamedTuple):
    """A part and the whole that it is of, as counts."""

    part: int
    whole: int

    @property
    def percent(self) -> float:
        """The share in percent; not a number where the whole is empty."""
        return 100 * self.part / self.whole if self.whole else float("nan")


Shares = dict[str, Share]


def hidden_shares(
    areas: Int[np.ndarray, "pictures ids"],
    listed: Int[np.ndarray, " listed"],
    novel: tuple[int, ...],
    min_area: int,
) -> Shares:
    """Returns the share of every rule by its name (the module's docstring defines them).

    Args:
      areas: pixels of each class id in each picture of the training split, column 0 background.
      listed: the rows of the training list T.
      novel: class ids, from 1.
      min_area: pixels that make a class large in a picture.
    """
    objects, hidden = areas[:, 1:].astype(np.int64), areas[:, list(novel)].astype(np.int64)
    shares = {}
    for prefix, least in (("", 1), ("large ", max(min_area, 1))):
        classes, novels = (objects >= least).sum(1), (hidden >= least).sum(1)
        pictures, labels = int((novels[listed] > 0).sum()), int(novels[listed].sum())
        shares[f"{prefix}pictures"] = Share(pictures, len(listed))
        shares[f"{prefix}labels"] = Share(labels, int(classes[listed].sum()))
        shares[f"{prefix}pictures of all"] = Share(pictures, int((novels > 0).sum()))
        shares[f"{prefix}labels of all"] = Share(labels, int(novels.sum()))
    pixels = int(hidden[listed].sum())
    shares["pixels"] = Share(pixels, int(objects[listed].sum()))
    shares["pixels of all"] = Share(pixels, int(hidden.sum()))
    shares["background"] = Share(pixels, pixels + int(areas[listed, 0].sum(dtype=np.int64)))
    return shares


def table(rows: Mapping[int, Shares]) -> str:
    """Returns Markdown: a line a rule, a column a fold, percent."""
    lines = [
        "| % | " + " | ".join(f"fold {fold}" for fold in rows) + " |",
        "|---" * (1 + len(rows)) + "|",
    ]
    for rule in next(iter(rows.values())):
        cells = [_cell(shares[rule]) for shares in rows.values()]
        lines.append(f"| {rule} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(share: Share) -> str:
    return f"{share.percent:.1f}" if share.whole else "none"


def verdict(records: Records, rows: Mapping[int, Shares]) -> str | None:
    """Returns which rules come nearest to the paper's figure, where these are its data."""
    official = (
        records.name == pascal.PascalSource.name
        and records.class_names == pascal.CLASS_NAMES
        and records.folds == pascal.FOLDS
        and len(records.split("train")) == pascal.EXPECTED["train"]
    )
    if not official or PUBLISHED_FOLD not in rows:
        return None
    shares = rows[PUBLISHED_FOLD]
    nearest = sorted(
        (rule for rule in shares if shares[rule].whole),
        key=lambda rule: abs(shares[rule].percent - PUBLISHED),
    )
    first, *others = [f"{rule!r} ({shares[rule].percent:.2f} %)" for rule in nearest[:3]]
    return (
        f"Fold-{PUBLISHED_FOLD} of PASCAL-5i, {PUBLISHED} % in the paper: the nearest rule is "
        f"{first}, then {' and '.join(others)}"
    )


def chart(rows: Mapping[int, Shares], path: Path) -> None:
    """Draws a group of bars for each fold: shares of the training list, and of all there is."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    titles = {
        "": "of the fold's training list, any class",
        " of all": "of the whole training split, novel classes",
    }
    width = 0.8 / len(_UNITS)
    for axis, (suffix, title) in zip(axes, titles.items(), strict=True):
        for number, unit in enumerate(_UNITS):
            places = np.arange(len(rows)) + (number - 1) * width
            heights = [np.nan_to_num(shares[unit + suffix].percent) for shares in rows.values()]
            bars = axis.bar(places, heights, width, label=unit, color=f"C{number}")
            axis.bar_label(bars, fmt="%.0f", fontsize=7, padding=1)
        axis.set_xticks(np.arange(len(rows)), [f"fold {fold}" for fold in rows])
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("novel classes in the training list, %")
    axes[0].margins(y=0.1)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=120)


def pictures_to_show(
    areas: Int[np.ndarray, "pictures ids"],
    listed: Int[np.ndarray, " listed"],
    novel: tuple[int, ...],
    count: int,
) -> list[int]:
    """Returns up to `count` pictures of the list in which much of a novel class hides.

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
    """Returns a row of up to `count` training pictures a fold; None where nothing hides at all."""
    split, rows = records.split("train"), []
    for fold, listed in lists.items():
        novel = novel_classes(records, fold)
        numbers = pictures_to_show(split.areas, listed, novel, count)
        rows.append([_shown(records, split, number, fold, novel) for number in numbers])
    rows = [row for row in rows if row]
    return overlays.sheet(rows, _SIDE) if rows else None


def _shown(
    records: Records, split: RecordSplit, number: int, fold: int, novel: tuple[int, ...]
) -> tuple[str, UInt8[np.ndarray, "height width 3"]]:
    picture = split[number]
    label = picture["label"]
    hidden = np.isin(label, novel)
    image = overlays.overlay(picture["image"], (label > 0) & (label != 255) & ~hidden, BASE)
    ids = [c for c in np.argsort(-split.areas[number]) if c > 0 and split.areas[number, c] > 0]
    names = {
        is_novel: ", ".join(records.class_names[c - 1] for c in ids if (c in novel) == is_novel)
        for is_novel in (False, True)
    }
    caption = f"fold {fold}, novel: {names[True]}; base: {names[False]}"
    shortened = textwrap.shorten(caption, _CAPTION_LETTERS, placeholder=" …")
    return shortened, overlays.overlay(image, hidden, HIDDEN)


def page(records: Records, rows: Mapping[int, Shares], said: str | None) -> str:
    """Returns the table as a Markdown page."""
    lists = ", ".join(f"{shares['pictures'].whole} in fold {f}" for f, shares in rows.items())
    lines = [
        f"# Novel classes hidden in the training pictures of {records.name}",
        f"{len(records.split('train'))} pictures; training list: {lists}.",
        table(rows),
        f"The paper's rule, that of its Fig. 3, is {PAPER_RULE!r}: of all pairs of a training "
        "image and a class in it, those of a novel class.",
    ]
    return "\n\n".join(lines + [said] * bool(said)) + "\n"


def as_json(records: Records, configs: Mapping[int, ConfigDict], rows: Mapping[int, Shares]) -> Any:
    """Returns what the JSON file holds: settings and, by fold and rule, part, whole and percent."""
    folds = [
        {
            "fold": fold,
            "min_area": configs[fold].data.min_area,
            "novel": records.folds[fold],
            "shares": {
                rule: share._asdict() | {"percent": share.percent if share.whole else None}
                for rule, share in shares.items()
            },
        }
        for fold, shares in rows.items()
    ]
    return {"data": records.name, "fingerprint": records.fingerprint, "folds": folds}


def main() -> None:
    """Prints the table, and writes what was asked for."""
    config, _ = config_of(_CONFIG)
    configs: dict[int, ConfigDict] = {}
    for part in parts(config):
        configs.setdefault(part.config.fold, part.config)
    records = open_records(Path(config.data.records))
    lists = {fold: training_lists(single, records).queries for fold, single in configs.items()}
    areas = records.split("train").areas
    rows = {
        fold: hidden_shares(
            areas, listed, novel_classes(records, fold), configs[fold].data.min_area
        )
        for fold, listed in lists.items()
    }
    text = page(records, rows, verdict(records, rows))
    print(text)
    if _OUTPUT.value:
        output = Path(_OUTPUT.value)
        with cannot_write(output):
            output.mkdir(parents=True, exist_ok=True)
            write_bytes(output / "hidden_classes.md", text.encode())
            write_json(output / "hidden_classes.json", as_json(records, configs, rows))
            chart(rows, output / "hidden_classes.png")
            if (sheet := contact_sheet(records, lists, _PICTURES.value)) is not None:
                Image.fromarray(sheet).quantize(_COLOURS).save(output / "hidden_pictures.png")


if __name__ == "__main__":
    run_command(main)
