"""Images with outlines: LabelMe's files beside them, or one file of all images.

That file is in COCO's format, Label Studio's JSON or CVAT's XML; `yolo` reads YOLO's labels.

Classes, folds and the test images need no files of their own: the labels are the classes, dealt to
the folds in turn, and every Nth image is for testing.

Where objects overlap, the smaller is on top (`outlines.paint`). COCO's crowds and what LabelMe's
users label `__ignore__` become 255; `_background_` becomes 0.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.cvat_files import read_cvat
from apanet_jax.data.annotations.label_studio_files import label_studio_outlines
from apanet_jax.data.annotations.outline_files import (
    LABELME_IDS,
    CocoFile,
    Size,
    coco_outlines,
    labelme_outlines,
    read_json,
    reason,
)
from apanet_jax.data.annotations.outlines import CROWDS, NOT_UNDERSTOOD, Outline, label_name, paint
from apanet_jax.data.images.exif import turned_upright
from apanet_jax.data.images.image_files import (
    ENDINGS,
    composed,
    counted,
    existing,
    files_below,
    relative_parts,
)
from apanet_jax.data.sources.coco import check_choice
from apanet_jax.data.sources.folder import read_folds
from apanet_jax.data.sources.source import (
    MOST_CLASSES,
    Sample,
    Split,
    labelled_sample,
    read_names,
    read_source_image,
)
from apanet_jax.runtime.errors import UserError

_ENDINGS = (".jpg", ".jpeg", ".png")


class OutlinedImage(NamedTuple):
    """An image and where its outlines are.

    Attributes:
      path: its file.
      json: the file that has its outlines.
      read: returns height and width as the JSON has them (None: it does not), and the outlines.
    """

    path: Path
    json: Path
    read: Callable[[], tuple[Size | None, Sequence[Outline]]]


class AnnotatedSource:
    """Images with outlines; `labelme` and `coco_file` make one."""

    def __init__(
        self,
        name: str,
        origin: str,
        images: Mapping[str, OutlinedImage],
        class_names: Sequence[str],
        *,
        folds: str = "4",
        test: str = "4",
        crowd: str = "ignore",
        notes: Sequence[str] = (),
    ):
        """Deals classes to folds and images to splits.

        Args:
          name: of the data set.
          origin: where it comes from.
          images: by name.
          class_names: of the classes 1..C.
          folds: how many; class c is novel in fold c modulo that. Or a `folds.json`.
          test: N: every Nth image is for testing, in the order of names. Or a list file of the
            names that are.
          crowd: whether crowds become 255 ("ignore"), or their class's id ("class").
          notes: lines that say what was left out.

        Raises:
          UserError: there are fewer than two classes or too many, or folds or tests make no sense.
        """
        if not 2 <= len(class_names) <= MOST_CLASSES:
            raise UserError(
                f"{name} has {len(class_names)} classes, expected 2 to {MOST_CLASSES}: training "
                "learns some and tests on others (predict needs no training)"
            )
        check_choice("crowd", crowd, CROWDS)
        self.name, self.class_names = name, tuple(class_names)
        self.notes = list(notes)
        # What earlier versions wrote for the default goes on where it was interrupted.
        chosen = [] if crowd == "ignore" else [crowd]
        self.origin = " ".join([origin, *self.class_names, folds, test, *chosen])
        self._folds, self._crowd = folds, crowd
        self.folds = self.folds_of(self.class_names)
        self._images = images
        held_out = _test_names(test, sorted(images))
        self._names = {
            "train": [name for name in sorted(images) if name not in held_out],
            "val": [name for name in sorted(images) if name in held_out],
        }

    def folds_of(self, class_names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
        """Returns the folds that some of the classes are dealt to."""
        if not self._folds.isdecimal():
            return read_folds(Path(self._folds), self.class_names)
        count = min(int(self._folds), len(class_names))
        if count < 2:
            raise UserError(
                f"--folds={self._folds}: expected at least 2, or a file such as folds.json"
            )
        return tuple(tuple(class_names[fold::count]) for fold in range(count))

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's images: their files' without ending, in order."""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with the label map of its outlines."""
        entry = self._images[name]
        path = existing(entry.path)
        data, image = read_source_image(path)
        size = image.image.shape[:2]
        try:
            given, outlines = entry.read()
            if given not in (None, size, size[::-1]):
                raise ValueError(
                    f"{path.name} is {size[1]}x{size[0]} pixels, and {given[1]}x{given[0]} by its "
                    "outlines"
                )
            label = self._label(outlines, *(given or size))
        except NOT_UNDERSTOOD as error:
            raise UserError(f"{entry.json} cannot be understood: {reason(error)}") from error
        if label.shape != size:
            # Outlined as the file lies, before EXIF turns it.
            label = turned_upright(label, image.orientation)
        return labelled_sample(name, data, image, label)

    def _label(
        self, outlines: Iterable[Outline], height: int, width: int
    ) -> UInt8[np.ndarray, "height width"]:
        ids = {name: number for number, name in enumerate(self.class_names, 1)} | LABELME_IDS
        return paint(outlines, ids, height, width, crowd=self._crowd)


def labelme(directory: Path, *, folds: str = "4", test: str = "4") -> AnnotatedSource:
    """Finds LabelMe's files in a folder and below it; images without one are left out.

    A file's image is the one it names in `imagePath`, or the one beside it of the same name.

    Raises:
      UserError: there are none, or see `AnnotatedSource`. What is wrong with one file is said when
        its image is read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no folder: name one with LabelMe's files (--source)")
    files = list(files_below(directory))
    images, labels, left_out = {}, set(), Counter[str]()
    for file in files:
        if file.suffix.lower() != ".json":
            continue
        try:
            content = read_json(file)
            if not isinstance(content, dict) or "shapes" not in content:
                left_out["JSON files of another kind"] += 1
                continue
            path = _labelme_image(file, content)
            labels |= {label_name(shape["label"]) for shape in content["shapes"]}
        except (UserError, *NOT_UNDERSTOOD):
            path = _beside(file)
        name = file.relative_to(directory).with_suffix("").as_posix()
        images[name] = OutlinedImage(
            path, file, lambda file=file: labelme_outlines(read_json(file))
        )
    if not images:
        raise UserError(f"{directory} holds no JSON of LabelMe: label images there first")
    labelled = {entry.path.resolve() for entry in images.values()}
    for file in files:
        if file.suffix.lower() in ENDINGS and file.resolve() not in labelled:
            left_out["images without a JSON file"] += 1
    return AnnotatedSource(
        directory.resolve().name,
        str(directory.resolve()),
        images,
        sorted(labels - set(LABELME_IDS)),
        folds=folds,
        test=test,
        notes=left_out_note(left_out),
    )


def coco_file(
    images: Path,
    annotations: Path,
    *,
    folds: str = "4",
    test: str = "4",
    crowd: str = "ignore",
) -> AnnotatedSource:
    """Reads one file of all images, of any classes; images without an outline are left out.

    It is JSON in COCO's format or Label Studio's, or CVAT's XML.

    Args:
      images: the folder that `file_name` starts from. A name that leads to no file there stands for
        the one file of that name below it.
      annotations: the file.
      folds: see `AnnotatedSource`.
      test: see `AnnotatedSource`.
      crowd: see `AnnotatedSource`.

    Raises:
      UserError: it cannot be understood, all of its outlines are crowds that would be ignored, or
        see `AnnotatedSource`. What is wrong with one outline is said when its image is read.
    """
    try:
        file = _outlines_in(annotations)
        entries = _coco_entries(file, images, annotations)
    except NOT_UNDERSTOOD as error:
        raise UserError(
            f"{annotations} is not built like COCO's instance annotations, Label Studio's JSON or "
            f"CVAT's XML: {reason(error)}"
        ) from error
    crowds = [outline.crowd for image in file.images for outline in image.outlines]
    if crowd == "ignore" and crowds and all(crowds):
        raise UserError(
            f"{annotations} marks all of its {len(crowds)} outlines as crowds (iscrowd=1), which "
            "are ignored; CVAT writes masks so: pass --crowd=class to take them as objects"
        )
    if crowd == "ignore" and any(crowds):
        file.left_out["crowds, ignored as 255"] = sum(crowds)
    stat = annotations.stat()
    return AnnotatedSource(
        annotations.stem,
        f"{images.resolve()} {annotations.resolve()} {stat.st_size} {stat.st_mtime_ns}",
        entries,
        # With a single class there is nothing to learn from and to test on; a second one may come.
        file.class_names if len(file.class_names) > 1 else file.all_names,
        folds=folds,
        test=test,
        crowd=crowd,
        notes=left_out_note(file.left_out),
    )


def _outlines_in(annotations: Path) -> CocoFile:
    if annotations.suffix.lower() == ".xml":
        return read_cvat(annotations)
    content = read_json(annotations)
    return (label_studio_outlines if isinstance(content, list) else coco_outlines)(content)


def _coco_entries(file: CocoFile, images: Path, annotations: Path) -> dict[str, OutlinedImage]:
    """Returns the images of a COCO file that have outlines, by name; counts the others."""
    entries: dict[str, OutlinedImage] = {}
    by_case: dict[str, str] = {}
    find = _FindBelow(images)
    for image in file.images:
        parts = relative_parts(image.file_name)
        if not parts:
            raise ValueError(f"file_name {image.file_name!r} names no file")
        name = Path(*parts).with_suffix("").as_posix()
        if name in entries:
            raise ValueError(f"two images are called {name}")
        if image.outlines:
            path = find(parts)
            entries[name] = OutlinedImage(
                path, annotations, lambda image=image: (image.size, image.outlines)
            )
            # Disks of Macs and of Windows have one file for names that differ by case alone.
            other = by_case.setdefault(name.casefold(), name)
            if other != name and _are_one(path, entries[other].path):
                raise ValueError(f"the images {other} and {name} are one file, {path}")
        else:
            file.left_out["images without an outline"] += 1
    return entries


def _are_one(*paths: Path) -> bool:
    return all(path.exists() for path in paths) and os.path.samefile(*paths)


class _FindBelow:
    """Finds files by the parts of their names, in a folder or anywhere below it."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._by_name: dict[str, list[Path]] | None = None

    def __call__(self, parts: Sequence[str]) -> Path:
        path = self._folder.joinpath(*parts)
        if path.exists():
            return path
        if self._by_name is None:
            self._by_name = {}
            for file in files_below(self._folder) if self._folder.is_dir() else ():
                self._by_name.setdefault(composed(file.name), []).append(file)
        found = self._by_name.get(composed(parts[-1]), [])
        # Of several the one in the folder of that name, written in another form of Unicode.
        return found[0] if len(found) == 1 else existing(path)


def left_out_note(kinds: Counter[str]) -> list[str]:
    return [f"left out: {counted(kinds)}"] if kinds else []


def _labelme_image(file: Path, content: Mapping[str, object]) -> Path:
    named = content.get("imagePath")
    # Those who label on Windows leave its separators.
    path = existing(file.parent / str(named).replace("\\", "/")) if named else None
    return path if path and path.is_file() else _beside(file)


def _beside(file: Path) -> Path:
    endings = [form for ending in _ENDINGS for form in (ending, ending.upper())]
    paths = [file.with_suffix(ending) for ending in endings]
    found = next((path for path in paths if path.is_file()), None)
    return found or next((p for p in map(existing, paths) if p.is_file()), paths[0])


def _test_names(test: str, names: Sequence[str]) -> set[str]:
    if test.isdecimal():
        if int(test) < 2:
            raise UserError(f"--test={test}: every Nth image is for testing, expected at least 2")
        return set(names[int(test) - 1 :: int(test)])
    chosen, stored = read_names(Path(test)), {composed(name): name for name in names}
    unknown = sorted(name for name in chosen if composed(name) not in stored)
    if unknown:
        raise UserError(f"{test} names {unknown[0]!r}, of which there is no outlined image")
    return {stored[composed(name)] for name in chosen}
