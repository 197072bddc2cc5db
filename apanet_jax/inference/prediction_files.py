"""What `apanet_jax.predict` leaves of each picture: masks, probabilities, overlays, a sheet."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import Image

from apanet_jax.data.images import read_image
from apanet_jax.data.masks import read_mask
from apanet_jax.inference.support_folders import Support
from apanet_jax.reports import overlays

if TYPE_CHECKING:
    from apanet_jax.inference.segmenter import Answer

CONTACT_PICTURES = 24
_CONTACT_SUPPORTS, _COLUMNS = 6, 6
_OVERLAY_SIDE, _THUMBNAIL_SIDE = 1600, 512
_COLOURS = (overlays.PREDICTION, *overlays.CLUSTERS)

Picture = UInt8[np.ndarray, "height width 3"]


def file_names(name: str, files: Mapping[str, str]) -> list[str]:
    """Returns the names of a query's files: see `contents`, which makes them."""
    parts = [f"{part}_{kind}" for part in files.values() for kind in ("mask", "probability")]
    labels = [] if "" in files else ["_labels"]
    return [f"{name}{part}.png" for part in (*parts, *labels, "_overlay")]


def contents(
    answer: "Answer", image: Picture, name: str, files: Mapping[str, str]
) -> tuple[dict[str, bytes], Picture]:
    """Returns a query's files by name, and its overlay as a thumbnail.

    Args:
      answer: what was found.
      image: the query.
      name: what its files begin with.
      files: for each class in order what its files go on with; "" where there is one without name.
    """
    several = "" not in files
    labels = answer.labels() if several else answer.mask(0).astype(np.uint8)
    result, overlay = {}, fitted(image, _OVERLAY_SIDE)
    for index, part in enumerate(files.values()):
        probability = np.round(255 * answer.probability(index)).astype(np.uint8)
        result[f"{name}{part}_mask.png"] = _png(answer.mask(index) * np.uint8(255))
        result[f"{name}{part}_probability.png"] = _png(probability)
        shown = fitted((labels == index + 1).astype(np.uint8), _OVERLAY_SIDE) > 0
        overlay = overlays.overlay(overlay, shown, _COLOURS[index % len(_COLOURS)])
    if several:
        result[f"{name}_labels.png"] = _palette_png(labels)
    result[f"{name}_overlay.png"] = _png(overlay)
    return result, fitted(overlay, _THUMBNAIL_SIDE)


def row(
    answer: "Answer",
    image: Picture,
    path: Path,
    name: str,
    files: Mapping[str, str],
) -> dict[str, Any]:
    """Returns what results.json says of a query."""
    height, width = image.shape[:2]
    classes = []
    for index, (class_name, part) in enumerate(files.items()):
        area = int(np.count_nonzero(answer.mask(index)))
        classes.append(
            {
                "class": class_name or None,
                "found": bool(answer.found[index]),
                "score": round(float(answer.scores[index]), 4),
                "area": area,
                "share": round(area / (height * width), 6),
                "mask": f"{name}{part}_mask.png",
            }
        )
    return {"query": str(path), "width": width, "height": height, "classes": classes}


def caption(answer: "Answer", name: str) -> str:
    """Returns what the sheet says of a query: its scores, in brackets where nothing was found."""
    scores = zip(answer.scores, answer.found, strict=True)
    return " ".join([name[:24], *(f"{x:.2f}" if found else f"({x:.2f})" for x, found in scores)])


def contact_sheet(supports: Sequence[Support], cells: list[tuple[str, Picture]]) -> bytes:
    """Returns a sheet: a row of supports, and the queries below."""
    given = []
    for name, image, mask in supports[:_CONTACT_SUPPORTS]:
        picture = read_image(image)
        # What there is to warn of was said when the supports were learned.
        label = read_mask(mask, picture, name, tell=lambda _: None)
        small, label = (fitted(x, _THUMBNAIL_SIDE) for x in (picture.image, label))
        shown = overlays.overlay(small, label == 1, overlays.GIVEN)
        given.append((f"support {name or image.stem}"[:34], shown))
    rows = [cells[i : i + _COLUMNS] for i in range(0, len(cells), _COLUMNS)]
    return _png(overlays.sheet([given, *rows]))


def fitted(values: np.ndarray, side: int) -> np.ndarray:
    """Returns a picture or a mask with its longer side no more than `side`."""
    height, width = values.shape[:2]
    factor = min(1.0, side / max(height, width))
    if factor == 1.0:
        return values
    way = cv2.INTER_AREA if values.ndim == 3 else cv2.INTER_NEAREST
    size = max(round(width * factor), 1), max(round(height * factor), 1)
    return cv2.resize(values, size, interpolation=way)


def _png(values: np.ndarray) -> bytes:
    stored = values[..., ::-1] if values.ndim == 3 else values
    return cv2.imencode(".png", stored)[1].tobytes()


def _palette_png(labels: UInt8[np.ndarray, "height width"]) -> bytes:
    colours = [(0, 0, 0), *(_COLOURS[i % len(_COLOURS)] for i in range(255))]
    picture = Image.fromarray(labels)
    picture.putpalette([part for colour in colours for part in colour])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
