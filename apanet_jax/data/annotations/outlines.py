"""From outlines to pixels: COCO's polygons and run lengths, LabelMe's shapes."""

import base64
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pycocotools import mask as coco_masks

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.images.image_files import composed
from apanet_jax.data.images.reader import decode_stored
from apanet_jax.runtime.errors import UserError

Mask = Bool[np.ndarray, "height width"]

CROWDS = ("ignore", "class")
NOT_UNDERSTOOD = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError)
"""What is raised for an outline, or a file of outlines, that is built in another way."""

_REACH = 4
"""Corners may lie outside their image, by this many of its longer sides."""
_CIRCLE_CORNERS = 360
_MOST_BITS = 60
"""Of a compressed run length."""


class BadOutline(UserError, ValueError):
    """An outline that cannot be drawn."""


def label_name(given: Any) -> str:
    """Returns the name that a file gives a class, as it is compared with others.

    One name can be written in two forms of Unicode, and with spaces around it.

    Raises:
      BadOutline: it is empty.
    """
    name = composed(" ".join(str(given).split()))
    if given is None or not name:
        raise BadOutline("a label without a name")
    return name


class Outline(NamedTuple):
    """An outlined object.

    Attributes:
      label: its class, by `label_name`.
      draw: from the image's height and width to the object's pixels; raises one of
        `NOT_UNDERSTOOD` where it cannot be told which these are.
      crowd: whether it stands for many objects (COCO's `iscrowd`).
    """

    label: str
    draw: Callable[[int, int], Mask]
    crowd: bool = False


def paint(
    outlines: Iterable[Outline],
    ids: Mapping[str, int],
    height: int,
    width: int,
    *,
    crowd: str = "ignore",
) -> UInt8[np.ndarray, "height width"]:
    """Paints outlines into a label map, 0 where there is none.

    Crowds are below all others; among each of the two the smaller is on top, of equal sizes the
    later one, so that a cup stays visible on its table.

    Args:
      outlines: what to paint.
      ids: by label.
      height: of the image.
      width: of the image.
      crowd: whether a crowd becomes 255 ("ignore") or its label's id ("class").

    Raises:
      NOT_UNDERSTOOD: an outline cannot be drawn.
    """
    drawn = [_Drawn(outline, *_cropped(outline.draw(height, width))) for outline in outlines]
    label = np.zeros((height, width), np.uint8)
    for outline, place, covered in sorted(
        drawn, key=lambda drawing: (not drawing.outline.crowd, -np.count_nonzero(drawing.covered))
    ):
        ignored = outline.crowd and crowd == "ignore"
        label[place][covered] = IGNORE if ignored else ids[outline.label]
    return label


class _Drawn(NamedTuple):
    """An outline's pixels: those of the rectangle `place` that are `covered`."""

    outline: Outline
    place: tuple[slice, slice]
    covered: Mask


def _cropped(covered: Mask) -> tuple[tuple[slice, slice], Mask]:
    """Returns the rectangle round a mask's pixels, and these: large images have many objects."""
    rows, columns = (np.flatnonzero(covered.any(axis)) for axis in (1, 0))
    if not len(rows):
        return (slice(0, 0), slice(0, 0)), covered[:0, :0].copy()
    place = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return place, covered[place].copy()


def segmentation_mask(segmentation: Any, height: int, width: int) -> Mask:
    """Draws a `segmentation` of COCO's: polygons, or run lengths, compressed or not.

    Args:
      segmentation: a list of polygons `[x, y, x, y, …]` in pixels, whole numbers being the corners
        of pixels; or `{"size": [height, width], "counts": …}`, where counts are a list of the
        lengths of runs of 0 and 1 by columns, or these as COCO's text.
      height: of the image.
      width: of the image.

    Raises:
      BadOutline, TypeError, ValueError: it is neither, leads far out, or is not all of the image.
    """
    if isinstance(segmentation, Mapping):
        return _run_lengths(segmentation, height, width)
    if not isinstance(segmentation, list) or not segmentation:
        raise BadOutline("has no outline, expected polygons or run lengths")
    reach = _REACH * max(height, width)
    polygons = []
    for polygon in segmentation:
        corners = _numbers(polygon)
        if corners.ndim != 1 or len(corners) % 2 or not np.isfinite(corners).all():
            raise BadOutline("has a polygon that is no list of x, y, x, y, …")
        if len(corners) and np.abs(corners).max() > reach:
            raise BadOutline(
                f"has a corner at {np.abs(corners).max():g}, far outside its image of "
                f"{width}x{height} pixels"
            )
        # Two corners enclose nothing, and pycocotools would take four numbers for a box.
        if len(corners) >= 6:
            polygons.append(corners)
    if not polygons:
        return np.zeros((height, width), bool)
    merged = coco_masks.merge(coco_masks.frPyObjects(polygons, height, width))
    return coco_masks.decode(merged).astype(bool)


def shape_mask(shape: Mapping[str, Any], height: int, width: int) -> Mask:
    """Draws one of LabelMe's shapes; whole numbers are the corners of pixels, as in COCO.

    Raises:
      BadOutline, KeyError, TypeError, ValueError: it is none, or encloses nothing.
    """
    kind, points = shape.get("shape_type") or "polygon", _numbers(shape["points"])
    if points.ndim != 2 or points.shape[1] != 2 or not np.isfinite(points).all():
        raise BadOutline("a shape's points are no list of [x, y]")
    if kind == "mask" and len(points):
        return _patch(shape["mask"], points[0], height, width)
    if kind == "rectangle" and len(points) == 2:
        (left, top), (right, bottom) = points
        points = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    elif kind == "circle" and len(points) == 2:
        points = ellipse_corners(points[0], [np.linalg.norm(points[1] - points[0])] * 2)
    elif kind not in ("polygon", "rectangle") or len(points) < 3:
        raise BadOutline(f"a shape of type {kind!r} with {len(points)} points encloses nothing")
    return segmentation_mask([points.reshape(-1)], height, width)


def ellipse_corners(
    centre: Sequence[float], radii: Sequence[float], turned: float = 0
) -> Float[np.ndarray, "corners 2"]:
    """Returns corners round an ellipse: x and y of its centre, its radii, and degrees clockwise."""
    angle = np.linspace(0, 2 * np.pi, _CIRCLE_CORNERS, endpoint=False)
    around = np.stack([np.cos(angle), np.sin(angle)], -1) * radii
    cosine, sine = np.cos(np.deg2rad(turned)), np.sin(np.deg2rad(turned))
    return np.asarray(centre) + around @ np.array([[cosine, sine], [-sine, cosine]])


def place_patch(
    patch: Bool[np.ndarray, "rows columns"], left: int, top: int, height: int, width: int
) -> Mask:
    """Returns the mask of an image with a patch at its place; what lies outside is left out."""
    covered = np.zeros((height, width), bool)
    rows = slice(max(top, 0), max(min(top + patch.shape[0], height), 0))
    columns = slice(max(left, 0), max(min(left + patch.shape[1], width), 0))
    covered[rows, columns] = patch[
        max(-top, 0) : max(-top, 0) + max(rows.stop - rows.start, 0),
        max(-left, 0) : max(-left, 0) + max(columns.stop - columns.start, 0),
    ]
    return covered


def _run_lengths(segmentation: Mapping[str, Any], height: int, width: int) -> Mask:
    counts, size = segmentation.get("counts"), segmentation.get("size")
    if isinstance(counts, str | bytes):
        counts = _decompressed(counts.encode() if isinstance(counts, str) else counts)
    lengths = _numbers(counts)
    if lengths.ndim != 1:
        raise BadOutline("has run lengths that are no list of numbers")
    whole = bool(np.all((lengths >= 0) & (lengths == np.floor(lengths))))
    if not np.array_equal(size, [height, width]) or not whole or lengths.sum() != height * width:
        raise BadOutline("has run lengths that do not make up its image")
    values = np.arange(len(lengths)) % 2 == 1
    return np.repeat(values, lengths.astype(int)).reshape((width, height)).T


def _numbers(given: Any) -> Float[np.ndarray, "..."]:
    """Returns an array of what a file gives; one of no dimension where these are no numbers."""
    try:
        return np.array(given, np.float64)
    except (TypeError, ValueError, OverflowError):
        return np.array(np.nan)


def _decompressed(text: bytes) -> list[int]:
    """Returns the run lengths that COCO's text stands for (`rleFrString` of the COCO API).

    A number is written in groups of 5 bits, the lowest first, each a character from 48 on whose
    bit 5 says that another follows; the last group's bit 4 is the sign. From the fourth number on
    it is the difference to the last but one.
    """
    counts: list[int] = []
    number = shift = 0
    for character in text:
        group = character - 48
        if not 0 <= group < 64 or shift > _MOST_BITS:
            raise BadOutline("has run lengths with a character that none can have")
        number |= (group & 0x1F) << shift
        shift += 5
        if group & 0x20:
            continue
        if group & 0x10:
            number -= 1 << shift
        counts.append(number + counts[-2] if len(counts) > 2 else number)
        number = shift = 0
    if shift:
        raise BadOutline("has run lengths that are cut short")
    return counts


def _patch(encoded: str, corner: np.ndarray, height: int, width: int) -> Mask:
    """Returns an encoded mask of a part of an image, put at its place."""
    try:
        data = base64.b64decode(encoded)
    except (TypeError, ValueError):
        raise BadOutline("a shape's mask is no image in base64") from None
    try:
        patch = decode_stored(data, "a shape's mask", max_pixels=height * width)
    except UserError as error:
        raise BadOutline(f"{error}, for an image of {width}x{height}") from error
    if patch.ndim != 2:
        raise BadOutline("a shape's mask has colours, expected black and white")
    left, top = (int(np.clip(round(x), -(10**9), 10**9)) for x in corner)
    return place_patch(patch > 0, left, top, height, width)
