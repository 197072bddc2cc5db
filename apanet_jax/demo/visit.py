"""What a visitor has entered so far: supports, what is painted on them, and queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from apanet_jax.data.images import decode_image, open_encoded, read_bytes
from apanet_jax.data.sources.synthetic import CLASS_NAMES, draw_image
from apanet_jax.inference.prediction_files import shrunk
from apanet_jax.runtime.errors import UserError

MOST_SUPPORTS, MOST_QUERIES = 5, 12
LARGEST_FILE = 20 * 2**20
"""Bytes of an uploaded file."""
LARGEST_IMAGE = 50_000_000
"""Pixels of an uploaded image."""
LARGEST_SIDE = 1280
"""Pixels; images with a longer side are shrunk to it when they come in."""

SAMPLES = ("butterfly", "bottle", "bird")
"""Classes that the head of the package was not trained on, see configs/general.py."""
_SAMPLE_SUPPORTS, _SAMPLE_QUERIES, _SAMPLE_SIDE = 3, 4, 320
_PAINTED = 63
_MOST_LAYERS, _PAINT_FORMATS = 4, ("PNG", "WEBP", "JPEG")

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]


class Support(NamedTuple):
    """An image that shows the class.

    Attributes:
      name: of its file.
      image: the image.
      before: what was painted before the editor showed it last, None if nothing.
      mask: all that is painted, None if nothing.
    """

    name: str
    image: Image
    before: Mask | None = None
    mask: Mask | None = None


class Query(NamedTuple):
    """An image to segment."""

    name: str
    image: Image


class Visit(NamedTuple):
    """All that a visitor has entered.

    Attributes:
      supports: `MOST_SUPPORTS` at most.
      current: number of the support that is being painted on.
      queries: `MOST_QUERIES` at most.
    """

    supports: tuple[Support, ...] = ()
    current: int = 0
    queries: tuple[Query, ...] = ()


def read_upload(path: Path) -> tuple[str, Image]:
    """Returns an uploaded image with its file's name, its longer side `LARGEST_SIDE` at most.

    Raises:
      UserError: it cannot be used; the message names the file without its folder.
    """
    try:
        image = decode_image(_upload(path), path, max_pixels=LARGEST_IMAGE).image
        return path.name, shrunk(image, LARGEST_SIDE)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error


def read_layers(sent: Sequence[str | bytes]) -> list[UInt8[np.ndarray, "height width 4"]]:
    """Returns the layers of paint that a visitor sent, as RGBA.

    Args:
      sent: image files, or their content.

    Raises:
      UserError: these are too many, or one is too large or no image.
    """
    _check_number(0, len(sent), _MOST_LAYERS, "layers of paint")
    layers = []
    for file in sent:
        data = file if isinstance(file, bytes) else _upload(Path(file))
        encoded = open_encoded(data, "the paint", max_pixels=LARGEST_IMAGE, formats=_PAINT_FORMATS)
        layers.append(np.array(encoded.decode().convert("RGBA")))
    return layers


def _upload(path: Path) -> bytes:
    if path.exists() and (size := path.stat().st_size) > LARGEST_FILE:
        raise UserError(
            f"{path.name} has {size / 2**20:.0f} MB: {LARGEST_FILE // 2**20} at most, make it "
            "smaller"
        )
    return read_bytes(path)


def with_supports(visit: Visit, paths: Sequence[Path]) -> Visit:
    """Returns the visit with more supports, none of them painted; the first is current.

    Raises:
      UserError: these are too many, or one cannot be used; then none is taken.
    """
    _check_number(len(visit.supports), len(paths), MOST_SUPPORTS, "images that show the class")
    new = tuple(Support(*read_upload(path)) for path in paths)
    return visit._replace(supports=visit.supports + new, current=len(visit.supports))


def with_queries(visit: Visit, paths: Sequence[Path]) -> Visit:
    """Returns the visit with more queries; see `with_supports`."""
    _check_number(len(visit.queries), len(paths), MOST_QUERIES, "images to segment")
    return visit._replace(
        queries=visit.queries + tuple(Query(*read_upload(path)) for path in paths)
    )


def with_painted(visit: Visit, editor: Mapping[str, Any] | None) -> Visit:
    """Returns the visit with what the editor shows painted on the current support.

    Args:
      visit: so far.
      editor: its value; `layers` are RGBA, opaque where something was painted in it.
    """
    if not visit.supports:
        return visit
    support = visit.supports[visit.current]
    height, width = support.image.shape[:2]
    mask = np.zeros((height, width), bool) if support.before is None else support.before.copy()
    for layer in (editor or {}).get("layers") or ():
        alpha = layer[..., 3]
        if alpha.shape != mask.shape:
            alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_NEAREST)
        mask |= alpha > _PAINTED
    painted = support._replace(mask=mask if mask.any() else None)
    return _with_current(visit, painted)


def shown_again(visit: Visit) -> Visit:
    """Returns the visit when the editor shows the current support with all that is painted."""
    if not visit.supports:
        return visit
    support = visit.supports[visit.current]
    return _with_current(visit, support._replace(before=support.mask))


def wiped(visit: Visit) -> Visit:
    """Returns the visit with nothing painted on the current support."""
    if not visit.supports:
        return visit
    return _with_current(visit, visit.supports[visit.current]._replace(before=None, mask=None))


def without_current(visit: Visit) -> Visit:
    """Returns the visit without the support that is being painted on."""
    supports = visit.supports[: visit.current] + visit.supports[visit.current + 1 :]
    return visit._replace(supports=supports, current=max(min(visit.current, len(supports) - 1), 0))


def unpainted(visit: Visit) -> list[int]:
    """Returns the numbers of the supports on which nothing is painted, from 0 on."""
    return [i for i, support in enumerate(visit.supports) if support.mask is None]


def drawn_sample(name: str) -> Visit:
    """Draws supports of a class with their masks, and queries: the last one shows another class."""
    rng = np.random.default_rng(CLASS_NAMES.index(name))
    wanted = CLASS_NAMES.index(name)
    other = CLASS_NAMES.index(SAMPLES[SAMPLES.index(name) - 1])
    supports = []
    for number in range(1, _SAMPLE_SUPPORTS + 1):
        image, label = draw_image(rng, [wanted], _SAMPLE_SIDE)
        mask = label == wanted + 1
        supports.append(Support(f"{name} {number}", image, mask, mask))
    queries = []
    for number in range(1, _SAMPLE_QUERIES):
        image, _ = draw_image(rng, [wanted, int(rng.integers(len(CLASS_NAMES)))], _SAMPLE_SIDE)
        queries.append(Query(f"drawn {number}", image))
    queries.append(Query(f"drawn {_SAMPLE_QUERIES}", draw_image(rng, [other], _SAMPLE_SIDE)[0]))
    return Visit(tuple(supports), 0, tuple(queries))


def _with_current(visit: Visit, support: Support) -> Visit:
    supports = (*visit.supports[: visit.current], support, *visit.supports[visit.current + 1 :])
    return visit._replace(supports=supports)


def _check_number(there: int, more: int, most: int, what: str) -> None:
    if there + more > most:
        raise UserError(
            f"{there + more} {what}: {most} at most, "
            + (f"and {there} are there already" if there else "take fewer")
        )
