"""Supports as a segmenter is given them, fitted into its matcher's square, and as it saves them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from apanet_jax.inference.matching.calibration import negative_label
from apanet_jax.inference.matching.geometry import Grid, fitted_square
from apanet_jax.inference.matching.presence import Prototype
from apanet_jax.inference.multiscale.scales import Scales, SupportView
from apanet_jax.inference.supports.inputs import Image, as_image, several, support_label
from apanet_jax.inference.supports.saved_segmenter import Contents, SavedImage, SavedSupport
from apanet_jax.runtime.errors import UserError

_Files = tuple[tuple[str, str], ...]


class Support(NamedTuple):
    """A support of a class.

    Attributes:
      square: see `fit_square`.
      label: in the square: 1 where the class is, 0 elsewhere, 255 outside or ignored.
      size: height and width of what is seen of the image as it was given.
      files: image and mask of each mask that was given; "" for what was no file.
      features: of the image; None: not yet embedded.
      zoom: by how much larger the object is than in the whole image, see `scales`.
      prototype: see `Matcher.prototype`; None: not yet known, and of a negative.
    """

    square: UInt8[np.ndarray, "size size 3"]
    label: UInt8[np.ndarray, "size size"]
    size: tuple[int, int]
    files: tuple[tuple[str, str], ...]
    features: Any = None
    zoom: float = 1.0
    prototype: Prototype | None = None


def given_supports(
    images: Iterable[Image], masks: Iterable[Any], classes: Iterable[str] | None, scales: Scales
) -> dict[str, dict[str, Support]]:
    """Returns for each class its supports by the digests of their images, not yet embedded.

    Args:
      images: see `Segmenter.fit`.
      masks: see `Segmenter.fit`.
      classes: see `Segmenter.fit`.
      scales: at which supports may be seen.

    Raises:
      UserError: something cannot be used.
    """
    images = list(several(images, "images", of_one=3))
    masks = list(several(masks, "masks", of_one=2))
    names = [""] * len(images) if classes is None else _class_names(classes)
    if not images:
        raise UserError("no support: give at least one image with a mask")
    if not len(images) == len(masks) == len(names):
        raise UserError(
            f"{len(images)} support images, {len(masks)} masks and {len(names)} classes: "
            "expected the same number of each"
        )
    found: dict[str, dict[str, tuple[SupportView, _Files]]] = {}
    for number, (given, mask, name) in enumerate(zip(images, masks, names, strict=True), 1):
        what = str(given) if isinstance(given, str | os.PathLike) else f"support {number}"
        image = as_image(given, what)
        view = scales.view(image.image, support_label(mask, image, what, name or None))
        files: _Files = ((_path(given), _path(mask)),)
        of_class, digest = found.setdefault(name, {}), hashlib.sha256(view.square).hexdigest()
        if digest in of_class:
            earlier, of_earlier = of_class[digest]
            if earlier.has_label_of(view):
                raise UserError(f"{what} is given twice{f' for {name}' if name else ''}")
            view, files = earlier.joined_with(view), (*of_earlier, *files)
        of_class[digest] = view, files
    return {
        name: {digest: _support(scales.support(x), files) for digest, (x, files) in y.items()}
        for name, y in found.items()
    }


def given_negatives(images: Iterable[Image], grid: Grid) -> dict[str, Support]:
    """Returns images that show no class by the digests of their squares, not yet embedded.

    Raises:
      UserError: one cannot be used, or is given twice.
    """
    found: dict[bytes, Support] = {}
    for number, given in enumerate(several(images, "negatives", of_one=3), 1):
        what = str(given) if isinstance(given, str | os.PathLike) else f"negative {number}"
        image = as_image(given, what).image
        square, size = fitted_square(image, grid), image.shape[:2]
        key = hashlib.sha256(square).hexdigest()
        if key in found:
            raise UserError(f"{what} is given twice as a negative")
        label = negative_label(size, grid)
        found[key] = Support(square, label, size, ((_path(given), ""),))
    return found


def packed(
    kept: Mapping[str | None, Mapping[str, Support]],
    stored: Callable[[Any], Mapping[str, np.ndarray]],
) -> tuple[tuple[SavedSupport, ...], tuple[SavedImage, ...]]:
    """Returns supports as they are saved, and their images, each once.

    Args:
      kept: by class, None for negatives, and by digest.
      stored: `Matcher.stored`.
    """
    images: dict[bytes, tuple[int, SavedImage]] = {}
    supports = []
    for name, of_class in kept.items():
        for digest, x in of_class.items():
            if (content := x.square.tobytes()) not in images:
                images[content] = len(images), SavedImage(x.square, stored(x.features))
            number, _ = images[content]
            supports.append(
                SavedSupport(name, number, x.size, x.files, x.label, x.zoom, digest, x.prototype)
            )
    return tuple(supports), tuple(image for _, image in images.values())


def unpacked(
    contents: Contents, restored: Callable[[Mapping[str, np.ndarray]], Any] | None
) -> dict[str | None, dict[str, Support]]:
    """Returns the supports that `packed` was given.

    Args:
      contents: of a saved segmenter.
      restored: `Matcher.restored`; None: of another matcher, by which they are not yet embedded.
    """
    features = [restored and restored(x.features) for x in contents.images]
    kept: dict[str | None, dict[str, Support]] = {}
    for name, image, size, files, label, zoom, digest, prototype in contents.supports:
        square = contents.images[image].square
        support = Support(square, label, size, files, features[image], zoom, restored and prototype)
        kept.setdefault(name, {})[digest] = support
    return kept


def _support(view: SupportView, files: _Files) -> Support:
    return Support(view.square, view.label, view.size, files, zoom=view.zoom)


def _class_names(classes: Iterable[str]) -> list[str]:
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise UserError(
            f"classes={classes!r}: expected a list with the name of each support's class"
        )
    names = list(classes)
    for name in names:
        if not isinstance(name, str | int | np.integer) or name == "":
            raise UserError(f"the class {name!r} is no name: expected strings that are not empty")
    return names


def _path(given: Any) -> str:
    return os.fspath(given) if isinstance(given, str | os.PathLike) else ""
