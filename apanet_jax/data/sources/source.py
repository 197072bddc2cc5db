"""What a data set is to this project, before it becomes records."""

import dataclasses
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.images.encoded_images import open_encoded, read_bytes
from apanet_jax.data.images.image_files import existing
from apanet_jax.data.images.reader import UprightImage, decode_image
from apanet_jax.runtime.errors import UserError

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
MOST_CLASSES = 254

_MAX_PIXELS = 1 << 26
_RECORD_FORMATS = ("JPEG", "PNG")
_EITHER_WAY = "turned by EXIF, with masks that fit either way: taken as upright"


@dataclasses.dataclass(frozen=True)
class Sample:
    """An image with its label map.

    Attributes:
      name: unique in its split.
      image: an encoded JPEG or PNG.
      label: 0 background, 1..C classes, 255 ignore.
      note: what a report should count it under, if anything.
    """

    name: str
    image: bytes
    label: UInt8[np.ndarray, "height width"]
    note: str = ""


class Source(Protocol):
    """Where images and label maps come from.

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
        """Returns the names of a split's images, in the order of its list."""

    def read(self, split: Split, name: str) -> Sample:
        """Returns an image; raises UserError that names the file if it cannot be used."""


def notes_of(source: Source) -> list[str]:
    """Returns the lines in which a source says what it left out; most leave out nothing."""
    return list(getattr(source, "notes", ()))


def decode_source_image(data: bytes, path: Path) -> UprightImage:
    """Decodes an image of a data set: a JPEG or PNG of at most 67 million pixels.

    Raises:
      UserError: it is another kind, too large, cut short or damaged, or a PNG that EXIF turns:
        annotation tools differ in whether they do, and so do the masks that they make.
    """
    image = decode_image(data, path, max_pixels=_MAX_PIXELS, formats=_RECORD_FORMATS)
    if image.orientation != 1 and data.startswith(b"\x89PNG"):
        raise UserError(f"{path} is a PNG turned by its EXIF orientation: save it upright")
    return image


def read_image_size(data: bytes, path: Path) -> tuple[int, int]:
    """Decodes an image, and returns its height and width when it is upright.

    Raises:
      UserError: see `decode_source_image`.
    """
    return decode_source_image(data, path).image.shape[:2]


def read_source_image(path: Path) -> tuple[bytes, UprightImage]:
    """Reads an image file of a data set: its content, and what it decodes to.

    Raises:
      UserError: see `decode_source_image`.
    """
    data = read_bytes(path)
    return data, decode_source_image(data, path)


def labelled_sample(
    name: str, data: bytes, image: UprightImage, label: UInt8[np.ndarray, "height width"]
) -> Sample:
    """Puts an image, as `read_source_image` gives it, together with its label map.

    Raises:
      UserError: the label map has another size.
    """
    height, width = image.image.shape[:2]
    if label.shape != (height, width):
        raise UserError(
            f"{image.path} is {width}x{height} pixels and its mask "
            f"{label.shape[1]}x{label.shape[0]}: they must be of one size, with the image upright "
            "by its EXIF orientation"
        )
    either_way = image.orientation != 1 and image.stored_size == (height, width)
    return Sample(name, data, label, _EITHER_WAY if either_way else "")


def read_label(path: Path, num_classes: int) -> UInt8[np.ndarray, "height width"]:
    """Reads a label map: an 8-bit palette or gray PNG of class ids.

    Raises:
      UserError: it is missing or broken, of another kind, or holds ids that are no class.
    """
    path = existing(path)
    encoded = open_encoded(read_bytes(path), str(path), max_pixels=_MAX_PIXELS, formats=("PNG",))
    mode = encoded.opened.mode
    if mode not in ("P", "L", "1"):
        raise UserError(
            f"{path} has mode {mode}, expected a palette or gray PNG of class ids with 8 bits: "
            "colours must be mapped to ids first"
        )
    label = encoded.upright(np.array(encoded.decode(), np.uint8))
    outside = sorted(set(np.unique(label).tolist()) - {*range(num_classes + 1), IGNORE})
    if outside:
        raise UserError(
            f"{path} holds the ids {outside[:5]}, expected 0 to {num_classes} or 255: mend the "
            "mask or the list of classes"
        )
    return label


def read_names(path: Path) -> list[str]:
    """Reads a list file: one image's name a line, which may have spaces in it.

    Raises:
      UserError: it is missing or empty, names an image twice, or leads out of its folder.
    """
    names = [line.strip() for line in read_list(path).splitlines() if line.strip()]
    for name in names:
        check_name(name, path)
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{path} names {twice!r} more than once")
    return names


def read_list(path: Path) -> str:
    """Returns a list file's text; raises UserError if there is none or it is empty."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"list file {path} cannot be read: {error}") from error
    if not text.strip():
        raise UserError(f"list file {path} names no image")
    return text


def check_name(name: str, path: Path) -> None:
    """Raises UserError unless `name`, of the list file `path`, is a plain one in a data set."""
    leads_out = Path(name).is_absolute() or ".." in Path(name).parts
    if leads_out or not Path(name).name or not name.isprintable() or len(name) > 200:
        raise UserError(f"{path} names {name[:200]!r}, expected a plain name inside the data set")
