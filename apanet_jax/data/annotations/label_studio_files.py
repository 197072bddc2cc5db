"""Label Studio's JSON export: brush strokes, polygons and ellipses of all images of a project."""

import re
import urllib.parse
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.outline_files import CocoFile, CocoImage, whole
from apanet_jax.data.annotations.outlines import (
    BadOutline,
    Mask,
    Outline,
    ellipse_corners,
    label_name,
    segmentation_mask,
)

_UPLOADED = re.compile(r"/?data/upload/")
_PREFIX = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
_PERCENT = 100
_CHANNELS = 4
"""A brush stroke is an image in RGBA, the last of which is the stroke."""


def label_studio_outlines(tasks: Sequence[Mapping[str, Any]]) -> CocoFile:
    """Returns what an export says, its images in its order.

    Of several annotations of an image the first that was not cancelled is taken.

    Raises:
      NOT_UNDERSTOOD: it is built in another way: JSON-MIN, for one.
    """
    images, left_out, names = [], Counter[str](), set()
    for task in tasks:
        if "annotations" not in task:
            raise ValueError("a task has no annotations: export as JSON, not as JSON-MIN or CSV")
        done = [x for x in task["annotations"] if not x.get("was_cancelled")]
        left_out["cancelled annotations"] += len(task["annotations"]) - len(done)
        left_out["further annotations of an image"] += max(len(done) - 1, 0)
        left_out["predictions"] += len(task.get("predictions") or ())
        if not done:
            left_out["images without an annotation"] += 1
            continue
        outlines, size = [], None
        for region in done[0]["result"]:
            found = list(_outlines_of(region, left_out))
            outlines += found
            if found:
                size = whole(region["original_height"]), whole(region["original_width"])
        if size is None:
            left_out["images without an outline"] += 1
            continue
        names |= {outline.label for outline in outlines}
        images.append(CocoImage(_file_name(task), size, outlines))
    return CocoFile(images, sorted(names), sorted(names), +left_out)


def uploaded_name(path: Path) -> str:
    """Returns how Label Studio calls an uploaded file, without what it puts before its name."""
    return path.name.replace(" ", "_")


def decode_brush(runs: Sequence[int], height: int, width: int) -> Mask:
    """Returns the pixels of a brush stroke, of which the runs are bytes.

    The form is that of @thi.ng/rle-pack: the number of values (32 bits), bits of a value less 1
    (5), bits of each of four kinds of length less 1 (4 each); then, until all values are there,
    whether one value is repeated (1), the kind of length (2), the length less 1, and that value, or
    as many values. They are the RGBA of each pixel, by rows.

    Raises:
      BadOutline: they are cut short, or not all of the image.
    """
    try:
        bits = np.unpackbits(np.array(runs, np.uint8))
    except (ValueError, OverflowError, TypeError) as error:
        raise BadOutline("a brush stroke is no list of bytes") from error
    reader = _Bits(bits)
    number, word = reader.read(32), reader.read(5) + 1
    if number != height * width * _CHANNELS or word > 8:
        raise BadOutline(f"a brush stroke does not make up its image of {width}x{height} pixels")
    lengths = [reader.read(4) + 1 for _ in range(4)]
    values, position = np.zeros(number, np.uint8), 0
    while position < number:
        repeated = reader.read(1)
        length = reader.read(lengths[reader.read(2)]) + 1
        if position + length > number:
            raise BadOutline("a brush stroke is longer than its image")
        values[position : position + length] = (
            reader.read(word) if repeated else reader.values(length, word)
        )
        position += length
    return values.reshape(height, width, _CHANNELS)[..., -1] > 0


class _Bits:
    """Numbers in a row of bits, the highest bit of each first."""

    def __init__(self, bits: UInt8[np.ndarray, " bits"]):
        self._bits, self._position = bits, 0

    def read(self, size: int) -> int:
        return int(self.values(1, size)[0])

    def values(self, count: int, size: int) -> np.ndarray:
        stop = self._position + count * size
        if stop > len(self._bits):
            raise BadOutline("a brush stroke is cut short")
        taken = self._bits[self._position : stop].reshape(count, size)
        self._position = stop
        return taken.astype(np.int64) @ (1 << np.arange(size - 1, -1, -1, dtype=np.int64))


def _outlines_of(region: Mapping[str, Any], left_out: Counter[str]) -> Iterator[Outline]:
    """Yields an outline for each label of a region."""
    value = region.get("value") or {}
    labels = next((v for k, v in value.items() if k.endswith("labels") and v), None)
    if not labels or not {"rle", "points", "radiusX"} & set(value):
        box = labels and {"x", "y", "width", "height"} <= set(value)
        left_out["boxes without an outline" if box else "entries that are no outline"] += 1
        return
    if region.get("image_rotation"):
        raise ValueError("an image is rotated in Label Studio: turn its file, and label that")
    for label in labels:
        yield Outline(label_name(label), lambda h, w: _drawn(value, h, w))


def _drawn(value: Mapping[str, Any], height: int, width: int) -> Mask:
    if "rle" in value:
        return decode_brush(value["rle"], height, width)
    if "points" in value:
        corners = np.array(value["points"], np.float64)
    else:
        centre, radii = (value["x"], value["y"]), (value["radiusX"], value["radiusY"])
        # Both radii are shares of the width and height, and the turn is one of pixels.
        scale = np.array([width, height]) / _PERCENT
        pixels = ellipse_corners(centre * scale, radii * scale, value.get("rotation") or 0)
        return segmentation_mask([pixels.reshape(-1).tolist()], height, width)
    corners = corners * (width / _PERCENT, height / _PERCENT)
    return segmentation_mask([corners.reshape(-1).tolist()], height, width)


def _file_name(task: Mapping[str, Any]) -> str:
    """Returns the name of a task's image: as it was before it was uploaded, if it was."""
    data = task["data"]
    text = data.get("image") or next(x for x in data.values() if isinstance(x, str))
    address = urllib.parse.urlsplit(str(text))
    # Files of a local storage: /data/local-files/?d=folder/a.jpg
    local = urllib.parse.parse_qs(address.query).get("d")
    name = local[0] if local else urllib.parse.unquote(address.path)
    if _UPLOADED.match(name):
        return _PREFIX.sub("", name.rsplit("/", 1)[-1], count=1)
    return name
