"""The outline of an instance as polygons along the edges of its pixels.

Coordinates count pixels from the image's top left corner, so that whole numbers are the corners of
pixels, as in COCO (see `annotations.outlines`). An outline along all edges draws the very mask; one
with fewer corners, or in a tool that counts otherwise, draws one that is off by a pixel or more.
"""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int
from PIL import Image, ImageDraw

from apanet_jax.data.annotations.outlines import segmentation_mask
from apanet_jax.inference.files.formats.instances import Instance

Ring = Int[np.ndarray, "corners 2"]
"""A closed polygon, x and y of each corner."""
Mask = Bool[np.ndarray, "height width"]

_TOLERANCES = (1.0, 0.5)
"""In pixels, of outlines that leave out corners; the first that is close is taken."""
_MOST_CHANGED = 0.02
"""Of an instance's pixels, by leaving out corners."""
_MARGIN = 3
"""Pixels round a mask, in which a drawing that leaves it is seen."""


def rings(mask: Mask, tolerance: float = 0.0) -> tuple[Ring, list[Ring]]:
    """Returns the outer outline of a connected mask, and those of its holes.

    Args:
      mask: one part, of 8 neighbours.
      tolerance: how far corners may be left out, in pixels; 0: none that is one.
    """
    # Twice as large, where the pixels of an outline lie on known sides of it.
    doubled = np.repeat(np.repeat(mask.view(np.uint8), 2, 0), 2, 1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outer, holes = [], []
    for contour, (_, _, _, parent) in zip(contours, hierarchy[0], strict=True):
        ring = _simplified((contour[:, 0] + 1) // 2, tolerance)
        (outer if parent < 0 else holes).append(ring)
    return outer[0], [ring for ring in holes if len(ring) >= 3]


def joined(outer: Ring, holes: Sequence[Ring]) -> Ring:
    """Returns one polygon that leaves out the holes: a way leads to each of them, and back."""
    # From the left, where what a hole can be joined to is joined before it.
    for ring in sorted(holes, key=lambda ring: ring[:, 0].min()):
        there = int(ring[:, 0].argmin())
        here = int(((outer - ring[there]) ** 2).sum(1).argmin())
        turned = np.concatenate([ring[there:], ring[: there + 1]])
        outer = np.concatenate([outer[: here + 1], turned, outer[here:]])
    return outer


def close_polygon(instance: Instance, *, with_holes: bool) -> Ring | None:
    """Returns a polygon that draws an instance to within a pixel, in the image's coordinates.

    Args:
      instance: what to outline.
      with_holes: whether holes are left out by ways that lead to them; else they are filled.

    Returns:
      The polygon with the fewest corners that was found; None where every one would lose or add
      what is farther than a pixel from what is there.
    """
    for tolerance in (*_TOLERANCES, 0.0):
        outer, holes = rings(instance.mask, tolerance)
        polygon = joined(outer, holes) if with_holes else outer
        # Of a thin part a tolerance may leave a line.
        if len(outer) >= 3 and _is_close(polygon, instance.mask, exact=not tolerance):
            return polygon + (instance.left, instance.top)
    return None


def polygon_of(instance: Instance) -> Ring:
    """Returns an instance as one polygon, where nothing else can be stored.

    It is the close one, or where there is none the outline along all edges, with ways to holes.
    """
    close = close_polygon(instance, with_holes=True)
    if close is not None:
        return close
    return joined(*rings(instance.mask)) + (instance.left, instance.top)


def _is_close(polygon: Ring, mask: Mask, *, exact: bool) -> bool:
    """Returns whether a polygon draws a mask to within a pixel, as COCO and as other tools draw it.

    Whole numbers are the corners of pixels for COCO. For Pillow, with which LabelMe draws, and
    OpenCV, with which ultralytics does, they are pixels, which the polygon covers too: these may
    add a further pixel. Where corners are left out, few of the pixels may change.
    """
    mask = np.pad(mask, _MARGIN)
    height, width = mask.shape
    moved = (polygon + _MARGIN).astype(np.int32)
    by_coco = segmentation_mask([moved.reshape(-1).tolist()], height, width)
    if not exact and (by_coco ^ mask).sum() > _MOST_CHANGED * mask.sum():
        return False
    by_pillow = Image.new("1", (width, height))
    ImageDraw.Draw(by_pillow).polygon([tuple(map(int, xy)) for xy in moved], fill=1, outline=1)
    by_opencv = cv2.fillPoly(np.zeros((height, width), np.uint8), [moved], 1).astype(bool)
    near = _grown(mask)
    return not any(
        (drawn & ~allowed | mask & ~_grown(drawn)).any()
        for drawn, allowed in (
            (by_coco, near),
            (np.array(by_pillow), _grown(near)),
            (by_opencv, _grown(near)),
        )
    )


def _grown(mask: Mask) -> Mask:
    return cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)


def _simplified(ring: Ring, tolerance: float) -> Ring:
    """Returns a ring with corners only where its direction changes, by more than a tolerance."""
    if tolerance:
        return cv2.approxPolyDP(ring[:, None].astype(np.int32), tolerance, True)[:, 0]
    ring = ring[np.any(ring != np.roll(ring, 1, 0), 1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    turns = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    # The way back along a line turns too.
    return ring[turns | ((before * after).sum(1) < 0)]
