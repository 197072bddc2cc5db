"""Supports as they are given to a segmenter, fitted into its matcher's square."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.transforms import IGNORE, fit_square
from apanet_jax.inference.geometry import Grid, square_label
from apanet_jax.inference.inputs import Image, as_image, several, support_label
from apanet_jax.runtime.errors import UserError


class Support(NamedTuple):
    """A support of a class.

    Attributes:
      square: see `fit_square`.
      label: in the square: 1 where the class is, 0 elsewhere, 255 outside or ignored.
      size: height and width of the image as it was given.
      files: image and mask of each mask that was given; "" for what was no file.
      features: of the image; None: not yet embedded.
    """

    square: UInt8[np.ndarray, "size size 3"]
    label: UInt8[np.ndarray, "size size"]
    size: tuple[int, int]
    files: tuple[tuple[str, str], ...]
    features: Any = None


def given_supports(
    images: Iterable[Image], masks: Iterable[Any], classes: Iterable[str] | None, grid: Grid
) -> dict[str, dict[bytes, Support]]:
    """Returns for each class its supports by the bytes of their squares, not yet embedded.

    Args:
      images: see `Segmenter.fit`.
      masks: see `Segmenter.fit`.
      classes: see `Segmenter.fit`.
      grid: of the matcher.

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
    found: dict[str, dict[bytes, Support]] = {}
    for number, (given, mask, name) in enumerate(zip(images, masks, names, strict=True), 1):
        what = str(given) if isinstance(given, str | os.PathLike) else f"support {number}"
        image = as_image(given, what)
        label = square_label(support_label(mask, image, what, name or None), grid)
        square, files = square_image(image.image, grid), ((_path(given), _path(mask)),)
        of_class, key = found.setdefault(name, {}), square.tobytes()
        if key in of_class:
            if (of_class[key].label == label).all():
                raise UserError(f"{what} is given twice{f' for {name}' if name else ''}")
            label = _joined(of_class[key].label, label)
            files = (*of_class[key].files, *files)
        of_class[key] = Support(square, label, image.image.shape[:2], files)
    return found


def square_image(
    image: UInt8[np.ndarray, "height width 3"], grid: Grid
) -> UInt8[np.ndarray, "size size 3"]:
    """Returns an image in the square, see `fit_square`."""
    label = np.zeros(image.shape[:2], np.uint8)
    return fit_square(image, label, grid.size, grid.stride)[0]


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


def _joined(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns the label of an image of which two masks show objects of one class."""
    ignored = (first == IGNORE) | (second == IGNORE)
    return np.where((first == 1) | (second == 1), 1, ignored * np.uint8(IGNORE)).astype(np.uint8)
