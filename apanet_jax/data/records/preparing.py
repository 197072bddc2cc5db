"""Preparing a data set: choosing its classes, writing its records, saying what came of it."""

import dataclasses
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from apanet_jax.data.images.image_files import print_bad, printable
from apanet_jax.data.records.building import count_classes
from apanet_jax.data.records.writing import BadImages, Report, write_records
from apanet_jax.data.sources.source import SPLITS, Sample, Source, Split, notes_of
from apanet_jax.runtime.errors import UserError

_WIDTH = 80


@dataclasses.dataclass(frozen=True)
class Choices:
    """What is written of a source, and how.

    Attributes:
      classes: names of the classes to keep; empty: all. Others become background.
      min_images: how many listed images a class must have to be kept, in the training list, and in
        the test list if a fold tests it.
      min_area: pixels of a class that put an image on its list.
      shots: supports to have enough images for, in the report.
      skip_bad: whether images that cannot be used are left out, instead of refusing.
      overwrite: whether records that are there are replaced.
    """

    classes: tuple[str, ...] = ()
    min_images: int = 0
    min_area: int = 2048
    shots: int = 5
    skip_bad: bool = False
    overwrite: bool = False

    def __post_init__(self):
        """Raises UserError where a number makes no sense."""
        for name, least in (("min_area", 0), ("shots", 1), ("min_images", 0)):
            if getattr(self, name) < least:
                raise UserError(f"--{name}={getattr(self, name)}: expected at least {least}")


def prepare(source: Source, output: Path, choices: Choices) -> None:
    """Writes a source as records and prints what is in them.

    Raises:
      UserError: images cannot be used, or `output` cannot be written to.
    """
    if choices.classes or choices.min_images:
        source = chosen_classes(source, choices)
    try:
        report = write_records(
            source,
            output,
            skip_bad=choices.skip_bad,
            overwrite=choices.overwrite,
            min_area=choices.min_area,
        )
    except BadImages as refused:
        print_bad(refused.report.bad)
        raise
    print_bad(report.bad)
    print(report_table(report, source, choices.shots, choices.min_area))
    notes = list(report.notes)
    if report.bad:
        notes.append(
            f"left out: {len(report.bad)} images that cannot be used, the first: {report.bad[0]}"
        )
    if notes:
        print()
    for note in notes:
        print(printable(note))
    print(f"\nrecords: {printable(str(output))}")


class ChosenClasses:
    """A source with some of its classes, and the images that hold any of them."""

    def __init__(self, source: Source, names: dict[Split, list[str]], classes: Sequence[str]):
        """Numbers the classes anew in the source's order.

        Args:
          source: of the images.
          names: of the images to keep, by split.
          classes: to keep; pixels of the others become background.

        Raises:
          UserError: fewer than two classes are left, or no fold.
        """
        self.name = source.name
        self.class_names = tuple(name for name in source.class_names if name in classes)
        if len(self.class_names) < 2:
            raise UserError(
                f"{len(self.class_names)} classes of {source.name} are left, expected 2 at least: "
                "choose others with --classes, or a smaller --min_images"
            )
        folds = source.folds
        if hasattr(source, "folds_of"):
            folds = source.folds_of(self.class_names)
        chosen = (tuple(name for name in fold if name in self.class_names) for fold in folds)
        self.folds = tuple(fold for fold in chosen if fold)
        if not self.folds:
            raise UserError(f"no fold of {source.name} tests any of the chosen classes")
        self.origin = f"{source.origin} classes {' '.join(self.class_names)}"
        self.notes = notes_of(source)
        dropped = [name for name in source.class_names if name not in self.class_names]
        if dropped:
            self.notes.append(f"left out, {len(dropped)} classes: {', '.join(dropped)}")
        gone = sum(len(source.names(split)) - len(names[split]) for split in SPLITS)
        if gone:
            self.notes.append(f"left out: {gone} images without any of the chosen classes")
        self._source, self._names = source, names
        self._ids = np.zeros(256, np.uint8)
        self._ids[255] = 255
        for number, name in enumerate(self.class_names, 1):
            self._ids[source.class_names.index(name) + 1] = number

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's images."""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with the label map of the chosen classes."""
        sample = self._source.read(split, name)
        return dataclasses.replace(sample, label=self._ids[sample.label])


def chosen_classes(source: Source, choices: Choices) -> ChosenClasses:
    """Returns a source with the classes that `choices` names or that have enough images.

    Every label map is read once before anything is written.

    Raises:
      UserError: a class is unknown, or too few are left.
    """
    unknown = [name for name in choices.classes if name not in source.class_names]
    if unknown:
        raise UserError(
            f"--classes names {unknown[0]!r}, which is none of {source.name}'s: "
            f"{', '.join(source.class_names)}"
        )
    areas = {split: _areas(source, split) for split in SPLITS}
    tested = {name for fold in source.folds for name in fold}
    kept = []
    for number, name in enumerate(source.class_names, 1):
        listed = {s: int((areas[s][:, number] >= max(choices.min_area, 1)).sum()) for s in SPLITS}
        enough = listed["train"] >= choices.min_images and (
            name not in tested or listed["val"] >= choices.min_images
        )
        if enough and (not choices.classes or name in choices.classes):
            kept.append(name)
    numbers = [source.class_names.index(name) + 1 for name in kept]
    names = {
        split: [
            name
            for name, row in zip(source.names(split), areas[split], strict=True)
            # What cannot be read is kept, to be named when it is written.
            if row[0] < 0 or row[numbers].any()
        ]
        for split in SPLITS
    }
    return ChosenClasses(source, names, kept)


def report_table(report: Report, source: Source, shots: int, min_area: int) -> str:
    """Returns how many images each class has, and what is too few for `shots` supports."""
    lines = [
        f"{source.name}: {report.pictures['train']} training and {report.pictures['val']} test "
        "images",
        "",
        f"{'class':<20}{'novel in':>9}{'train':>8}{'listed':>8}{'test':>8}{'listed':>8}",
    ]
    few: dict[str, list[str]] = {"training": [], "test": []}
    for name in source.class_names:
        fold = next((str(i) for i, fold in enumerate(source.folds) if name in fold), "never")
        train, val = (report.per_class[split][name] for split in ("train", "val"))
        lines.append(f"{name:<20}{fold:>9}{train[0]:>8}{train[1]:>8}{val[0]:>8}{val[1]:>8}")
        if train[1] < shots + 1:
            few["training"].append(f"{name} {train[1]}")
        if val[1] < shots + 1 and fold != "never":
            few["test"].append(f"{name} {val[1]}")
    lines += ["", f"listed: at least {min_area} pixels of the class"]
    if any(few.values()):
        lines += [f"too few listed, {shots} supports and a query need {shots + 1}:"]
    for split, names in few.items():
        if names:
            lines += textwrap.wrap(
                f"  {split:<10}{', '.join(names)}", _WIDTH, subsequent_indent=" " * 12
            )
    if any(few.values()):
        lines += textwrap.wrap(
            "A class without enough images is left out where episodes are drawn. Train with fewer "
            "supports (shots=1), with a smaller min_area=PIXELS, or get more images.",
            _WIDTH,
        )
    return "\n".join(lines)


def _areas(source: Source, split: Split) -> np.ndarray:
    """Returns pixels of each id in each image; a row of -1 where an image cannot be used."""
    names, count = source.names(split), len(source.class_names)
    areas = np.full((len(names), count + 1), -1, np.int64)
    bar = tqdm(names, unit="image", desc=f"counting {split}", leave=False, disable=None)
    for row, name in enumerate(bar):
        try:
            areas[row] = count_classes(source.read(split, name).label, count)
        except UserError:
            continue
    return areas
