"""Masks of one class as annotation tools leave them: PNG of many kinds, and files of outlines.

The files are LabelMe's, COCO's and Label Studio's JSON, CVAT's XML and YOLO's labels.

The one reader of masks behind every command; `mask_values` says what drawn pixels mean.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.cvat_files import read_cvat
from apanet_jax.data.annotations.label_studio_files import label_studio_outlines, uploaded_name
from apanet_jax.data.annotations.mask_values import (
    IGNORE,
    LARGEST_SMALL_ID,
    label_of_alpha,
    label_of_colours,
    label_of_id,
    label_of_one_id,
    label_of_values,
    listed,
)
from apanet_jax.data.annotations.outline_files import (
    LABELME_IDS,
    CocoFile,
    coco_outlines,
    image_called,
    labelme_outlines,
    read_json,
    reason,
)
from apanet_jax.data.annotations.outlines import NOT_UNDERSTOOD, Outline, label_name, paint
from apanet_jax.data.annotations.yolo_files import read_yolo, yolo_names
from apanet_jax.data.images.encoded_images import Encoded, open_encoded, read_bytes
from apanet_jax.data.images.exif import turned_upright
from apanet_jax.data.images.image_files import counted, warn
from apanet_jax.data.images.reader import UprightImage
from apanet_jax.runtime.errors import UserError

Label = UInt8[np.ndarray, "height width"]

OUTLINE_ENDINGS = (".json", ".xml", ".txt")
"""Of files of outlines, in lower case."""


def read_mask(
    path: Path, image: UprightImage, name: str | None = None, *, tell: Callable[[str], None] = warn
) -> Label:
    """Reads the mask of an image.

    - A gray or black and white image: what is not black; with soft edges, what is above half.
      With 1 and 255 alone beside 0, 255 is ignored, as in VOC.
    - A palette of colours: the one id that is neither 0 nor 255.
    - An image with transparency: what is opaque. Colours without: the one on black or white.
    - LabelMe's JSON: the shapes, which have one label, or those labelled `name`. `_background_`
      cuts a hole, `__ignore__` becomes 255.
    - COCO's JSON: the annotations of the image of this file name, likewise. Crowds are ignored; if
      there are only crowds, as CVAT writes masks, they are the foreground. So are Label Studio's
      JSON and CVAT's XML.
    - YOLO's labels: the polygons, likewise; `name` is one of data.yaml's or classes.txt's.

    Where there are several ids or labels, `PATH:ID` or `PATH:LABEL` says which.

    Args:
      path: of the mask.
      image: whose mask it is. The mask may be upright, or lie as the image's file does.
      name: of the class, a label to prefer.
      tell: is given a line where the mask could mean something else.

    Returns:
      The label at the upright image's size: 1 foreground, 0 background, 255 to ignore.

    Raises:
      UserError: it cannot be read, is of another size, or holds several classes.
    """
    path, chosen = split_choice(path)
    if path.suffix.lower() in OUTLINE_ENDINGS:
        label = _read_outlines(path, image, chosen, name, tell)
    else:
        label = _read_drawn(path, chosen)
    size = image.image.shape[:2]
    if label.shape not in (size, image.stored_size):
        raise UserError(
            f"{image.path or 'an image'} is {size[1]}x{size[0]} pixels and its mask {path} "
            f"{label.shape[1]}x{label.shape[0]}: they must be of one size"
        )
    if label.shape != size:
        return turned_upright(label, image.orientation)
    if image.orientation != 1 and image.stored_size == size:
        tell(
            f"{image.path} is turned by its EXIF orientation {image.orientation}, and its mask "
            f"{path} would fit it either way: it is taken as upright"
        )
    return label


def labels_in(path: Path, image: UprightImage) -> list[str]:
    """Returns what a mask may be of: labels of outlines, or ids, for `PATH:CHOICE`.

    Empty where a drawn mask is of one class, which has no name; or is none: `read_mask` says why.

    Args:
      path: of the mask.
      image: whose mask it is.

    Raises:
      UserError: it cannot be read.
    """
    if path.suffix.lower() in OUTLINE_ENDINGS:
        return _outlines_in(path, image, lambda _: None).labels
    drawn = open_encoded(read_bytes(path), str(path)).decode()
    if drawn.mode not in ("P", "L", "I", "I;16"):
        return []
    present = np.unique(np.array(drawn))
    ids = present[(present != 0) & (present != IGNORE)]
    few = len(ids) > 1 and (drawn.mode == "P" or ids[-1] <= LARGEST_SMALL_ID)
    return [str(x) for x in ids] if few else []


def split_choice(path: Path) -> tuple[Path, str | None]:
    """Splits `PATH:CHOICE`, where no file is called like this; a choice may hold colons."""
    text = str(path)
    if not path.exists():
        for position in (i for i, letter in enumerate(text) if letter == ":"):
            if text[position + 1 :] and Path(text[:position]).is_file():
                return Path(text[:position]), text[position + 1 :]
    return path, None


def _read_drawn(path: Path, chosen: str | None) -> Label:
    encoded = open_encoded(read_bytes(path), str(path))
    encoded.decode()
    what = f"the mask {path}"
    label = _of_drawn(encoded, what) if chosen is None else _chosen_id(encoded, chosen, what)
    return encoded.upright(label)


def _of_drawn(encoded: Encoded, what: str) -> Label:
    mask = encoded.opened
    if mask.mode in ("RGBA", "LA", "PA") or "transparency" in mask.info:
        rgba = np.array(mask.convert("RGBA"))
        label = label_of_alpha(rgba[..., 3], rgba[..., :3])
        if label is not None:
            return label
        if mask.mode != "P":
            return label_of_colours(rgba[..., :3], what)
    if mask.mode == "P":
        values, colours = np.array(mask), np.array(mask.convert("RGBA"))[..., :3]
        if (colours == colours[..., :1]).all():
            return label_of_values(colours[..., 0], what)
        ids = np.setdiff1d(values, [0, IGNORE])
        return label_of_one_id(values, ids, what) if len(ids) else (values > 0).astype(np.uint8)
    if mask.mode in ("1", "L") or mask.mode.startswith(("I", "F")):
        return label_of_values(np.array(mask), what)
    return label_of_colours(np.array(mask.convert("RGB")), what)


def _chosen_id(encoded: Encoded, chosen: str, what: str) -> Label:
    values = np.array(encoded.opened)
    if values.ndim == 3 and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or not chosen.isdecimal():
        raise UserError(f"{what} has no id {chosen!r}: expected a number, and a mask of ids")
    if int(chosen) not in values:
        raise UserError(f"{what} holds no id {chosen}, but {listed(np.unique(values))}")
    return label_of_id(values, int(chosen))


def _read_outlines(
    path: Path,
    image: UprightImage,
    chosen: str | None,
    name: str | None,
    tell: Callable[[str], None],
) -> Label:
    found = _outlines_in(path, image, tell)
    if path.suffix.lower() == ".txt" and chosen is not None and chosen.isdecimal():
        chosen = yolo_names(path).get(int(chosen), chosen)
    wanted = _chosen_label(found.labels, path, chosen, name)
    ids = {**found.marks, wanted: 1}
    outlines = [outline for outline in found.outlines if outline.label in ids]
    crowd = "ignore"
    if outlines and all(outline.crowd for outline in outlines):
        crowd = "class"
        tell(
            f"{path} marks all that is labelled {wanted} in {found.image_name} as crowds "
            "(iscrowd=1), as CVAT does with masks: it is taken as the foreground"
        )
    try:
        return paint(outlines, ids, *found.size, crowd=crowd)
    except NOT_UNDERSTOOD as error:
        raise UserError(f"{path} cannot be understood: {reason(error)}") from error


class _Outlines(NamedTuple):
    """What a file of outlines says of an image.

    Attributes:
      outlines: of the objects in it.
      size: height and width that they are of.
      marks: ids of labels that are no classes.
      image_name: what the file calls the image.
    """

    outlines: Sequence[Outline]
    size: tuple[int, int]
    marks: Mapping[str, int] = {}
    image_name: str = ""

    @property
    def labels(self) -> list[str]:
        """The labels of its classes, as they come."""
        return list(dict.fromkeys(x.label for x in self.outlines if x.label not in self.marks))


def _outlines_in(path: Path, image: UprightImage, tell: Callable[[str], None]) -> _Outlines:
    try:
        if path.suffix.lower() == ".txt":
            file = read_yolo(path)
            if file.left_out:
                tell(f"{path}: left out: {counted(file.left_out)}")
            # Shares are those of the image as other tools show it, which is upright.
            return _Outlines(file.outlines, image.image.shape[:2])
        if path.suffix.lower() == ".xml":
            return _of_image(read_cvat(path), image, path)
        content = read_json(path)
        kind = content if isinstance(content, dict) else {}
        if "shapes" in kind:
            size, outlines = labelme_outlines(kind)
            size = size or image.stored_size
            _check_size(size, image, path)
            return _Outlines(outlines, size, LABELME_IDS)
        if "annotations" in kind:
            return _of_image(coco_outlines(kind), image, path)
        if isinstance(content, list):
            file = label_studio_outlines(content)
            known = {Path(entry.file_name).name for entry in file.images}
            if image.path and image.path.name not in known:
                image = image._replace(path=image.path.with_name(uploaded_name(image.path)))
            return _of_image(file, image, path)
    except NOT_UNDERSTOOD as error:
        raise UserError(f"{path} cannot be understood: {reason(error)}") from error
    raise UserError(
        f"{path} has neither LabelMe's shapes, nor COCO's annotations, nor Label Studio's tasks"
    )


def _of_image(file: CocoFile, image: UprightImage, path: Path) -> _Outlines:
    entry = image_called(file.images, image.path, path)
    size = entry.size or image.stored_size
    _check_size(size, image, path)
    return _Outlines(entry.outlines, size, image_name=entry.file_name)


def _chosen_label(labels: Sequence[str], path: Path, chosen: str | None, name: str | None) -> str:
    """Returns the label to take: as chosen, else the class's name, else the only one."""
    present = list(dict.fromkeys(labels))
    chosen, name = (wanted and label_name(wanted) for wanted in (chosen, name))
    if not present:
        raise UserError(f"{path} has no outline for this image")
    if chosen is not None and chosen not in present:
        raise UserError(f"{path} has no label {chosen!r}, but {listed(present)}")
    if chosen is not None or name in present or len(present) == 1:
        return chosen or (name if name in present else present[0])
    raise UserError(
        f"{path} holds the labels {listed(present)}: which one is the foreground? Write it behind "
        f"the file's name, as in {path.name}:{present[0]}"
    )


def _check_size(size: tuple[int, int], image: UprightImage, path: Path) -> None:
    """Refuses a size before anything of that size is made."""
    height, width = image.image.shape[:2]
    if size not in ((height, width), image.stored_size):
        raise UserError(
            f"{image.path or 'an image'} is {width}x{height} pixels and in {path} "
            f"{size[1]}x{size[0]}: they must be of one size"
        )
