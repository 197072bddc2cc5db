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
_COVERED = 0.8
_GAP = 8


def overlay(
    image: UInt8[np.ndarray, "height width 3"],
    mask: Bool[np.ndarray, "height width"],
    colour: tuple[int, int, int],
    tint: float = _TINT,
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns `image` with `mask` tinted (0 not at all, 1 wholly) and outlined in `colour`."""
    result = image.copy()
    result[mask] = ((1 - tint) * image[mask] + tint * np.array(colour)).astype(np.uint8)
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    return cv2.drawContours(np.ascontiguousarray(result), outlines, -1, colour, 2)


def covered(
    image: UInt8[np.ndarray, "height width 3"], mask: Bool[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns `image` with `mask` nearly hidden under yellow, as the paper hides a foreground."""
    return overlay(image, mask, GIVEN, _COVERED)


def cluster_map(
    image: UInt8[np.ndarray, "height width 3"], clusters: Int[np.ndarray, "height width"]
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns `image` tinted by cluster (-1: no cluster, left as it is)."""
    result = image
    for cluster in np.unique(clusters[clusters >= 0]):
        result = overlay(result, clusters == cluster, CLUSTERS[cluster % len(CLUSTERS)])
    return result


def sheet(
    rows: Sequence[Sequence[tuple[str, UInt8[np.ndarray, "height width 3"]]]],
    side: int = 224,
    *,
    labels: Sequence[str] = (),
    text: int = 10,
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns rows of captioned pictures, each fitted into a square of `side` pixels.

    Args:
      rows: of captions and pictures; a row has as many lines as the longest of its captions, which
        may be none.
      side: pixels.
      labels: written upwards along the rows' left ends; none for no such margin.
      text: height of the letters, pixels.
    """
    columns = max(len(row) for row in rows)
    line = text + 8
    lines = [max(caption.count("\n") + bool(caption) for caption, _ in row) for row in rows]
    captions = [line * count for count in lines]
    tops = _GAP + np.cumsum([0, *(caption + side + _GAP for caption in captions)])
    margin = _GAP + line * bool(labels)
    canvas = Image.new("RGB", (columns * (side + _GAP) + margin, int(tops[-1])), "white")
    draw = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(text)
    for y, row in enumerate(rows):
        top = int(tops[y]) + captions[y]
        if labels:
            canvas.paste(_upwards(labels[y], font, side, line), (_GAP // 2, top))
        for x, (caption, image) in enumerate(row):
            left = margin + x * (side + _GAP)
            picture = Image.fromarray(image)
            picture.thumbnail((side, side))
            canvas.paste(picture, (left, top))
            for number, words in enumerate(caption.split("\n")):
                place = left, top - captions[y] + number * line
                draw.text(place, words, fill="black", font=font)
    return np.asarray(canvas)


def legend(
    entries: Sequence[tuple[tuple[int, int, int] | None, str]], width: int, text: int = 10
) -> UInt8[np.ndarray, "height width 3"]:
    """Returns lines of text, each behind a square of its colour if it has one.

    Args:
      entries: colours and texts; a text too long for a line goes on in the next.
      width: pixels.
      text: height of the letters, pixels.
    """
    line = text + 8
    lines = [
        (None if number else colour, words, colour is not None)
        for colour, sentence in entries
        for number, words in enumerate(wrapped(sentence, width - 2 * _GAP - line, text))
    ]
    canvas = Image.new("RGB", (width, line * len(lines) + 2 * _GAP), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(text)
    for number, (colour, words, indented) in enumerate(lines):
        top = _GAP + number * line
        if colour is not None:
            draw.rectangle((_GAP, top, _GAP + text, top + text), fill=colour)
        draw.text((_GAP + line * indented, top), words, fill="black", font=font)
    return np.asarray(canvas)


def wrapped(words: str, width: int, text: int = 10) -> list[str]:
    """Returns text in lines that are no wider than `width` pixels, broken at spaces if there are.

    Args:
      words: the text.
      width: pixels.
      text: height of the letters, pixels.
    """
    font, lines = ImageFont.load_default(text), []
    while words:
        count = len(words)
        while count > 1 and font.getlength(words[:count]) > width:
            count -= 1
        if count < len(words) and " " in words[1:count]:
            count = words.rindex(" ", 1, count) + 1
        lines.append(words[:count].rstrip())
        words = words[count:].lstrip()
    return lines or [""]


def _upwards(line: str, font: ImageFont.FreeTypeFont, length: int, height: int) -> Image.Image:
    """Returns `line` in the middle of a strip, turned to be read from below."""
    strip = Image.new("RGB", (length, height), "white")
    ImageDraw.Draw(strip).text((length // 2, 0), line, fill="black", font=font, anchor="ma")
    return strip.transpose(Image.Transpose.ROTATE_90)
