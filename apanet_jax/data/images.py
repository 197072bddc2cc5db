"""The one reader of images behind every command: from a file to upright RGB pixels.

An image has the same pixels, size and orientation wherever it is read: when records are prepared,
when they are trained on, and in `predict`. Files of other kinds than `FORMATS` never reach a
decoder, and an image that says to be larger than the caller allows is refused before it is decoded.
Nothing here changes a setting of the process, so any number of threads may read at once.
"""

import contextlib
import io
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import UInt8
from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import (
    IMAGELENGTH,
    IMAGEWIDTH,
    ImageFileDirectory_v2,
    TiffImageFile,
)
from PIL.WebPImagePlugin import WebPImageFile

from apanet_jax.data.exif import exif_orientation, turned_upright, without_metadata
from apanet_jax.data.gray_levels import stretched
from apanet_jax.runtime.errors import UserError

MAX_PIXELS = 400_000_000
"""Whole slides and stitched panoramas are below it."""

FORMATS: dict[str, type[ImageFile.ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "TIFF": TiffImageFile,
    "BMP": BmpImageFile,
    "WEBP": WebPImageFile,
    "GIF": GifImageFile,
    "PPM": PpmImageFile,
    "AVIF": AvifImageFile,
}
"""What is read. An animation is its first frame; a second image in a camera's JPEG is not read."""

_BEGINNINGS = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
    b"BM": "BMP",
    **dict.fromkeys((b"GIF87a", b"GIF89a"), "GIF"),
    **dict.fromkeys((b"P1", b"P2", b"P3", b"P4", b"P5", b"P6", b"Pf"), "PPM"),
}
_BOXED = {b"avif": "AVIF", b"avis": "AVIF"}
_NOT_READ = {
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1", b"hevc"), "HEIC"),
}
_TIFF_ORIENTATION, _TIFF_NO_DATA = 0x0112, 42113
_DEEP_MODES = ("I", "F")
"""First letters of Pillow's modes with more than 8 bits."""


class UprightImage(NamedTuple):
    """An image as it is to be seen.

    Attributes:
      image: `[height, width, 3]`, RGB, 0 to 255.
      path: of its file, if there is one.
      orientation: EXIF's, 1 to 8: how the stored pixels were turned to be upright.
    """

    image: UInt8[np.ndarray, "height width 3"]
    path: Path | None = None
    orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width of the pixels as the file stores them."""
        height, width = self.image.shape[:2]
        return (width, height) if self.orientation >= 5 else (height, width)


class Encoded(NamedTuple):
    """An image file of an allowed kind and size whose pixels are not decoded yet.

    Attributes:
      opened: Pillow's image; its size is the stored one, except in TIFF, which Pillow turns.
      data: the file without its metadata.
      format: one of `FORMATS`.
      orientation: EXIF's, 1 to 8.
      name: of the file, for messages.
    """

    opened: ImageFile.ImageFile
    data: bytes
    format: str
    orientation: int
    name: str

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the image when it is upright."""
        width, height = self.opened.size
        turned = self.orientation >= 5 and self.format != "TIFF"
        return (width, height) if turned else (height, width)

    def decode(self) -> ImageFile.ImageFile:
        """Returns Pillow's image with its stored pixels decoded, whatever mode they have.

        Raises:
          UserError: the file is cut short or damaged.
        """
        try:
            self.opened.load()
        except Exception as error:  # A damaged file can raise nearly anything.
            raise UserError(f"{self.name} is cut short or damaged") from error
        return self.opened

    def upright(self, stored: np.ndarray) -> np.ndarray:
        """Returns stored pixels `[h, w, …]`, as `decode` gives them, turned upright."""
        if self.format == "TIFF":
            return stored
        return turned_upright(stored, self.orientation)


def read_bytes(path: Path) -> bytes:
    """Returns a file's content; raises UserError if there is none."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if not data:
        raise UserError(f"{path} is empty, expected an image")
    return data


def read_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> UprightImage:
    """Reads an image file (see `decode_image`).

    Raises:
      UserError: it cannot be read, is of another kind, too large, cut short or damaged.
    """
    return decode_image(read_bytes(path), path, max_pixels=max_pixels)


def decode_image(
    data: bytes,
    path: Path,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = tuple(FORMATS),
) -> UprightImage:
    """Decodes an image: its first frame, upright, as RGB.

    Gray images of more than 8 bits are stretched to 0 to 255 (see `stretched`). What is transparent
    keeps its colour.

    Args:
      data: the file's content.
      path: its name, for messages.
      max_pixels: a larger image is refused before it is decoded.
      formats: which of `FORMATS` are allowed.

    Raises:
      UserError: it is of another kind, too large, cut short or damaged.
    """
    try:
        encoded = open_encoded(data, str(path), max_pixels=max_pixels, formats=formats)
    except _UnknownToPillow:
        return UprightImage(_decode_tiff_by_opencv(data, str(path), max_pixels), path)
    return UprightImage(upright_pixels(encoded), path, encoded.orientation)


def upright_pixels(encoded: Encoded) -> UInt8[np.ndarray, "height width 3"]:
    """Returns an opened image's pixels as `decode_image` does.

    Raises:
      UserError: it is cut short or damaged.
    """
    deep = encoded.decode().mode.startswith(_DEEP_MODES)
    return encoded.upright(_gray(encoded) if deep else _rgb(encoded))


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


def open_encoded(
    data: bytes,
    name: str,
    *,
    max_pixels: int = MAX_PIXELS,
    formats: Collection[str] = tuple(FORMATS),
    page: int = 0,
) -> Encoded:
    """Opens an image file without decoding its pixels.

    Args:
      data: the file's content.
      name: what messages call it.
      max_pixels: a larger image is refused.
      formats: which of `FORMATS` are allowed.
      page: of a TIFF, from 0 on.

    Raises:
      UserError: it is of another kind, or too large.
    """
    kind = _format_of(data)
    if kind not in FORMATS:
        found = f" but {kind}" if kind else ""
        raise UserError(f"{name} is no image that can be read{found}: {_allowed(formats)}")
    if kind not in formats:
        raise UserError(f"{name} is {kind}: {_allowed(formats)}, convert it")
    stripped, exif = without_metadata(data)
    try:
        # The classes themselves: `Image.open` tries every format there is, and knows one limit of
        # pixels for the whole process.
        opened = FORMATS[kind](io.BytesIO(stripped))
        if kind == "TIFF":
            opened.seek(page)
            given = opened.tag_v2.get(_TIFF_ORIENTATION)
            orientation = given if given in range(1, 9) else 1
        else:
            orientation = exif_orientation(exif or opened.info.get("exif", b""))
    except Exception as error:  # A damaged file can raise nearly anything.
        if kind == "TIFF":
            raise _UnknownToPillow(name) from error
        raise UserError(f"{name} is no image that can be read: it is damaged") from error
    _check_pixels(opened.width, opened.height, max_pixels, name)
    return Encoded(opened, stripped, kind, orientation, name)


class _UnknownToPillow(UserError):
    """A TIFF of a kind that Pillow does not read: floating point colours, for one."""

    def __init__(self, name: str):
        super().__init__(
            f"{name} is a kind of TIFF that cannot be read: save it with 8 bits a channel"
        )


def _format_of(data: bytes) -> str | None:
    """Returns what kind of image a file's first bytes say it is; None: of no known kind."""
    for beginning, kind in _BEGINNINGS.items():
        if data.startswith(beginning):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    if data[4:8] == b"ftyp":
        brands = data[8 : min(int.from_bytes(data[:4]), 64)]
        if any(brand in brands for brand in _BOXED):
            return "AVIF"
        return _NOT_READ.get(data[8:12])
    if data[:4] == b"%!PS" or data[:4] == b"\xc5\xd0\xd3\xc6":
        return "PostScript"
    return "PDF" if data[:4] == b"%PDF" else None


def _allowed(formats: Collection[str]) -> str:
    *others, last = formats
    return f"expected {', '.join(others)} or {last}" if others else f"expected {last}"


def _check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    if width * height > max_pixels:
        most = f"{max_pixels / 1e6:.4g} million" if max_pixels >= 1e6 else f"{max_pixels}"
        raise UserError(
            f"{name} has {width}x{height} pixels, too many: {most} at most, make it smaller"
        )


def _gray(encoded: Encoded) -> UInt8[np.ndarray, "h w 3"]:
    no_data = None
    if encoded.format == "TIFF":
        with contextlib.suppress(Exception):  # A damaged tag can raise nearly anything.
            no_data = float(encoded.opened.tag_v2.get(_TIFF_NO_DATA))
    gray = _stretched_or_refused(np.asarray(encoded.opened), encoded.name, no_data)
    return np.stack([gray] * 3, -1)


def _rgb(encoded: Encoded) -> UInt8[np.ndarray, "h w 3"]:
    if encoded.format in ("JPEG", "PNG"):
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
    _check_pixels(width, height, max_pixels, name)
    with contextlib.suppress(cv2.error):
        # Gray or more than three channels of floating point fail with any other flag.
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.ndim == 3 and values.shape[-1] not in (3, 4):
        raise _UnknownToPillow(name)
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
