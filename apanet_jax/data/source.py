"""What a data set is to this project, before it becomes records."""

import dataclasses
import io
import warnings
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from apanet_jax.runtime.errors import UserError

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
IGNORE = 255
_LARGEST_PICTURE = 1 << 26
"""Pixels; more are taken for a decompression bomb."""
_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


@dataclasses.dataclass(frozen=True)
class Sample:
    """A picture with its label.

    Attributes:
      name: unique in its split.
      image: an encoded JPEG or PNG.
      label: 0 background, 1..C classes, 255 ignore.
    """

    name: str
    image: bytes
    label: UInt8[np.ndarray, "height width"]


class Source(Protocol):
    """Where pictures and labels come from.

    Attributes:
      name: of the data set.
      class_names: of the classes 1..C, in order.
      folds: for each fold the names of the classes that are novel in it.
      origin: where it comes from and what was chosen in reading it; interrupted writing goes on
        with a source of the same origin only.
    """

    name: str
    class_names: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    origin: str

    def names(self, split: Split) -> list[str]:
        """Returns the names of a split's pictures, in the order of its list."""

    def read(self, split: Split, name: str) -> Sample:
        """Returns a picture; raises UserError that names the file if it cannot be used."""


def read_image_size(data: bytes, path: Path) -> tuple[int, int]:
    """Decodes a picture, and returns its height and width as it is seen: upright.

    A photograph that its EXIF orientation turns is seen turned, here and wherever records are read.

    Raises:
      UserError: it cannot be decoded, or is unreasonably large.
    """
    with _open(data, path) as picture:
        _load(picture, path)
        orientation = _orientation(picture)
        if picture.format == "PNG" and orientation != 1:
            # Programs differ in whether they turn these.
            raise UserError(f"{path} is a PNG turned by its EXIF orientation: save it upright")
        size = picture.height, picture.width
        return size[::-1] if orientation in _LYING else size


def read_label(path: Path, num_classes: int) -> UInt8[np.ndarray, "height width"]:
    """Reads a label: an 8-bit palette or gray PNG of class ids.

    Raises:
      UserError: it is missing or broken, of another kind, or holds ids that are no class.
    """
    with _open(read_bytes(path), path) as picture:
        if picture.mode not in ("P", "L", "1"):
            raise UserError(
                f"{path} has mode {picture.mode}, expected a palette or gray PNG of class ids with "
                "8 bits: colours must be mapped to ids first"
            )
        _load(picture, path)
        label = np.array(picture, np.uint8)
    outside = sorted(set(np.unique(label).tolist()) - {*range(num_classes + 1), IGNORE})
    if outside:
        raise UserError(
            f"{path} holds the ids {outside[:5]}, expected 0 to {num_classes} or 255: mend the "
            "mask or the list of classes"
        )
    return label


def read_bytes(path: Path) -> bytes:
    """Returns a file's content; raises UserError if there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise UserError(f"{path} is empty, expected a picture")
    return data


def read_names(path: Path) -> list[str]:
    """Reads a list file: one picture's name a line.

    Raises:
      UserError: it is missing or empty, names a picture twice, or leads out of its folder.
    """
    try:
        names = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list file {path} cannot be read: {error}") from error
    if not names:
        raise UserError(f"list file {path} names no picture")
    for name in names:
        leads_out = Path(name).is_absolute() or ".." in Path(name).parts
        if leads_out or not Path(name).name or not name.isprintable() or len(name) > 200:
            raise UserError(
                f"{path} names {name[:200]!r}, expected a plain name inside the data set"
            )
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names {twice!r} more than once")
    return names


def check_same_size(path: Path, size: tuple[int, int], label: np.ndarray) -> None:
    """Raises UserError unless a label has its picture's size."""
    if label.shape != size:
        raise UserError(
            f"{path} is {size[1]}x{size[0]} pixels and its mask {label.shape[1]}x{label.shape[0]}: "
            "they must be of one size, with the picture upright by its EXIF orientation"
        )


def _open(data: bytes, path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = Image.open(io.BytesIO(data))
    except Exception as error:  # A damaged file can raise nearly anything.
        raise UserError(f"{path} is no picture that can be read") from error
    if picture.format not in ("JPEG", "PNG"):
        raise UserError(f"{path} is {picture.format}, expected JPEG or PNG: convert it")
    if picture.width * picture.height > _LARGEST_PICTURE:
        raise UserError(f"{path} says it has {picture.width}x{picture.height} pixels: too many")
    return picture


def _load(picture: Image.Image, path: Path) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture.load()
    except Exception as error:  # A damaged file can raise nearly anything.
        raise UserError(f"{path} is cut short or damaged") from error


def _orientation(picture: Image.Image) -> int:
    try:
        return picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # What cannot be read turns nothing, for OpenCV neither.
        return 1
