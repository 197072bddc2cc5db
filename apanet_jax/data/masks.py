"""Masks as the tools of the trade leave them: PNG of many kinds, LabelMe's and COCO's JSON."""

import base64
import binascii
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image
from pycocotools import mask as run_lengths

from apanet_jax.data.images import Picture, open_picture, turned
from apanet_jax.data.sources.coco import outline_mask
from apanet_jax.data.transforms import IGNORE
from apanet_jax.runtime.errors import UserError

Label = UInt8[np.ndarray, "height width"]

_LARGEST_ID = 63
"""Several gray values that are all this small, but for 255, are ids and no soft edges."""
_SHOWN = 8
_CIRCLE_CORNERS = 360


def read_mask(path: Path, picture: Picture, name: str | None = None) -> Label:
    """Reads the mask of a picture.

    - A gray or black and white picture: what is not black; with soft edges, what is above half.
      With 1 and 255 alone beside 0, 255 is ignored, as in VOC.
    - A palette of colours: the one id that is neither 0 nor 255.
    - A picture with transparency: what is opaque. Colours without: the one that is not black.
    - LabelMe's JSON: the shapes, which have one label, or those labelled `name`.
    - COCO's JSON: the annotations of the picture of this file name, likewise. Crowds are ignored.

    Where there are several ids or labels, `PATH:ID` or `PATH:LABEL` says which.

    Args:
      path: of the mask.
      picture: whose mask it is. The mask may be upright, or lie as the picture's file does.
      name: of the class, a label to prefer.

    Returns:
      The label at the upright picture's size: 1 where the thing is, 0 elsewhere, 255 to ignore.

    Raises:
      UserError: it cannot be read, is of another size, or holds several things.
    """
    path, chosen = _split_choice(path)
    if path.suffix.lower() == ".json":
        label = _read_json(path, picture, chosen, name)
    else:
        label = _read_drawn(path, chosen)
    size = picture.image.shape[:2]
    if label.shape == size:
        return label
    if label.shape == picture.stored_size:
        return turned(label, picture.orientation)
    raise UserError(
        f"{picture.path or 'a picture'} is {size[1]}x{size[0]} pixels and its mask {path} "
        f"{label.shape[1]}x{label.shape[0]}: they must be of one size"
    )


def label_of_values(values: np.ndarray, what: str) -> Label:
    """Returns the label that the gray values of a mask mean.

    Args:
      values: `[H, W]`, of bool or numbers from 0 to 255, or to 1.
      what: names the mask in errors.

    Raises:
      UserError: these are the ids of several classes, or no gray values.
    """
    if values.dtype == bool:
        return values.astype(np.uint8)
    present = np.unique(values)
    if values.ndim != 2 or not np.all(np.isfinite(present)) or present[0] < 0:
        raise UserError(f"{what} is no mask of numbers from 0 on, [height, width]")
    things = present[present > 0]
    if len(things) <= 1:
        return (values > 0).astype(np.uint8)
    if np.issubdtype(values.dtype, np.floating) and things[-1] <= 1:
        return (values > 0.5).astype(np.uint8)
    ids = things[things != IGNORE]
    if ids[-1] <= _LARGEST_ID:
        return _one_id(values, ids, what)
    return (values > things[-1] / 2).astype(np.uint8)


def _split_choice(path: Path) -> tuple[Path, str | None]:
    """Splits `PATH:CHOICE`, where no file is called like this."""
    before, colon, choice = str(path).rpartition(":")
    if colon and choice and not path.exists() and Path(before).is_file():
        return Path(before), choice
    return path, None


def _one_id(values: np.ndarray, ids: Sequence[Any], what: str) -> Label:
    if len(ids) > 1:
        raise UserError(
            f"{what} holds the ids {_listed(ids)}: which is the thing? Write it behind the file's "
            "name, as in MASK.png:3"
        )
    return _of_id(values, ids[0])


def _of_id(values: np.ndarray, number: int) -> Label:
    label = (values == number).astype(np.uint8)
    if number != IGNORE:
        label[values == IGNORE] = IGNORE
    return label


def _read_drawn(path: Path, chosen: str | None) -> Label:
    with open_picture(path) as mask:
        try:
            mask.load()
        except (OSError, SyntaxError, ValueError) as error:
            raise UserError(f"{path} is cut short or damaged") from error
        what = f"the mask {path}"
        if chosen is not None:
            return _chosen_id(np.array(mask), chosen, what)
        if mask.mode in ("RGBA", "LA", "PA") or "transparency" in mask.info:
            alpha = np.array(mask.convert("RGBA").getchannel("A"))
            if alpha.min() < alpha.max():
                return (alpha > 127).astype(np.uint8)
            mask = mask.convert("RGB")
        if mask.mode == "P":
            return _of_palette(mask, what)
        if mask.mode in ("1", "L") or mask.mode.startswith(("I", "F")):
            return label_of_values(np.array(mask), what)
        return _of_colours(np.array(mask.convert("RGB")), what)


def _chosen_id(values: np.ndarray, chosen: str, what: str) -> Label:
    if values.ndim != 2 or not chosen.isdecimal():
        raise UserError(f"{what} has no id {chosen!r}: expected a number, and a mask of ids")
    if int(chosen) not in values:
        raise UserError(f"{what} holds no id {chosen}, but {_listed(np.unique(values))}")
    return _of_id(values, int(chosen))


def _of_palette(mask: Image.Image, what: str) -> Label:
    values = np.array(mask)
    colours = np.array(mask.convert("RGB"))
    if (colours == colours[..., :1]).all():
        return label_of_values(colours[..., 0], what)
    ids = np.setdiff1d(values, [0, IGNORE])
    return _one_id(values, ids, what) if len(ids) else (values > 0).astype(np.uint8)


def _of_colours(colours: np.ndarray, what: str) -> Label:
    if (colours == colours[..., :1]).all():
        return label_of_values(colours[..., 0], what)
    packed = colours.astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    found = np.setdiff1d(packed, [0])
    if len(found) > 1:
        raise UserError(
            f"{what} holds {len(found)} colours beside black: expected one, or black and white"
        )
    return (packed > 0).astype(np.uint8)


def _read_json(path: Path, picture: Picture, chosen: str | None, name: str | None) -> Label:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is cut short or no JSON: {error}") from error
    kind = content if isinstance(content, dict) else {}
    try:
        if "shapes" in kind:
            return _of_labelme(kind, picture, path, chosen, name)
        if "annotations" in kind:
            return _of_coco(kind, picture, path, chosen, name)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        what = f"{error} is missing" if isinstance(error, KeyError) else error
        raise UserError(f"{path} cannot be understood: {what}") from error
    raise UserError(f"{path} has neither LabelMe's shapes nor COCO's annotations")


def _of_labelme(content, picture, path, chosen, name) -> Label:
    stored = picture.stored_size
    height, width = content.get("imageHeight") or stored[0], content.get("imageWidth") or stored[1]
    _check_size((height, width), picture, path)
    label = _chosen_label([s["label"] for s in content["shapes"]], path, chosen, name)
    covered = np.zeros((height, width), bool)
    for shape in content["shapes"]:
        if shape["label"] == label:
            covered |= outline_of_shape(shape, height, width)
    return covered.astype(np.uint8)


def outline_of_shape(
    shape: dict[str, Any], height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Draws one of LabelMe's shapes; whole numbers are the corners of pixels, as in COCO.

    Raises:
      ValueError, KeyError, TypeError: it is none, or encloses nothing.
    """
    kind, points = shape.get("shape_type", "polygon"), np.array(shape["points"], np.float64)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError("a shape's points are no list of [x, y]")
    if kind == "mask" and len(points):
        return _patch(shape["mask"], points[0], height, width)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    elif kind == "circle" and len(points) == 2:
        angle = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
        around = np.stack([np.cos(angle), np.sin(angle)], -1)
        points = points[0] + np.linalg.norm(points[1] - points[0]) * around
    elif kind not in ("polygon", "rectangle") or len(points) < 3:
        raise ValueError(f"a shape of type {kind!r} with {len(points)} points encloses nothing")
    return outline_mask([points.reshape(-1)], height, width)


def _patch(encoded: str, corner: np.ndarray, height: int, width: int) -> np.ndarray:
    try:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as opened:
            patch = Image.fromarray(np.array(opened) > 0)
    except (OSError, SyntaxError, binascii.Error) as error:
        raise ValueError(f"a shape's mask cannot be read: {error}") from error
    canvas = Image.new("1", (width, height))
    canvas.paste(patch, tuple(int(round(x)) for x in corner))
    return np.array(canvas)


def _of_coco(content, picture, path, chosen, name) -> Label:
    file_name = picture.path.name if picture.path else ""
    images = [x for x in content["images"] if Path(x["file_name"]).name == file_name]
    if len(images) != 1:
        raise UserError(
            f"{path} tells of {len(images)} pictures called {file_name!r}, expected one"
        )
    height, width = images[0]["height"], images[0]["width"]
    _check_size((height, width), picture, path)
    names = {x["id"]: x["name"] for x in content.get("categories", [])}
    mine = [x for x in content["annotations"] if x["image_id"] == images[0]["id"]]
    labels = [str(names.get(x["category_id"], x["category_id"])) for x in mine]
    wanted = _chosen_label(labels, path, chosen, name)
    label = np.zeros((height, width), np.uint8)
    wanted = [x for x, of in zip(mine, labels, strict=True) if of == wanted]
    # Crowds first: what is drawn on its own lies on top.
    for annotation in sorted(wanted, key=lambda x: not x.get("iscrowd")):
        covered = outline_of_annotation(annotation["segmentation"], height, width)
        label[covered] = IGNORE if annotation.get("iscrowd") else 1
    return label


def outline_of_annotation(
    outline: Any, height: int, width: int
) -> Bool[np.ndarray, "height width"]:
    """Draws a segmentation of COCO's: polygons, or run lengths, compressed or not.

    Raises:
      ValueError, KeyError, TypeError: it is none.
    """
    if isinstance(outline, list):
        return outline_mask([np.array(x, np.float64) for x in outline], height, width)
    counts = outline["counts"]
    if isinstance(counts, list):
        return outline_mask(outline | {"counts": np.array(counts, np.float64)}, height, width)
    if outline["size"] != [height, width]:
        raise ValueError("run lengths are of another size than their picture")
    return run_lengths.decode({"size": outline["size"], "counts": counts.encode()}).astype(bool)


def _chosen_label(labels: Sequence[str], path: Path, chosen: str | None, name: str | None) -> str:
    """Returns the label to take: as chosen, else the class's name, else the only one."""
    present = list(dict.fromkeys(labels))
    if not present:
        raise UserError(f"{path} has no outline for this picture")
    if chosen is not None and chosen not in present:
        raise UserError(f"{path} has no label {chosen!r}, but {_listed(present)}")
    if chosen is not None or name in present or len(present) == 1:
        return chosen or (name if name in present else present[0])
    raise UserError(
        f"{path} holds the labels {_listed(present)}: which is the thing? Write it behind the "
        f"file's name, as in {path.name}:{present[0]}"
    )


def _check_size(size: tuple[Any, Any], picture: Picture, path: Path) -> None:
    """Refuses a size before anything of that size is made."""
    height, width = picture.image.shape[:2]
    if tuple(size) not in ((height, width), picture.stored_size):
        raise UserError(
            f"{picture.path or 'a picture'} is {width}x{height} pixels and in {path} "
            f"{size[1]}x{size[0]}: they must be of one size"
        )


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(str(x) for x in values[:_SHOWN]) + (", …" if len(values) > _SHOWN else "")
