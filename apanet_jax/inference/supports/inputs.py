"""Images and masks as Python code gives them to a segmenter: arrays, PIL images or files."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image as PILImage

from apanet_jax.data.annotations.mask_values import label_of_values
from apanet_jax.data.annotations.masks import read_mask
from apanet_jax.data.images.reader import UprightImage, read_image
from apanet_jax.runtime.errors import UserError

Array = UInt8[np.ndarray, "height width 3"]
Image = Array | PILImage.Image | UprightImage | str | os.PathLike
"""An image: an array (RGB or gray, 0 to 255), a PIL image, one that was read, or a file."""

_PIL_MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
)


def several(given: Iterable[Any], what: str, of_one: int) -> Iterable[Any]:
    """Returns what was given where it is several of something, and not one of them.

    Args:
      given: a list, a tuple, any other iterable, or an array whose first axis counts them.
      what: "images" or "masks", for the message.
      of_one: most axes of an array that is one of them.

    Raises:
      UserError: it is one image or mask, or nothing to iterate over.
    """
    kind = None
    if isinstance(given, str | bytes | os.PathLike):
        kind = f"the one path {given!s}"
    elif isinstance(given, PILImage.Image | Mapping):
        kind = f"one {type(given).__name__}"
    elif hasattr(given, "ndim") and 1 < given.ndim <= of_one:
        kind = f"one array of shape {tuple(given.shape)}"
    elif not isinstance(given, Iterable):
        kind = f"a {type(given).__name__}"
    if kind:
        raise UserError(f"expected a list of {what}, not {kind}: put it into brackets, [ ]")
    return given


def as_image(given: Image, what: str, side: int | None = None) -> UprightImage:
    """Returns an image: read if it is a file, checked if it is an array.

    A PIL image is taken as it lies; a file is turned upright by its EXIF orientation.

    Args:
      given: the image.
      what: names an array in messages.
      side: longer side that is enough of a file's image, see `read_image`; None: all of it.

    Raises:
      UserError: it cannot be used.
    """
    if isinstance(given, UprightImage):
        return given
    if isinstance(given, str | os.PathLike):
        return read_image(Path(given), side=side)
    image = _of_pil(given, what) if isinstance(given, PILImage.Image) else _array(given, what)
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or 0 in image.shape:
        raise UserError(
            f"{what} is an array of shape {image.shape} and type {image.dtype}, expected "
            "[height, width, 3] or [height, width] of uint8"
        )
    if image.ndim == 2:
        image = np.stack([image] * 3, -1)
    if image.shape[-1] not in (3, 4):
        raise UserError(
            f"{what} is an array of shape {image.shape}: expected 3 channels, RGB, in the last axis"
        )
    return UprightImage(np.ascontiguousarray(image[..., :3]))


def support_label(
    mask: Any, image: UprightImage, what: str, class_name: str | None
) -> UInt8[np.ndarray, "height width"]:
    """Returns a support's label: 1 where the class is, 0 elsewhere, 255 to ignore.

    Args:
      mask: an array or a PIL image of the image's size, or a file (see `masks.read_mask`).
      image: the support.
      what: names the support in messages.
      class_name: a label to prefer in a file that holds several.

    Raises:
      UserError: it cannot be used, or has no foreground or no background.
    """
    where = f"the mask of {what}"
    if isinstance(mask, str | os.PathLike):
        label, where = read_mask(Path(mask), image, class_name), f"the mask {mask}"
    else:
        mask = _array(mask, where)
        if mask.shape != image.image.shape[:2]:
            raise UserError(
                f"{where} has the shape {mask.shape}, its image {image.image.shape[:2]}: they must "
                "be of one size"
            )
        label = label_of_values(mask, where)
    if not (label == 1).any():
        raise UserError(f"{where} has no foreground: nothing shows what to find")
    if not (label == 0).any():
        raise UserError(f"{where} covers all of its image: background is needed too")
    return label


def _of_pil(given: PILImage.Image, what: str) -> UInt8[np.ndarray, "height width 3"]:
    if given.mode not in _PIL_MODES:
        raise UserError(
            f"{what} is a PIL image of mode {given.mode}: convert it to RGB or L first, or give "
            "its file"
        )
    try:
        return np.array(given.convert("RGB"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"{what} is a PIL image that cannot be decoded: {error}") from error


def _array(given: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(given)
    except Exception as error:  # Objects that cannot become arrays raise nearly anything.
        raise UserError(f"{what} is a {type(given).__name__} that is no array: {error}") from error
