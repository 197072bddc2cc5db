"""The one reader of images behind every command: from a file to upright RGB pixels.

An image has the same pixels, size and orientation wherever it is read: when records are prepared,
when they are trained on, and in `predict`. Which files are let in stands in `encoded_images`.
"""

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, ImageFileDirectory_v2

from apanet_jax.data.images.encoded_images import (
    FORMATS,
    MAX_PIXELS,
    Encoded,
    UnknownToPillow,
    check_pixels,
    open_encoded,
    read_bytes,
)
from apanet_jax.data.images.exif import exif_orientation, turned_upright, without_metadata
from apanet_jax.data.images.gray_levels import stretched
from apanet_jax.runtime.errors import UserError

_TIFF_NO_DATA = 42113
_AVERAGED_MODES = ("RGB", "L", "CMYK", "YCbCr")
"""Pillow's modes whose values may be averaged."""
_DEEP_MODES = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits."""


class UprightImage(NamedTuple):
    """An image as it is to be seen.

    Attributes:
      image: `[height, width, 3]`, RGB, 0 to 255.
      path: of its file, if there is one.
      orientation: EXIF's, 1 to 8: how the stored pixels were turned to be upright.
      full_size: height and width of the image in its file, where `image` is smaller.
    """

    image: UInt8[np.ndarray, "height width 3"]
    path: Path | None = None
    orientation: int = 1
    full_size: tuple[int, int] | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image in its file."""
        height, width = self.full_size or self.image.shape[:2]
        return height, width

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width of the pixels as the file stores them."""
        height, width = self.size
        return (width, height) if self.orientation >= 5 else (height, width)


def read_image(
    path: Path, *, max_pixels: int = MAX_PIXELS, side: int | None = None
) -> UprightImage:
    """Reads an image file (see `decode_image`).

    Raises:
      UserError: it cannot be read, is of another kind, too large, cut short or damaged.
    """
    return decode_image(read_bytes(path), path, max_pixels=max_pixels, side=side)


def decode_image(
    data: bytes,
    path: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = tuple(FORMATS),
    side: int | None = None,
) -> UprightImage:
    """Decodes an image: its first frame, upright, as RGB.

    Gray images of more than 8 bits are stretched to 0 to 255 (see `stretched`). What is transparent
    keeps its colour.

    Args:
      data: the file's content.
      path: its name, for messages.
      max_pixels: a larger image is refused before it is decoded.
      formats: which of `FORMATS` are allowed.
      side: longer side that is enough: an image of twice that or more is made smaller by a whole
        factor, each pixel the mean of those that it stands for, and of a JPEG no more is decoded.
        None: the image as it is.

    Raises:
      UserError: it is of another kind, too large, cut short or damaged.
    """
    try:
        encoded = open_encoded(data, str(path), max_pixels=max_pixels, formats=formats)
    except UnknownToPillow:
        return UprightImage(_decode_tiff_by_opencv(data, str(path), max_pixels), path)
    size, factor = encoded.size, max(encoded.size) // side if side else 1
    if factor < 2:
        return UprightImage(upright_pixels(encoded), path, encoded.orientation)
    return UprightImage(_reduced(encoded, factor), path, encoded.orientation, size)


def upright_pixels(encoded: Encoded) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an opened image's pixels as `decode_image` does.

    Raises:
      UserError: it is cut short or damaged.
    """
    deep = encoded.decode().mode.startswith(_DEEP_MODES)
    return encoded.upright(_gray(encoded) if deep else _rgb(encoded))


def _reduced(encoded: Encoded, factor: int) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an opened image's pixels, made smaller by a whole factor or nearly so.

    At no time are there more pixels in memory than one decoder's own.
    """
    size = [-(-n // factor) for n in encoded.opened.size]
    encoded.opened.draft(None, (size[0], size[1]))
    image = encoded.decode()
    if image.mode not in _AVERAGED_MODES:
        pixels = upright_pixels(encoded)
        size = -(-pixels.shape[1] // factor), -(-pixels.shape[0] // factor)
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    left = max(max(image.size) // max(size), 1)
    return encoded.upright(np.array(image.reduce(left).convert("RGB")))


def decode_verified(data: bytes) -> UInt8[np.ndarray, "height width 3"] | None:
    """Returns what `decode_image` does of a JPEG or PNG that it has read before, in half the time.

    That the file is whole is not checked again; None where it cannot be decoded at all.
    """
    stripped, exif = without_metadata(data)
    if _is_deep_gray_png(stripped):
        return decode_image(data, Path("image")).image
    pixels = _decoded_by_opencv(stripped)
    return None if pixels is None else turned_upright(pixels, exif_orientation(exif))


def decode_stored(data: bytes, name: str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Returns the pixels of an image file as it stores them, neither turned nor made RGB.

    Raises:
      UserError: it is of another kind, too large, cut short or damaged.
    """
    return np.array(open_encoded(data, name, max_pixels=max_pixels).decode())


def _gray(encoded: Encoded) -> UInt8[np.ndarray, "h w 3"]:
    no_data = None
    if encoded.format == "TIFF":
        with contextlib.suppress(Exception):  # A damaged tag can raise nearly anything.
            no_data = float(encoded.opened.tag_v2.get(_TIFF_NO_DATA))
    gray = _stretched_or_refused(np.asarray(encoded.opened), encoded.name, no_data)
    return np.stack([gray] * 3, -1)


def _rgb(encoded: Encoded) -> UInt8[np.ndarray, "h w 3"]:
    if encoded.format in ("JPEG", "PNG"):
        # Pillow has checked that the file is whole, and would hold its pixels besides.
        encoded.opened.close()
        # As records are read: decoders differ in rounding.
        pixels = _decoded_by_opencv(encoded.data)
        if pixels is None or pixels.shape[:2] != encoded.opened.size[::-1]:
            raise UserError(f"{encoded.name} is cut short or damaged")
        return pixels
    image = encoded.opened
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _decoded_by_opencv(data: bytes) -> UInt8[np.ndarray, "h w 3"] | None:
    try:
        return cv2.imdecode(
            np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
        )
    except cv2.error:
        return None


def _decode_tiff_by_opencv(
    data: bytes, name: str, max_pixels: int
) -> UInt8[np.ndarray, "height width 3"]:
    """Decodes a TIFF that Pillow does not know; OpenCV turns it upright."""
    values = no_data = None
    try:
        # A big TIFF's header has 16 bytes.
        tags = ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        width, height = int(tags[IMAGEWIDTH]), int(tags[IMAGELENGTH])
        with contextlib.suppress(TypeError, ValueError):
            no_data = float(tags.get(_TIFF_NO_DATA))
    except Exception as error:  # A damaged file can raise nearly anything.
        raise UserError(f"{name} is no image that can be read: it is damaged") from error
    check_pixels(width, height, max_pixels, name)
    with contextlib.suppress(cv2.error):
        # Gray or more than three channels of floating point fail with any other flag.
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim == 3 and values.shape[-1] not in (3, 4):
        raise UnknownToPillow(name)
    values = np.stack([values] * 3, -1) if values.ndim == 2 else values[..., 2::-1]
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    gray = _stretched_or_refused(values.reshape(len(values), -1), name, no_data)
    return gray.reshape(values.shape)


def _stretched_or_refused(
    values: np.ndarray, name: str, no_data: float | None = None
) -> UInt8[np.ndarray, "h w"]:
    gray = stretched(values.astype(np.float32, copy=False), no_data)
    if gray is None:
        raise UserError(f"{name} holds no finite value: there is nothing to see in it")
    return gray


def _is_deep_gray_png(data: bytes) -> bool:
    """Returns whether a PNG is gray with 16 bits, by its header."""
    return data[12:16] == b"IHDR" and data[24:26] in (b"\x10\x00", b"\x10\x04")
