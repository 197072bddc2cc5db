"""Any data set in VOC's layout, with its classes and folds beside the images."""

import json
from pathlib import Path

from apanet_jax.data.images.image_files import existing
from apanet_jax.data.sources.source import (
    MOST_CLASSES,
    Sample,
    Split,
    labelled_sample,
    read_label,
    read_names,
    read_source_image,
)
from apanet_jax.runtime.errors import UserError

_ENDINGS = (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG")


class FolderSource:
    """A folder with

    - `JPEGImages/NAME.jpg` (or `.png`): the images,
    - `SegmentationClass/NAME.png`: 0 background, 1..C classes, 255 ignore,
    - `ImageSets/Segmentation/{train,val}.txt`: names, one a line,
    - `classes.txt`: the names of the classes 1..C, one a line,
    - `folds.json`: a list of folds, each the list of the class names that are novel in it.
    """

    def __init__(self, directory: Path, name: str | None = None):
        """Reads classes and folds.

        Args:
          directory: the folder.
          name: of the data set; by default the folder's.

        Raises:
          UserError: something is missing, or a fold names what is no class.
        """
        self._directory = Path(directory)
        if not self._directory.is_dir():
            raise UserError(f"{directory} is no folder: name one with images and masks (--source)")
        self.name = name or self._directory.resolve().name
        self.origin = str(self._directory.resolve())
        self.class_names = _read_classes(self._directory / "classes.txt")
        self.folds = read_folds(self._directory / "folds.json", self.class_names)

    def names(self, split: Split) -> list[str]:
        """Returns the names in `ImageSets/Segmentation/SPLIT.txt`."""
        return read_names(self._directory / "ImageSets" / "Segmentation" / f"{split}.txt")

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with its label map."""
        stem = self._directory / "JPEGImages" / name
        paths = [_with(stem, ending) for ending in _ENDINGS]
        path = next((path for path in paths if path.exists()), None)
        if path is None:
            path = next((p for p in map(existing, paths) if p.exists()), None)
        if path is None:
            raise UserError(f"{stem} is missing: expected it with .jpg or .png")
        label_path = _with(self._directory / "SegmentationClass" / name, ".png")
        label = read_label(label_path, len(self.class_names))
        return labelled_sample(name, *read_source_image(path), label)


def _with(stem: Path, ending: str) -> Path:
    return stem.with_name(stem.name + ending)


def _read_classes(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        names = tuple(line.strip() for line in lines if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is missing or no text: write the classes' names, one a line"
        ) from error
    if not names or len(set(names)) < len(names) or len(names) > MOST_CLASSES:
        raise UserError(
            f"{path} holds {len(names)} names, expected 1 to {MOST_CLASSES} different ones"
        )
    return names


def read_folds(path: Path, class_names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    """Reads a `folds.json`: for each fold the names of its novel classes.

    Raises:
      UserError: it cannot be read, or names what is no class, or a class twice.
    """
    try:
        folds = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(
            f"{path} is missing: write a list of folds, each the list of its novel classes"
        ) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is no JSON: {error}") from error
    lists = isinstance(folds, list) and all(isinstance(fold, list) and fold for fold in folds)
    if not folds or not lists:
        raise UserError(f"{path}: expected a list of folds, each a list of class names")
    flat = [name for fold in folds for name in fold]
    unknown = [name for name in flat if name not in class_names]
    if unknown:
        raise UserError(f"{path} names {unknown[0]!r}, which is none of the classes")
    if len(set(flat)) < len(flat):
        raise UserError(f"{path}: a class can be novel in one fold only")
    return tuple(tuple(fold) for fold in folds)
