"""Overlays, cluster maps and contact sheets: arrays in, arrays out."""

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Int, UInt8
from PIL import Image, ImageDraw, ImageFont

GIVEN = (255, 196, 0)
TRUTH = (60, 210, 90)
PREDICTION = (235, 60, 140)
CLUSTERS = ((86, 130, 255), (255, 140, 60), (70, 200, 190), (200, 90, 220), (170, 200, 60))
_TINT = 0.5
_GAP = 8
_CAPTION = 18


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "height width"],
    colour: tuple[int, int, int],
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns `image` with `mask` tinted and outlined in `colour`."""
    result = image.copy()
    result[mask] = ((1 - _TINT) * image[mask] + _TINT * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(result), outlines, -1, colour, 2)


def cluster_map(
    image: UInt8[np.ndarray, "height width 3"], clusters: Int[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns `image` tinted by cluster (-1: no cluster, left as it is)."""
    result = image
    for cluster in np.unique(clusters[clusters >= 0]):
        result = overlay(result, clusters == cluster, CLUSTERS[cluster % len(CLUSTERS)])
    return result


def sheet(
    rows: Sequence[Sequence[tuple[str, UInt8[np.ndarray, "height width 3"]]]], side: int = 224
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns rows of captioned pictures, each fitted into a square of `side` pixels."""
    columns = max(len(row) for row in rows)
    canvas = Image.new(
        "RGB",
        (columns * (side + _GAP) + _GAP, len(rows) * (side + _CAPTION + _GAP) + _GAP),
        "white",
    )
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default()
    for y, row in enumerate(rows):
        for x, (caption, image) in enumerate(row):
            left = _GAP + x * (side + _GAP)
            top = _GAP + y * (side + _CAPTION + _GAP)
            picture = Image.fromarray(image)
            picture.thumbnail((side, side))
            canvas.paste(picture, (left, top + _CAPTION))
            draw.text((left, top), caption, fill="black", font=font)
    return np.asarray(canvas)
