"""Pictures as their users have them: any format, any size, turned by EXIF, in folders."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from apanet_jax.runtime.errors import UserError

ENDINGS = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm", ".pgm")
_LARGEST_PICTURE = 400_000_000
_ORIENTATION = 0x0112
_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError, EOFError)
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Picture(NamedTuple):
    """A picture, upright.

    Attributes:
      image: `[H, W, 3]`, RGB, 0 to 255.
      path: of its file, if there is one.
      orientation: EXIF's; how it was turned to be upright.
    """

    image: UInt8[np.ndarray, "height width 3"]
    path: Path | None = None
    orientation: int = 1

    @property
    def stored_size(self) -> tuple[int, int]:
        """Height and width before it was turned."""
        height, width = self.image.shape[:2]
        return (width, height) if self.orientation >= 5 else (height, width)


def open_picture(path: Path) -> Image.Image:
    """Opens a file without decoding it.

    Raises:
      UserError: there is none, it is no picture, or it is unreasonably large.
    """
    try:
        empty = path.stat().st_size == 0
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if empty:
        raise UserError(f"{path} is empty, expected a picture")
    # Its own limit is that of thumbnails on the web; whole slides and panoramas are larger.
    Image.MAX_IMAGE_PIXELS, before = None, Image.MAX_IMAGE_PIXELS
    try:
        picture = Image.open(path)
    except (UnidentifiedImageError, *_UNREADABLE) as error:
        raise UserError(f"{path} is no picture that can be read") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before
    if picture.width * picture.height > _LARGEST_PICTURE:
        raise UserError(f"{path} says it has {picture.width}x{picture.height} pixels: too many")
    return picture


def read_picture(path: Path) -> Picture:
    """Reads a picture: its first frame, upright, as RGB.

    16-bit gray is scaled by its largest value. What is transparent keeps its colour.

    Raises:
      UserError: it cannot be read.
    """
    with open_picture(path) as opened:
        try:
            opened.load()
            orientation = opened.getexif().get(_ORIENTATION, 1)
            upright = ImageOps.exif_transpose(opened)
            image = _rgb(upright)
        except _UNREADABLE as error:
            raise UserError(f"{path} is cut short or damaged") from error
    return Picture(image, path, orientation if orientation in _TURNS else 1)


def turned(values: UInt8[np.ndarray, "h w"], orientation: int) -> UInt8[np.ndarray, "H W"]:
    """Returns what was stored with an EXIF orientation upright."""
    if orientation not in _TURNS:
        return values
    return np.array(Image.fromarray(values).transpose(_TURNS[orientation]))


def find_pictures(queries: Sequence[str]) -> list[Path]:
    """Returns the pictures that files, folders and patterns name, each once, in order.

    Folders are searched with what lies below them, for the usual `ENDINGS`.

    Raises:
      UserError: one of them leads to nothing.
    """
    found: dict[Path, None] = {}
    for query in queries:
        path = Path(query)
        if path.is_dir():
            new = sorted(p for p in path.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
            if not new:
                raise UserError(f"the folder {query} holds no picture ({', '.join(ENDINGS)})")
        elif path.exists():
            new = [path]
        else:
            new = sorted(Path(p) for p in glob.glob(query, recursive=True) if os.path.isfile(p))
            if not new:
                raise UserError(
                    f"{query} names no file, no folder, and no pattern that fits a file"
                )
        found.update(dict.fromkeys(new))
    return list(found)


def _rgb(picture: Image.Image) -> UInt8[np.ndarray, "height width 3"]:
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture, np.float64)
        low, high = min(values.min(), 0), max(values.max(), 1)
        gray = (255 * (values - low) / (high - low)).round().astype(np.uint8)
        return np.stack([gray] * 3, -1)
    return np.array(picture.convert("RGB"))
