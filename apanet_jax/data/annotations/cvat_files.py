"""CVAT's XML, "CVAT for images 1.1": polygons, masks and ellipses of all images of a task."""

import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

import numpy as np

from apanet_jax.data.annotations.outline_files import CocoFile, CocoImage, whole
from apanet_jax.data.annotations.outlines import (
    BadOutline,
    Mask,
    Outline,
    ellipse_corners,
    label_name,
    place_patch,
    segmentation_mask,
)
from apanet_jax.data.images.encoded_images import read_bytes
from apanet_jax.runtime.errors import UserError

_DRAWN = ("polygon", "mask", "ellipse")
_MOST_PIXELS = 1 << 28
"""Of a mask's box."""


def read_cvat(path: Path) -> CocoFile:
    """Reads a file, its images in its order.

    Raises:
      UserError: it cannot be read, is no XML, or is of a video.
      NOT_UNDERSTOOD: it is built in another way.
    """
    data = read_bytes(path)
    try:
        # It has neither, and what they may do is no concern of annotations.
        if b"<!DOCTYPE" in data or b"<!ENTITY" in data:
            raise UserError(f"{path} defines entities of its own, which CVAT's XML does not")
        root = ElementTree.fromstring(data)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{path} is cut short or no XML: {error}") from error
    if root.find("track") is not None:
        raise UserError(f'{path} is of a video: export it as "CVAT for images 1.1"')
    if root.tag != "annotations":
        raise UserError(f"{path} is none of CVAT's XML: it has {root.tag}, expected annotations")
    images, left_out, names = [], Counter[str](), set()
    for image in root.iter("image"):
        outlines = []
        for shape in image:
            if shape.tag in _DRAWN:
                outlines.append(_outline(shape))
            else:
                left_out["boxes without an outline" if shape.tag == "box" else shape.tag] += 1
        if not outlines:
            left_out["images without an outline"] += 1
            continue
        size = whole(float(image.attrib["height"])), whole(float(image.attrib["width"]))
        names |= {outline.label for outline in outlines}
        images.append(CocoImage(image.attrib["name"], size, outlines))
    return CocoFile(images, sorted(names), sorted(names), left_out)


def _outline(shape: ElementTree.Element) -> Outline:
    draw = {"polygon": _polygon, "mask": _mask, "ellipse": _ellipse}[shape.tag]
    return Outline(label_name(shape.attrib["label"]), lambda h, w: draw(shape.attrib, h, w))


def _polygon(shape: dict[str, str], height: int, width: int) -> Mask:
    corners = [float(x) for xy in shape["points"].split(";") for x in xy.split(",")]
    return segmentation_mask([corners], height, width)


def _ellipse(shape: dict[str, str], height: int, width: int) -> Mask:
    cx, cy, rx, ry = (float(shape[x]) for x in ("cx", "cy", "rx", "ry"))
    corners = ellipse_corners((cx, cy), (rx, ry), float(shape.get("rotation", 0)))
    return segmentation_mask([corners.reshape(-1).tolist()], height, width)


def _mask(shape: dict[str, str], height: int, width: int) -> Mask:
    """Returns a mask in a box, of which `rle` has the lengths of runs of 0 and 1 by rows."""
    left, top, columns, rows = (whole(float(shape[x])) for x in ("left", "top", "width", "height"))
    lengths = np.array([int(x) for x in shape["rle"].split(",")])
    pixels = columns * rows
    if not 0 < pixels <= _MOST_PIXELS or (lengths < 0).any() or lengths.sum() != pixels:
        raise BadOutline("a mask has run lengths that do not make up its box")
    values = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return place_patch(values.reshape(rows, columns), left, top, height, width)
