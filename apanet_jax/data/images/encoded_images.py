"""Image files of an allowed kind and size, opened but not decoded: what `reader` starts from.

Files of other kinds than `FORMATS` never reach a decoder, and an image that says to be larger than
the caller allows is refused before it is decoded. No setting of the process is changed, so any
number of threads may read at once.
"""

import io
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from apanet_jax.data.images.exif import exif_orientation, turned_upright, without_metadata
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
_TIFF_ORIENTATION = 0x0112


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
            raise UnknownToPillow(name) from error
        raise UserError(f"{name} is no image that can be read: it is damaged") from error
    check_pixels(opened.width, opened.height, max_pixels, name)
    return Encoded(opened, stripped, kind, orientation, name)


class UnknownToPillow(UserError):
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


def check_pixels(width: int, height: int, max_pixels: int, name: str) -> None:
    if width * height > max_pixels:
        most = f"{max_pixels / 1e6:.4g} million" if max_pixels >= 1e6 else f"{max_pixels}"
        raise UserError(
            f"{name} has {width}x{height} pixels, too many: {most} at most, make it smaller"
        )
