"""COCO-20i's pictures: COCO 2014 from its official tree, label maps drawn from the instances.

Two things in drawing them are choices, since the field's own label maps come from a script that is
no longer published, and whose versions differed:

- Crowd regions (`iscrowd`, coarse outlines round many things of a class) are 255 by default: they
  neither teach nor count. `crowd="class"` draws them as their class. Things drawn on their own are
  on top of them either way.
- Where things overlap, the smaller is on top: larger ones are drawn first, of like sizes the one
  that comes first in the file, so that a cup stays visible on its table.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as masks

from apanet_jax.data.source import (
    IGNORE,
    SPLITS,
    Sample,
    Split,
    check_same_size,
    read_bytes,
    read_image_size,
)
from apanet_jax.runtime.errors import UserError

EXPECTED = {"train": 82081, "val": 40137}
CLASSES, FOLDS = 80, 4
FOLD_SPLITS = ("interleaved", "consecutive")
CROWDS = ("ignore", "class")

_FARTHEST = 1 << 14
"""Pixels from the origin; a corner farther out is no corner of a picture's thing."""


class CocoSource:
    """The pictures of train2014 and val2014 that have an annotation, in their files' order.

    One split's annotations are held in memory at a time: reading one split after the other parses
    each file once, reading them by turns parses them again and again.
    """

    name = "coco"

    def __init__(
        self,
        images: Path,
        annotations: Path,
        *,
        split: Literal["interleaved", "consecutive"] = "interleaved",
        any_count: bool = False,
        crowd: Literal["ignore", "class"] = "ignore",
    ):
        """Reads the annotation files and makes the lists.

        Args:
          images: holds `train2014` and `val2014`.
          annotations: holds `instances_train2014.json` and `instances_val2014.json`.
          split: of the classes 1..80: "interleaved", fold i tests i+1, i+5, i+9, …, or
            "consecutive", fold i tests 20i+1 to 20i+20.
          any_count: whether lists of other lengths than the protocol's are accepted.
          crowd: what crowd regions become: 255, or their class.

        Raises:
          UserError: a part is missing or damaged, or a list has another length.
        """
        _check_choice("split", split, FOLD_SPLITS)
        _check_choice("crowd", crowd, CROWDS)
        self._images, self._annotations = Path(images), Path(annotations)
        self._crowd = crowd
        for part in SPLITS:
            folder = self._images / f"{part}2014"
            if not folder.is_dir():
                raise UserError(f"{folder} is missing: name the folder that holds it with --images")
        # The training file last: it is the larger one, and read first.
        self._held: tuple[Split, _Instances] | None = None
        self._names, classes = {}, {}
        for part in reversed(SPLITS):
            self._names[part], classes[part] = self._lists(part)
        if classes["train"] != classes["val"]:
            raise UserError(f"the two files in {self._annotations} name different categories")
        self.class_names = classes["train"]
        self.folds = _folds(self.class_names, split)
        stats = [self._file(part).stat() for part in SPLITS]
        self.origin = " ".join(
            [str(self._images.resolve()), str(self._annotations.resolve()), crowd]
            + [f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats]
        )
        for part, count in EXPECTED.items():
            found = len(self._names[part])
            if found != count and not any_count:
                raise UserError(
                    f"{self._file(part)} has {found} pictures with an annotation, the protocol's "
                    f"list {count}: check that it is COCO 2014's, or accept it with --any_count"
                )

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's pictures: `COCO_train2014_000000000009`, …"""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns a picture with the label map of its instances."""
        picture = self._instances(split).pictures[name]
        path = self._images / f"{split}2014" / picture.file_name
        image = read_bytes(path)
        size = read_image_size(image, path)
        label = self._draw(picture, self._file(split))
        check_same_size(path, size, label)
        return Sample(name, image, label)

    def _draw(self, picture: "_Picture", file: Path) -> UInt8[np.ndarray, "height width"]:
        height, width = picture.size
        crowds, things = [], []
        for instance in picture.instances:
            try:
                covered = outline_mask(instance.outline, height, width)
            except ValueError as error:
                raise UserError(f"{file}: annotation {instance.id}: {error}") from error
            (crowds if instance.crowd else things).append((instance.class_id, covered))
        label = np.zeros((height, width), np.uint8)
        for class_id, covered in _largest_first(crowds):
            label[covered] = IGNORE if self._crowd == "ignore" else class_id
        for class_id, covered in _largest_first(things):
            label[covered] = class_id
        return label

    def _file(self, split: Split) -> Path:
        return self._annotations / f"instances_{split}2014.json"

    def _lists(self, split: Split) -> tuple[list[str], tuple[str, ...]]:
        instances = self._instances(split)
        return list(instances.pictures), instances.class_names

    def _instances(self, split: Split) -> "_Instances":
        if self._held is None or self._held[0] != split:
            # Let go of one before the other comes.
            self._held = None
            self._held = split, _read_instances(self._file(split))
        return self._held[1]


class _Instance(NamedTuple):
    id: int
    image_id: int
    class_id: int
    crowd: bool
    outline: Any


class _Picture(NamedTuple):
    id: int
    file_name: str
    size: tuple[int, int]
    instances: list[_Instance]


class _Instances(NamedTuple):
    class_names: tuple[str, ...]
    pictures: dict[str, _Picture]


def _read_instances(path: Path) -> _Instances:
    """Reads an annotation file: its categories, and the pictures with an annotation, by name."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_compact)
        categories = sorted((int(c["id"]), str(c["name"])) for c in content["categories"])
        class_of = {category: c for c, (category, _) in enumerate(categories, 1)}
        class_names = tuple(name for _, name in categories)
        by_id = {int(picture.id): _checked(picture) for picture in content["images"]}
        for annotation in content["annotations"]:
            if not isinstance(annotation, _Instance):
                raise ValueError("an annotation has no segmentation")
            instance = annotation._replace(class_id=class_of[annotation.class_id])
            by_id[instance.image_id].instances.append(instance)
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror}; name the folder that holds it with "
            "--annotations"
        ) from error
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is cut short or no JSON: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error} is missing or unknown" if isinstance(error, KeyError) else error
        raise UserError(f"{path} is not built like COCO's instance annotations: {what}") from error
    if len(class_of) != CLASSES or len(set(class_names)) != CLASSES:
        raise UserError(f"{path} has {len(set(class_names))} categories, expected {CLASSES}")
    pictures = {Path(p.file_name).stem: p for p in by_id.values() if p.instances}
    if len(pictures) < sum(bool(p.instances) for p in by_id.values()):
        raise UserError(f"{path} has several pictures of one name")
    return _Instances(class_names, pictures)


def _compact(entry: dict[str, Any]) -> Any:
    """Makes of each object in the file, while it is parsed, the little that is needed of it.

    Lists of Python's numbers would take ten times the memory of arrays.
    """
    if "segmentation" in entry:
        outline = entry["segmentation"]
        if isinstance(outline, list):
            outline = [_array(polygon) for polygon in outline]
        elif isinstance(outline, dict) and isinstance(outline.get("counts"), list):
            outline = outline | {"counts": _array(outline["counts"])}
        crowd = bool(entry.get("iscrowd", 0))
        return _Instance(entry["id"], entry["image_id"], entry["category_id"], crowd, outline)
    if "file_name" in entry:
        size = entry["height"], entry["width"]
        return _Picture(entry["id"], entry["file_name"], size, [])
    return entry


def _array(numbers: Any) -> Float[np.ndarray, " count"]:
    try:
        return np.array(numbers, np.float64)
    except (TypeError, ValueError):
        # Told when the annotation is drawn: its id is known there.
        return np.full(1, np.nan)


def _checked(picture: _Picture) -> _Picture:
    if picture.file_name != Path(picture.file_name).name or picture.file_name in ("", ".", ".."):
        raise ValueError(f"file_name {picture.file_name!r} leads elsewhere")
    if not all(isinstance(side, int) and 0 < side <= _FARTHEST for side in picture.size):
        raise ValueError(f"picture {picture.id} has the size {picture.size}")
    return picture


def outline_mask(outline: Any, height: int, width: int) -> Bool[np.ndarray, "height width"]:
    """Draws an outline: polygons, or run lengths that are not compressed.

    Raises:
      ValueError: it is neither, or leads out of all bounds.
    """
    if isinstance(outline, dict):
        return _runs(outline, height, width)
    if not isinstance(outline, list) or not outline:
        raise ValueError("has no outline, expected polygons or run lengths")
    for polygon in outline:
        # The comparison is false for what is not a number.
        inside = polygon.ndim == 1 and bool(np.all(np.abs(polygon) < _FARTHEST))
        if not inside or len(polygon) % 2:
            raise ValueError("has a polygon that is no list of x, y, x, y, …")
    # Two corners enclose nothing, and pycocotools would take four numbers for a box.
    polygons = [polygon for polygon in outline if len(polygon) >= 6]
    if not polygons:
        return np.zeros((height, width), bool)
    return masks.decode(masks.merge(masks.frPyObjects(polygons, height, width))).astype(bool)


def _runs(outline: dict[str, Any], height: int, width: int) -> Bool[np.ndarray, "height width"]:
    counts, size = outline.get("counts"), outline.get("size")
    if not isinstance(counts, np.ndarray) or counts.ndim != 1:
        raise ValueError("has run lengths that are no list of numbers")
    # pycocotools trusts them.
    whole = bool(np.all((counts >= 0) & (counts == np.floor(counts))))
    if size != [height, width] or not whole or counts.sum() != height * width:
        raise ValueError("has run lengths that do not make up its picture")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts.astype(int)).reshape((width, height)).T


def _largest_first(masks_of_classes: list[tuple[int, np.ndarray]]) -> Iterator[tuple[int, Any]]:
    return iter(sorted(masks_of_classes, key=lambda pair: -np.count_nonzero(pair[1])))


def _folds(class_names: tuple[str, ...], split: str) -> tuple[tuple[str, ...], ...]:
    if split == "interleaved":
        return tuple(class_names[fold::FOLDS] for fold in range(FOLDS))
    novel = CLASSES // FOLDS
    return tuple(class_names[fold * novel : (fold + 1) * novel] for fold in range(FOLDS))


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"--{name}={value}: expected {' or '.join(choices)}")
