"""Pictures with outlines in JSON: LabelMe's files beside them, or one file in COCO's format.

Classes, folds and the test pictures need no files of their own: the labels are the classes, dealt
to the folds in turn, and every so many pictures one is for testing.

Where things overlap, the smaller is on top, as in `sources.coco`. COCO's crowds and what LabelMe's
users label `__ignore__` become 255; `_background_` becomes 0.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8

from apanet_jax.data.images import read_picture, turned
from apanet_jax.data.masks import outline_of_annotation, outline_of_shape
from apanet_jax.data.source import (
    IGNORE,
    Sample,
    Split,
    check_same_size,
    read_bytes,
    read_image_size,
    read_names,
)
from apanet_jax.data.sources.folder import read_folds
from apanet_jax.runtime.errors import UserError

_LABELS = {"_background_": 0, "__ignore__": IGNORE}
_ENDINGS = (".jpg", ".jpeg", ".png")
_MOST_CLASSES = 254
_NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)


class Thing(NamedTuple):
    """Something that is outlined.

    Attributes:
      label: its class, by name.
      draw: from height and width to where it is; raises ValueError where that cannot be told.
      crowd: whether it stands for many, and becomes 255 below all else.
    """

    label: str
    draw: Callable[[int, int], Bool[np.ndarray, "height width"]]
    crowd: bool = False


class Outlined(NamedTuple):
    """A picture and where its outlines are.

    Attributes:
      image: its file.
      file: the JSON that tells of it.
      read: returns height and width as the JSON has them (None: not told), and the things.
    """

    image: Path
    file: Path
    read: Callable[[], tuple[tuple[int, int] | None, Sequence[Thing]]]


class AnnotatedSource:
    """Pictures with outlines; `labelme` and `coco_file` make one."""

    def __init__(
        self,
        name: str,
        origin: str,
        pictures: Mapping[str, Outlined],
        class_names: Sequence[str],
        *,
        folds: str = "4",
        test: str = "4",
    ):
        """Deals classes to folds and pictures to splits.

        Args:
          name: of the data set.
          origin: where it comes from.
          pictures: by name.
          class_names: of the classes 1..C.
          folds: how many; class c is novel in fold c modulo that. Or a `folds.json`.
          test: one picture in so many is for testing, in the order of names. Or a list file of
            the names that are.

        Raises:
          UserError: there are fewer than two classes or too many, or folds or tests make no sense.
        """
        if not 2 <= len(class_names) <= _MOST_CLASSES:
            raise UserError(
                f"{name} has {len(class_names)} classes, expected 2 to {_MOST_CLASSES}: training "
                "learns some and tests on others (predict needs no training)"
            )
        self.name, self.class_names = name, tuple(class_names)
        self.origin = " ".join([origin, *self.class_names, folds, test])
        self.folds = _folds(folds, self.class_names)
        self._pictures = pictures
        held_out = _test_names(test, sorted(pictures))
        self._names = {
            "train": [p for p in sorted(pictures) if p not in held_out],
            "val": [p for p in sorted(pictures) if p in held_out],
        }

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's pictures: their files' without ending, in order."""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns a picture with the label map of its outlines."""
        outlined = self._pictures[name]
        image = read_bytes(outlined.image)
        size = read_image_size(image, outlined.image)
        try:
            told, things = outlined.read()
            if told not in (None, size, size[::-1]):
                raise ValueError(
                    f"{outlined.image.name} is {size[1]}x{size[0]} pixels, and {told[1]}x{told[0]} "
                    "by its outlines"
                )
            label = self._draw(things, *(told or size))
        except _NOT_UNDERSTOOD as error:
            raise UserError(f"{outlined.file} cannot be understood: {_what(error)}") from error
        if label.shape != size:
            # Outlined as the file lies, before EXIF turns it.
            label = turned(label, read_picture(outlined.image).orientation)
        check_same_size(outlined.image, size, label)
        return Sample(name, image, label)

    def _draw(
        self, things: Iterable[Thing], height: int, width: int
    ) -> UInt8[np.ndarray, "height width"]:
        ids = {name: number for number, name in enumerate(self.class_names, 1)} | _LABELS
        drawn = [(thing, thing.draw(height, width)) for thing in things]
        label = np.zeros((height, width), np.uint8)
        for thing, covered in sorted(drawn, key=lambda x: (not x[0].crowd, -x[1].sum())):
            label[covered] = IGNORE if thing.crowd else ids[thing.label]
        return label


def labelme(directory: Path, *, folds: str = "4", test: str = "4") -> AnnotatedSource:
    """Finds LabelMe's files in a folder and below it; pictures without one are left out.

    A file's picture is the one it names in `imagePath`, or the one beside it of the same name.

    Raises:
      UserError: there are none, or see `AnnotatedSource`. What is wrong with one file is told when
        its picture is read.
    """
    if not directory.is_dir():
        raise UserError(f"{directory} is no folder: name one with LabelMe's files (--source)")
    pictures, labels = {}, set()
    for file in sorted(directory.rglob("*.json")):
        try:
            content = _content(file)
            if not isinstance(content, dict) or "shapes" not in content:
                continue
            image = _labelme_image(file, content)
            labels |= {str(shape["label"]) for shape in content["shapes"]}
        except (UserError, *_NOT_UNDERSTOOD):
            image = _beside(file)
        name = file.relative_to(directory).with_suffix("").as_posix()
        pictures[name] = Outlined(image, file, lambda file=file: _labelme_things(file))
    if not pictures:
        raise UserError(f"{directory} holds no JSON of LabelMe: label pictures there first")
    name, origin = directory.resolve().name, str(directory.resolve())
    return AnnotatedSource(
        name, origin, pictures, sorted(labels - set(_LABELS)), folds=folds, test=test
    )


def coco_file(
    images: Path, annotations: Path, *, folds: str = "4", test: str = "4"
) -> AnnotatedSource:
    """Reads one file in COCO's format, of any categories; pictures without annotation are left out.

    Raises:
      UserError: it cannot be understood, or see `AnnotatedSource`. What is wrong with one outline
        is told when its picture is read.
    """
    content = _content(annotations)
    try:
        names = {c["id"]: str(c["name"]) for c in sorted(content["categories"], key=_id)}
        of_image: dict[Any, list[Thing]] = {image["id"]: [] for image in content["images"]}
        for annotation in content["annotations"]:
            of_image[annotation["image_id"]].append(_coco_thing(annotation, names))
        pictures = {}
        for image in content["images"]:
            inside = Path(image["file_name"])
            if inside.is_absolute() or ".." in inside.parts or not inside.name:
                raise ValueError(f"file_name {image['file_name']!r} leads elsewhere")
            name = inside.with_suffix("").as_posix()
            if name in pictures:
                raise ValueError(f"two pictures are called {name}")
            size, things = (image["height"], image["width"]), of_image[image["id"]]
            if things:
                pictures[name] = Outlined(
                    images / inside, annotations, lambda size=size, things=things: (size, things)
                )
    except _NOT_UNDERSTOOD as error:
        raise UserError(
            f"{annotations} is not built like COCO's instance annotations: {_what(error)}"
        ) from error
    if len(set(names.values())) < len(names):
        twice = Counter(names.values()).most_common(1)[0][0]
        raise UserError(f"{annotations} has two categories called {twice!r}")
    stat = annotations.stat()
    origin = f"{images.resolve()} {annotations.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    return AnnotatedSource(
        annotations.stem, origin, pictures, list(names.values()), folds=folds, test=test
    )


def _id(category: Mapping[str, Any]) -> int:
    return category["id"]


def _coco_thing(annotation: Mapping[str, Any], names: Mapping[Any, str]) -> Thing:
    def draw(height: int, width: int) -> np.ndarray:
        try:
            return outline_of_annotation(annotation["segmentation"], height, width)
        except _NOT_UNDERSTOOD as error:
            raise ValueError(f"annotation {annotation.get('id')}: {_what(error)}") from error

    return Thing(names[annotation["category_id"]], draw, bool(annotation.get("iscrowd")))


def _labelme_things(file: Path) -> tuple[tuple[int, int] | None, list[Thing]]:
    content = _content(file)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    things = [
        Thing(str(shape["label"]), lambda h, w, shape=shape: outline_of_shape(shape, h, w))
        for shape in content["shapes"]
    ]
    return (height, width) if height and width else None, things


def _labelme_image(file: Path, content: Mapping[str, Any]) -> Path:
    named = content.get("imagePath")
    # Those who label on Windows leave its separators.
    path = file.parent / str(named).replace("\\", "/") if named else None
    return path if path and path.is_file() else _beside(file)


def _beside(file: Path) -> Path:
    endings = [form for ending in _ENDINGS for form in (ending, ending.upper())]
    found = (file.with_suffix(ending) for ending in endings)
    return next((path for path in found if path.is_file()), file.with_suffix(_ENDINGS[0]))


def _content(file: Path) -> Any:
    try:
        return json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{file} is cut short or no JSON: {error}") from error


def _folds(folds: str, class_names: tuple[str, ...]) -> tuple[tuple[str, ...], ...]:
    if not folds.isdecimal():
        return read_folds(Path(folds), class_names)
    count = min(int(folds), len(class_names))
    if count < 2:
        raise UserError(f"--folds={folds}: expected at least 2, or a file such as folds.json")
    return tuple(class_names[fold::count] for fold in range(count))


def _test_names(test: str, names: Sequence[str]) -> set[str]:
    if test.isdecimal():
        if int(test) < 2:
            raise UserError(f"--test={test}: one picture in so many, expected at least 2")
        return set(names[int(test) - 1 :: int(test)])
    chosen = read_names(Path(test))
    unknown = sorted(set(chosen) - set(names))
    if unknown:
        raise UserError(f"{test} names {unknown[0]!r}, of which there is no outlined picture")
    return set(chosen)


def _what(error: Exception) -> str:
    return f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)
