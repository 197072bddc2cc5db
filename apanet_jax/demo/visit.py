"""What a visitor has entered so far: classes, supports, what is painted on them, and queries."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.synthetic import CLASS_NAMES, draw_image
from apanet_jax.inference.files.formats.instances import NO_NAME
from apanet_jax.reports import overlays
from apanet_jax.runtime.errors import UserError

MOST_CLASSES, MOST_SUPPORTS, MOST_QUERIES = 6, 10, 12
LONGEST_NAME = 40
"""Letters in the name of a class."""
COLOURS = (overlays.GIVEN, *overlays.CLUSTERS)
"""Of the classes."""
RUB_OUT = -1
"""The number of no class: what is painted is of none."""

SAMPLES = ("butterfly", "bottle", "bird")
"""Classes that the head of the package was not trained on, see configs/general.py."""
_SAMPLE_SUPPORTS, _SAMPLE_QUERIES, _SAMPLE_SIDE = 3, 4, 320
_PAINTED = 63

Image = UInt8[np.ndarray, "height width 3"]
Label = UInt8[np.ndarray, "height width"]
"""0: none, 1 + the number of the class that a pixel is of, 255: ignored."""
Size = tuple[int, int]


class Support(NamedTuple):
    """An image that shows classes.

    Attributes:
      name: of its file.
      image: as it is worked on.
      before: what was painted before the editor showed it last, None if nothing.
      label: all that is painted, None if nothing.
      size: height and width of the file's image, upright; None where it is that of `image`.
      orientation: EXIF's, of the file.
    """

    name: str
    image: Image
    before: Label | None = None
    label: Label | None = None
    size: Size | None = None
    orientation: int = 1

    @property
    def full_size(self) -> Size:
        """Height and width of the file's image."""
        return self.size or self.image.shape[:2]


class Query(NamedTuple):
    """An image to segment.

    Attributes:
      name: of its file.
      image: as it is worked on.
      size: see `Support`.
      label: what was found in it last, None before.
    """

    name: str
    image: Image
    size: Size | None = None
    label: Label | None = None

    @property
    def full_size(self) -> Size:
        """Height and width of the file's image."""
        return self.size or self.image.shape[:2]


class Visit(NamedTuple):
    """All that a visitor has entered.

    Attributes:
      supports: `MOST_SUPPORTS` at most.
      current: number of the support that is being painted on.
      queries: `MOST_QUERIES` at most.
      classes: names, `MOST_CLASSES` at most.
      painting: number of the class that is being painted, or `RUB_OUT`.
    """

    supports: tuple[Support, ...] = ()
    current: int = 0
    queries: tuple[Query, ...] = ()
    classes: tuple[str, ...] = (NO_NAME,)
    painting: int = 0

    @property
    def shown(self) -> Support | None:
        """The support that is being painted on."""
        return self.supports[self.current] if self.supports else None


def classes_on(support: Support) -> list[int]:
    """Returns the numbers of the classes that are painted on a support."""
    if support.label is None:
        return []
    return [int(x) - 1 for x in np.unique(support.label) if x not in (0, IGNORE)]


def unpainted(visit: Visit) -> list[int]:
    """Returns the numbers of the supports on which no class is painted, from 0 on."""
    return [i for i, support in enumerate(visit.supports) if not classes_on(support)]


def unshown(visit: Visit) -> list[str]:
    """Returns the names of the classes that are painted nowhere."""
    shown = {number for support in visit.supports for number in classes_on(support)}
    return [name for number, name in enumerate(visit.classes) if number not in shown]


def with_painted(visit: Visit, editor: Mapping[str, Any] | None) -> Visit:
    """Returns the visit with what the editor shows painted on the current support.

    Args:
      visit: so far.
      editor: its value; `layers` are RGBA, opaque where something was painted in it.
    """
    support = visit.shown
    if support is None:
        return visit
    height, width = support.image.shape[:2]
    label = np.zeros((height, width), np.uint8) if support.before is None else support.before.copy()
    for layer in (editor or {}).get("layers") or ():
        alpha = layer[..., 3]
        if alpha.shape != label.shape:
            alpha = cv2.resize(alpha, (width, height), interpolation=cv2.INTER_NEAREST)
        label[alpha > _PAINTED] = visit.painting + 1
    return with_current(visit, support._replace(label=label if label.any() else None))


def shown_again(visit: Visit) -> Visit:
    """Returns the visit when the editor shows the current support with all that is painted."""
    if visit.shown is None:
        return visit
    return with_current(visit, visit.shown._replace(before=visit.shown.label))


def wiped(visit: Visit) -> Visit:
    """Returns the visit with nothing painted on the current support."""
    if visit.shown is None:
        return visit
    return with_current(visit, visit.shown._replace(before=None, label=None))


def without_current(visit: Visit) -> Visit:
    """Returns the visit without the support that is being painted on."""
    supports = visit.supports[: visit.current] + visit.supports[visit.current + 1 :]
    return visit._replace(supports=supports, current=max(min(visit.current, len(supports) - 1), 0))


def with_class(visit: Visit, name: str) -> Visit:
    """Returns the visit with a class of this name, which is the one that is being painted.

    The class without a name takes it, until there is another or it is painted somewhere.

    Raises:
      UserError: these are too many, or the name is too long or none.
    """
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME:
        raise UserError(f"A class has a name of 1 to {LONGEST_NAME} letters.")
    if name in visit.classes:
        return visit._replace(painting=visit.classes.index(name))
    if visit.classes == (NO_NAME,) and unshown(visit):
        return visit._replace(classes=(name,), painting=0)
    check_number(len(visit.classes), 1, MOST_CLASSES, "classes")
    return visit._replace(classes=(*visit.classes, name), painting=len(visit.classes))


def with_corrected(visit: Visit, number: int) -> Visit:
    """Returns the visit with a query among the supports, with the mask that was found in it.

    Raises:
      UserError: these are too many, or nothing was searched for in it yet.
    """
    query = visit.queries[number]
    if query.label is None:
        raise UserError(f"{query.name} has no mask yet to correct: press the button first.")
    check_number(len(visit.supports), 1, MOST_SUPPORTS, "images that show the classes")
    label = query.label if query.label.any() else None
    support = Support(query.name, query.image, label, label, query.size)
    return visit._replace(
        supports=(*visit.supports, support),
        current=len(visit.supports),
        queries=visit.queries[:number] + visit.queries[number + 1 :],
    )


def drawn_sample(name: str) -> Visit:
    """Draws supports of a class with their masks, and queries: the last one shows another class."""
    rng = np.random.default_rng(CLASS_NAMES.index(name))
    wanted = CLASS_NAMES.index(name)
    other = CLASS_NAMES.index(SAMPLES[SAMPLES.index(name) - 1])
    supports = []
    for number in range(1, _SAMPLE_SUPPORTS + 1):
        image, label = draw_image(rng, [wanted], _SAMPLE_SIDE)
        painted = (label == wanted + 1).astype(np.uint8)
        supports.append(Support(f"{name} {number}", image, painted, painted))
    queries = []
    for number in range(1, _SAMPLE_QUERIES):
        image, _ = draw_image(rng, [wanted, int(rng.integers(len(CLASS_NAMES)))], _SAMPLE_SIDE)
        queries.append(Query(f"drawn {number}", image))
    queries.append(Query(f"drawn {_SAMPLE_QUERIES}", draw_image(rng, [other], _SAMPLE_SIDE)[0]))
    return Visit(tuple(supports), 0, tuple(queries), (name,))


def with_current(visit: Visit, support: Support) -> Visit:
    """Returns the visit with another support in place of the current one."""
    supports = (*visit.supports[: visit.current], support, *visit.supports[visit.current + 1 :])
    return visit._replace(supports=supports)


def check_number(there: int, more: int, most: int, what: str) -> None:
    """Refuses more of something than there may be.

    Raises:
      UserError: these are too many.
    """
    if there + more > most:
        raise UserError(
            f"{there + more} {what}: {most} at most, "
            + (f"and {there} are there already" if there else "take fewer")
        )
