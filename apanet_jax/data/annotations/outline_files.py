"""JSON files of outlines: LabelMe's, one beside each image, and COCO's, one for all.

What annotation tools leave in them beside outlines is passed over: boxes without an outline, and
annotations of images that are gone; `CocoFile` counts them.
"""

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.annotations.outlines import (
    NOT_UNDERSTOOD,
    BadOutline,
    Outline,
    label_name,
    segmentation_mask,
    shape_mask,
)
from apanet_jax.data.images.image_files import composed, relative_parts
from apanet_jax.runtime.errors import UserError

BACKGROUND_LABEL, IGNORE_LABEL = "_background_", "__ignore__"
LABELME_IDS = {BACKGROUND_LABEL: 0, IGNORE_LABEL: IGNORE}
"""What LabelMe's users mean by these two labels: a hole in what lies below, and 255."""

Size = tuple[int, int]


class CocoImage(NamedTuple):
    """An image of a COCO file.

    Attributes:
      file_name: as the file has it.
      size: height and width; None where the file does not say.
      outlines: of the objects in it, in the file's order.
    """

    file_name: str
    size: Size | None
    outlines: list[Outline]


class CocoFile(NamedTuple):
    """What a file in COCO's format holds.

    Attributes:
      images: in the file's order.
      class_names: of the categories that annotations name, in the order of their ids.
      all_names: of all categories, likewise.
      left_out: how many entries there are of each kind that says nothing about pixels.
    """

    images: list[CocoImage]
    class_names: list[str]
    all_names: list[str]
    left_out: Counter[str]


def read_json(path: Path) -> Any:
    """Returns a JSON file's content.

    Raises:
      UserError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is cut short or no JSON: {error}") from error


def labelme_outlines(content: Mapping[str, Any]) -> tuple[Size | None, list[Outline]]:
    """Returns what a LabelMe file says of its image: height and width (None: not), and outlines.

    Raises:
      NOT_UNDERSTOOD: it is built in another way.
    """
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (whole(height), whole(width)) if height and width else None
    outlines = [labelme_outline(shape, number) for number, shape in enumerate(content["shapes"], 1)]
    return size, outlines


def labelme_outline(shape: Mapping[str, Any], number: int) -> Outline:
    """Returns the outline of one of LabelMe's shapes; what is wrong with it names the shape."""
    try:
        label = label_name(shape["label"])
    except BadOutline as error:
        raise BadOutline(f"shape {number} has {error}") from error

    def draw(height: int, width: int):
        try:
            return shape_mask(shape, height, width)
        except NOT_UNDERSTOOD as error:
            raise BadOutline(f"shape {number}, {label}: {reason(error)}") from error

    return Outline(label, draw)


def coco_outlines(content: Mapping[str, Any]) -> CocoFile:
    """Returns what a file in COCO's format says, whatever its categories are.

    Categories that no annotation names are left out: exporters put the project's name there.

    Raises:
      NOT_UNDERSTOOD: it is built in another way, or two categories or images have one name or id.
    """
    annotations = content["annotations"]
    names = _by_id("categories", content.get("categories") or (), _category_name)
    used = {_number(a.get("category_id")) for a in annotations} - {None}
    if annotations and not used:
        raise KeyError("category_id")
    if not names:
        names = {number: str(number) for number in used}
    left_out = Counter[str]()
    if unused := len(set(names) - used):
        left_out["categories without an annotation"] = unused
    in_order = sorted(names, key=lambda number: (isinstance(number, str), number))
    all_names = [names[number] for number in in_order]
    names = {number: names[number] for number in in_order if number in used}
    if len(set(names.values())) < len(names):
        twice = Counter(names.values()).most_common(1)[0][0]
        raise ValueError(f"two categories that annotations name are called {twice!r}")
    outlines: dict[Any, list[Outline]] = _by_id("images", content["images"], lambda _: [])
    for annotation in annotations:
        image = _number(annotation.get("image_id"))
        category = _number(annotation.get("category_id"))
        if image not in outlines:
            left_out["annotations of no image"] += 1
        elif category not in names:
            left_out["annotations of no category"] += 1
        elif not annotation.get("segmentation"):
            left_out["boxes without an outline"] += 1
        else:
            outlines[image].append(coco_outline(annotation, names[category]))
    images = [
        CocoImage(str(image["file_name"]), _coco_size(image), outlines[_number(image["id"])])
        for image in content["images"]
    ]
    return CocoFile(images, list(names.values()), all_names, left_out)


def _by_id(what: str, entries: Sequence[Mapping[str, Any]], value: Callable) -> dict[Any, Any]:
    """Returns a value for each entry, by its id; raises ValueError where two have one id."""
    found = {_number(entry["id"]): value(entry) for entry in entries}
    if len(found) < len(entries):
        ids = Counter(_number(entry["id"]) for entry in entries)
        raise ValueError(f"two of its {what} have the id {ids.most_common(1)[0][0]}")
    return found


def _category_name(category: Mapping[str, Any]) -> str:
    try:
        return label_name(category["name"])
    except BadOutline as error:
        raise BadOutline(f"category {category['id']} has {error}") from error


def _number(given: Any) -> Any:
    """Returns an id as it is compared: some tools write 1 as 1.0, or as text."""
    if isinstance(given, float) and given.is_integer():
        return int(given)
    return int(given) if isinstance(given, str) and given.strip().isdecimal() else given


def _coco_size(image: Mapping[str, Any]) -> Size | None:
    if not image.get("height") or not image.get("width"):
        return None
    try:
        return whole(image["height"]), whole(image["width"])
    except NOT_UNDERSTOOD as error:
        raise BadOutline(f"the image {image['file_name']}: {reason(error)}") from error


def coco_outline(annotation: Mapping[str, Any], label: str) -> Outline:
    """Returns the outline of one of COCO's annotations; what is wrong with it names its id."""

    def draw(height: int, width: int):
        try:
            return segmentation_mask(annotation["segmentation"], height, width)
        except NOT_UNDERSTOOD as error:
            raise BadOutline(f"annotation {annotation.get('id')} {reason(error)}") from error

    return Outline(label, draw, _number(annotation.get("iscrowd")) == 1)


def image_called(images: Sequence[CocoImage], path: Path | None, file: Path) -> CocoImage:
    """Returns the image of a COCO file that a file is: the one of its name.

    Where several have the name, folders decide: the one whose path has most in common from the end.

    Args:
      images: of `file`.
      path: the image's file.
      file: for messages.

    Raises:
      UserError: there is none, or there are several.
    """
    wanted = relative_parts(str(path)) if path else ("",)
    named = [x for x in images if _in_common(x.file_name, wanted)]
    closest = max((_in_common(x.file_name, wanted) for x in named), default=0)
    found = [x for x in named if _in_common(x.file_name, wanted) == closest]
    if len(found) != 1:
        raise UserError(f"{file} has {len(found)} images called {wanted[-1]!r}, expected one")
    return found[0]


def whole(number: Any) -> int:
    """Returns a number of pixels, which some tools write as 40.0, or as text.

    Raises:
      TypeError, ValueError: it is none.
    """
    if isinstance(number, str) and number.strip().isdecimal():
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int | float) or number != int(number):
        raise ValueError(f"{number!r} is no number of pixels")
    return int(number)


def reason(error: Exception) -> str:
    """Returns what one of `NOT_UNDERSTOOD` says."""
    return f"{error} is missing or unknown" if isinstance(error, KeyError) else str(error)


def _in_common(file_name: str, wanted: Sequence[str]) -> int:
    """Returns how many parts two paths have in common, counted from the file's name."""
    count = 0
    for one, other in zip(reversed(relative_parts(file_name)), reversed(wanted), strict=False):
        if composed(one) != composed(other):
            break
        count += 1
    return count
