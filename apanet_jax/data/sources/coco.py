"""COCO-20i's images: COCO 2014 from its official tree, label maps drawn from the instances.

Two things in drawing them are choices, since the field's own label maps come from a script that is
no longer published, and whose versions differed:

- Crowd regions (`iscrowd`, coarse outlines round many objects of a class) are 255 by default: they
  neither teach nor count. `crowd="class"` draws them as their class. Objects drawn on their own are
  on top of them either way.
- Where objects overlap, the smaller is on top (`outlines.paint`).

The field's label maps themselves are read by `sources.coco_label_maps`.
"""

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.data.annotations.outlines import CROWDS, Outline, paint, segmentation_mask
from apanet_jax.data.sources.source import SPLITS, Sample, Split, labelled_sample, read_source_image
from apanet_jax.runtime.errors import UserError

EXPECTED = {"train": 82081, "val": 40137}
CLASSES, FOLDS = 80, 4
FOLD_SPLITS = ("interleaved", "consecutive")

_LONGEST_SIDE = 1 << 14
"""Pixels; an image that claims more is damaged."""


class CocoSource:
    """The images of train2014 and val2014 that have an annotation, in their files' order.

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
        check_choice("split", split, FOLD_SPLITS)
        check_choice("crowd", crowd, CROWDS)
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
        self.folds = coco_folds(self.class_names, split)
        stats = [self._file(part).stat() for part in SPLITS]
        self.origin = " ".join(
            [str(self._images.resolve()), str(self._annotations.resolve()), crowd]
            + [f"{stat.st_size} {stat.st_mtime_ns}" for stat in stats]
        )
        for part, count in EXPECTED.items():
            found = len(self._names[part])
            if found != count and not any_count:
                raise UserError(
                    f"{self._file(part)} has {found} images with an annotation, the protocol's "
                    f"list {count}: check that it is COCO 2014's, or accept it with --any_count"
                )

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's images: `COCO_train2014_000000000009`, …"""
        return list(self._names[split])

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image with the label map of its instances."""
        image = self._instances(split).images[name]
        path = self._images / f"{split}2014" / image.file_name
        try:
            label = self._label(image)
        except ValueError as error:
            raise UserError(f"{self._file(split)}: {error}") from error
        return labelled_sample(name, *read_source_image(path), label)

    def _label(self, image: "_Image") -> UInt8[np.ndarray, "height width"]:
        outlines = []
        for instance in image.instances:
            outlines.append(Outline(str(instance.class_id), instance.draw, instance.crowd))
        ids = {str(instance.class_id): instance.class_id for instance in image.instances}
        return paint(outlines, ids, *image.size, crowd=self._crowd)

    def _file(self, split: Split) -> Path:
        return self._annotations / f"instances_{split}2014.json"

    def _lists(self, split: Split) -> tuple[list[str], tuple[str, ...]]:
        instances = self._instances(split)
        return list(instances.images), instances.class_names

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

    def draw(self, height: int, width: int) -> np.ndarray:
        try:
            return segmentation_mask(self.outline, height, width)
        except (TypeError, ValueError) as error:
            raise ValueError(f"annotation {self.id}: {error}") from error


class _Image(NamedTuple):
    id: int
    file_name: str
    size: tuple[int, int]
    instances: list[_Instance]


class _Instances(NamedTuple):
    class_names: tuple[str, ...]
    images: dict[str, _Image]


def _read_instances(path: Path) -> _Instances:
    """Reads an annotation file: its categories, and the images with an annotation, by name."""
    try:
        with path.open(encoding="utf-8") as file:
            content = json.load(file, object_hook=_compact)
        categories = sorted((int(c["id"]), str(c["name"])) for c in content["categories"])
        class_of = {category: c for c, (category, _) in enumerate(categories, 1)}
        class_names = tuple(name for _, name in categories)
        by_id = {int(image.id): _checked(image) for image in content["images"]}
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
    images = {Path(image.file_name).stem: image for image in by_id.values() if image.instances}
    if len(images) < sum(bool(image.instances) for image in by_id.values()):
        raise UserError(f"{path} has several images of one name")
    return _Instances(class_names, images)


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
        return _Image(entry["id"], entry["file_name"], size, [])
    return entry


def _array(numbers: Any) -> Float[np.ndarray, " count"]:
    try:
        return np.array(numbers, np.float64)
    except (TypeError, ValueError):
        # Told when the annotation is drawn: its id is known there.
        return np.full(1, np.nan)


def _checked(image: _Image) -> _Image:
    if image.file_name != Path(image.file_name).name or image.file_name in ("", ".", ".."):
        raise ValueError(f"file_name {image.file_name!r} leads elsewhere")
    if not all(isinstance(side, int) and 0 < side <= _LONGEST_SIDE for side in image.size):
        raise ValueError(f"image {image.id} has the size {image.size}")
    return image


def coco_folds(class_names: tuple[str, ...], split: str) -> tuple[tuple[str, ...], ...]:
    """Returns the novel classes of each fold: of the 80 classes, "interleaved" or "consecutive"."""
    if split == "interleaved":
        return tuple(class_names[fold::FOLDS] for fold in range(FOLDS))
    novel = CLASSES // FOLDS
    return tuple(class_names[fold * novel : (fold + 1) * novel] for fold in range(FOLDS))


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raises UserError unless an option's value is one of its choices."""
    if value not in choices:
        raise UserError(f"--{name}={value}: expected {' or '.join(choices)}")
