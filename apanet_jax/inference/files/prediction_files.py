"""What `apanet_jax.predict` writes for each image: masks, probabilities, overlays, a sheet."""

import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage

from apanet_jax.data.images.georeference import geotiff
from apanet_jax.inference.files.prediction_job import map_ending
from apanet_jax.inference.files.queries import Query
from apanet_jax.reports import overlays

if TYPE_CHECKING:
    from apanet_jax.inference.answers.answer import Answer
    from apanet_jax.inference.matching.geometry import Grid
    from apanet_jax.inference.supports.given_supports import Support

CONTACT_IMAGES = 24
_CONTACT_SUPPORTS, _COLUMNS = 6, 6
OVERLAY_SIDE, _THUMBNAIL_SIDE = 1600, 512
_SHEET_SIDE, _LEGEND_WIDTH = 224, 464
"""Pixels of the sheet: the side of an image in it, and the least width of its legend."""
_COLOURS = (overlays.PREDICTION, *overlays.CLUSTERS)

Image = UInt8[np.ndarray, "height width 3"]


def overlay_of(answer: "Answer", image: Image) -> Image:
    """Returns a query with the mask of each class tinted, its longer side `OVERLAY_SIDE` at most.

    Args:
      answer: what was found.
      image: the query; it may be smaller than it is in its file.
    """
    classes = len(answer.found)
    labels = answer.labels() if classes > 1 else answer.mask(0).view(np.uint8)
    height, width = answer.size
    factor = min(1.0, OVERLAY_SIDE / max(height, width))
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    overlay = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    for index in range(classes):
        colour = _COLOURS[index % len(_COLOURS)]
        overlay = overlays.overlay(overlay, labels == index + 1, colour)
    return overlay


def contents(
    answer: "Answer", overlay: Image, query: Query, class_files: Mapping[str, str]
) -> Iterator[tuple[str, bytes]]:
    """Yields a query's images, one after the other: name and content.

    Args:
      answer: what was found.
      overlay: see `overlay_of`.
      query: what the files are of; where it has a georeference, masks have it too, as TIFF.
      class_files: see `prediction_job.class_files`.
    """
    name, ending, place = query.name, map_ending(query), query.georeference

    def stored(values: np.ndarray) -> bytes:
        return png(values) if place is None else geotiff(values, place)

    for index, part in enumerate(class_files.values()):
        mask = answer.mask(index).view(np.uint8)
        yield f"{name}{part}_mask{ending}", stored(np.multiply(mask, 255, out=mask))
        yield f"{name}{part}_probability{ending}", stored(answer.probability_levels(index))
    if "" not in class_files:
        labels = _in_colours(answer.labels())
        content = _pil_png(labels) if place is None else geotiff(labels, place)
        yield f"{name}_labels{ending}", content
    yield f"{name}_overlay.png", png(overlay)


def result_row(
    answer: "Answer",
    query: Query,
    class_files: Mapping[str, str],
    formats: Sequence[str] = ("png",),
) -> dict[str, Any]:
    """Returns what results.json says of a query.

    Args:
      answer: what was found.
      query: its file and name.
      class_files: see `prediction_job.class_files`.
      formats: see `PredictionJob`; masks are named where they are written as images.
    """
    height, width = answer.size
    classes = []
    for index, (class_name, part) in enumerate(class_files.items()):
        area = answer.area(index)
        mask = f"{query.name}{part}_mask{map_ending(query)}" if "png" in formats else None
        classes.append(
            {
                "class": class_name or None,
                "found": bool(answer.found[index]),
                "score": round(float(answer.scores[index]), 4),
                "quality": round(float(answer.qualities[index]), 4),
                "area": area,
                "share": round(area / (height * width), 6),
                "mask": mask,
            }
        )
    quality = round(answer.quality, 4)
    sides = {"width": width, "height": height}
    return described(query) | sides | {"quality": quality, "classes": classes}


def described(query: Query) -> dict[str, Any]:
    """Returns what names a query in results.json: its file, and the frame if it is one of many."""
    frame = {} if query.frame is None else {"frame": query.frame}
    return {"query": str(query.path)} | frame


def caption(answer: "Answer", name: str, class_names: Sequence[str]) -> str:
    """Returns what the sheet says of a query: its scores, in brackets where nothing was found.

    Args:
      answer: what was found.
      name: of the query.
      class_names: in order; an empty one is not said.
    """
    scores = zip(class_names, answer.scores, answer.found, strict=True)
    said = [f"{n} {x:.2f}" if found else f"{n} ({x:.2f})" for n, x, found in scores]
    return _lines(name, ", ".join(x.strip() for x in said))


def thumbnail(image: Image) -> Image:
    """Returns an image as small as the sheet needs it."""
    return shrunk(image, _THUMBNAIL_SIDE)


def contact_sheet(
    supports: Mapping[str, Sequence["Support"]],
    grid: "Grid",
    shown: Sequence[tuple[str, Image]],
    class_names: Sequence[str],
) -> bytes:
    """Returns a sheet: a row of supports, the queries below, and what colours and numbers mean.

    Args:
      supports: see `Segmenter.supports_`; the first ones of each class are shown.
      grid: of the squares that they are fitted into.
      shown: captions and overlays of queries.
      class_names: in the order of their colours; one that is empty where there is one class.
    """
    given = []
    for name, support in _of_each_class(supports)[:_CONTACT_SUPPORTS]:
        height, width = grid.fitted(support.size)
        small, label = (x[:height, :width] for x in (support.square, support.label))
        shown_support = overlays.overlay(
            thumbnail(small), shrunk(label, _THUMBNAIL_SIDE) == 1, overlays.GIVEN
        )
        said = _lines(f"support of {name}" if name else "support", Path(support.files[0][0]).name)
        given.append((said, shown_support))
    rows = [shown[i : i + _COLUMNS] for i in range(0, len(shown), _COLUMNS)]
    sheet = overlays.sheet([given, *rows], _SHEET_SIDE)
    width = max(sheet.shape[1], _LEGEND_WIDTH)
    sheet = np.pad(sheet, ((0, 0), (0, width - sheet.shape[1]), (0, 0)), constant_values=255)
    return png(np.concatenate([sheet, overlays.legend(_legend(class_names), width)]))


def _of_each_class(supports: Mapping[str, Sequence["Support"]]) -> list[tuple[str, "Support"]]:
    """Returns supports in turn: the first of each class, the second of each, and so on."""
    turns = itertools.zip_longest(*([(name, x) for x in given] for name, given in supports.items()))
    return [pair for turn in turns for pair in turn if pair is not None]


def _legend(class_names: Sequence[str]) -> list[tuple[tuple[int, int, int] | None, str]]:
    colours = [_COLOURS[i % len(_COLOURS)] for i in range(len(class_names))]
    several = len(class_names) > 1
    where = "" if several else "; the mask shows where it would be"
    return [
        (overlays.GIVEN, "mask of a support"),
        *((c, name or "what was found") for c, name in zip(colours, class_names, strict=True)),
        (None, "0.87: the probability that the image shows the class, if half of the images do"),
        (None, f"(0.23): in brackets, so the class was not found{where}"),
    ]


def _lines(*texts: str) -> str:
    """Returns texts, each from a new line on, and in several where it is wider than an image."""
    return "\n".join(line for x in texts for line in overlays.wrapped(x, _SHEET_SIDE))


def shrunk(values: np.ndarray, side: int) -> np.ndarray:
    """Returns an image or a mask with its longer side no more than `side` pixels."""
    height, width = values.shape[:2]
    factor = min(1.0, side / max(height, width))
    if factor == 1.0:
        return values
    way = cv2.INTER_AREA if values.ndim == 3 else cv2.INTER_NEAREST
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(values, size, interpolation=way)


def png(values: UInt8[np.ndarray, "height width *rgb"]) -> bytes:
    """Returns a gray or RGB image as PNG."""
    stored = values[..., ::-1] if values.ndim == 3 else values
    return cv2.imencode(".png", stored)[1].tobytes()


def _in_colours(labels: UInt8[np.ndarray, "height width"]) -> PILImage.Image:
    colours = [(0, 0, 0), *(_COLOURS[i % len(_COLOURS)] for i in range(255))]
    image = PILImage.fromarray(labels)
    image.putpalette([part for colour in colours for part in colour])
    return image


def _pil_png(image: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
