"""What a visitor has put in so far: supports, what is painted on them, and queries."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from apanet_jax.data.images import read_image
from apanet_jax.data.sources.synthetic import CLASS_NAMES, draw_image
from apanet_jax.inference.prediction_files import fitted
from apanet_jax.runtime.errors import UserError

MOST_SUPPORTS, MOST_QUERIES = 5, 12
LARGEST_FILE = 20 * 2**20
"""Bytes of an uploaded file."""
LARGEST_PICTURE = 50_000_000
"""Pixels of an uploaded picture."""
LARGEST_SIDE = 1280
"""Pixels; larger pictures are made so small when they come in."""

SAMPLES = ("butterfly", "bottle", "bird")
"""Things that the head of the package was not trained on, see configs/general.py."""
_SAMPLE_SUPPORTS, _SAMPLE_QUERIES, _SAMPLE_SIDE = 3, 4, 320
_PAINTED = 63

Image = UInt8[np.ndarray, "height width 3"]
Mask = Bool[np.ndarray, "height width"]


class Support(NamedTuple):
    """A picture that shows the thing.

    Attributes:
      name: of its file.
      image: the picture.
      before: what was painted before the editor showed it last, None if nothing.
      mask: all that is painted, None if nothing.
    """

    name: str
    image: Image
    before: Mask | None = None
    mask: Mask | None = None


class Query(NamedTuple):
    """A picture to look at."""

    name: str
    image: Image


class Given(NamedTuple):
    """All that a visitor has put in.

    Attributes:
      supports: `MOST_SUPPORTS` at most.
      current: number of the support that is being painted on.
      queries: `MOST_QUERIES` at most.
    """

    supports: tuple[Support, ...] = ()
    current: int = 0
    queries: tuple[Query, ...] = ()


def read_upload(path: Path) -> tuple[str, Image]:
    """Returns an uploaded picture with its file's name, its longer side `LARGEST_SIDE` at most.

    Raises:
      UserError: it cannot be used; the message names the file without its folder.
    """
    try:
        if path.exists() and (size := path.stat().st_size) > LARGEST_FILE:
            raise UserError(
                f"{path.name} has {size / 2**20:.0f} MB: {LARGEST_FILE // 2**20} at most, "
                "make it smaller"
            )
        return path.name, fitted(read_image(path, max_pixels=LARGEST_PICTURE).image, LARGEST_SIDE)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error


def with_supports(given: Given, paths: Sequence[Path]) -> Given:
    """Returns what is given with more supports, none of them painted; the first is current.

    Raises:
      UserError: these are too many, or one cannot be used; then none is taken.
    """
    _check_number(len(given.supports), len(paths), MOST_SUPPORTS, "pictures that show the thing")
    new = tuple(Support(*read_upload(path)) for path in paths)
    return given._replace(supports=given.supports + new, current=len(given.supports))


def with_queries(given: Given, paths: Sequence[Path]) -> Given:
    """Returns what is given with more queries; see `with_supports`."""
    _check_number(len(given.queries), len(paths), MOST_QUERIES, "pictures to look through")
    return given._replace(
        queries=given.queries + tuple(Query(*read_upload(path)) for path in paths)
    )


def with_painted(given: Given, editor: Mapping[str, Any] | None) -> Given:
    """Returns what is given with what the editor shows painted on the current support.

    Args:
      given: so far.
      editor: its value; `layers` are RGBA, opaque where something was painted in it.
    """
    if not given.supports:
        return given
    support = given.supports[given.current]
    height, width = support.image.shape[:2]
    mask = np.zeros((height, width), bool) if support.before is None else support.before.copy()
    for layer in (editor or {}).get("layers") or ():
        alpha = layer[..., 3]
        if alpha.shape != mask.shape:
            alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_NEAREST)
        mask |= alpha > _PAINTED
    painted = support._replace(mask=mask if mask.any() else None)
    return _with_current(given, painted)


def shown_anew(given: Given) -> Given:
    """Returns what is given when the editor shows the current support with all that is painted."""
    if not given.supports:
        return given
    support = given.supports[given.current]
    return _with_current(given, support._replace(before=support.mask))


def wiped(given: Given) -> Given:
    """Returns what is given with nothing painted on the current support."""
    if not given.supports:
        return given
    return _with_current(given, given.supports[given.current]._replace(before=None, mask=None))


def without_current(given: Given) -> Given:
    """Returns what is given without the support that is being painted on."""
    supports = given.supports[: given.current] + given.supports[given.current + 1 :]
    return given._replace(supports=supports, current=max(min(given.current, len(supports) - 1), 0))


def unpainted(given: Given) -> list[int]:
    """Returns the numbers of the supports on which nothing is painted, from 0 on."""
    return [i for i, support in enumerate(given.supports) if support.mask is None]


def drawn_sample(thing: str) -> Given:
    """Draws supports of a thing with their masks, and queries: the last one shows another thing."""
    rng = np.random.default_rng(CLASS_NAMES.index(thing))
    wanted = CLASS_NAMES.index(thing)
    other = CLASS_NAMES.index(SAMPLES[SAMPLES.index(thing) - 1])
    supports = []
    for number in range(1, _SAMPLE_SUPPORTS + 1):
        image, label = draw_image(rng, [wanted], _SAMPLE_SIDE)
        mask = label == wanted + 1
        supports.append(Support(f"{thing} {number}", image, mask, mask))
    queries = []
    for number in range(1, _SAMPLE_QUERIES):
        image, _ = draw_image(rng, [wanted, int(rng.integers(len(CLASS_NAMES)))], _SAMPLE_SIDE)
        queries.append(Query(f"drawn {number}", image))
    queries.append(Query(f"drawn {_SAMPLE_QUERIES}", draw_image(rng, [other], _SAMPLE_SIDE)[0]))
    return Given(tuple(supports), 0, tuple(queries))


def _with_current(given: Given, support: Support) -> Given:
    supports = (*given.supports[: given.current], support, *given.supports[given.current + 1 :])
    return given._replace(supports=supports)


def _check_number(there: int, more: int, most: int, what: str) -> None:
    if there + more > most:
        raise UserError(
            f"{there + more} {what}: {most} at most, "
            + (f"and {there} are there already" if there else "take fewer")
        )
