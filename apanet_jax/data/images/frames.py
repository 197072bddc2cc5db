"""Frames of videos and pages of TIFF files, one after the other, each an image.

Videos are decoded by OpenCV's FFmpeg, which turns those of phones upright. It is shown files that
begin like a video only: a list of addresses that is named like one would have it ask the network.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
from PIL.GifImagePlugin import GifImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from apanet_jax.data.images.encoded_images import MAX_PIXELS, open_encoded, read_bytes
from apanet_jax.data.images.image_files import warn
from apanet_jax.data.images.reader import UprightImage, upright_pixels
from apanet_jax.runtime.errors import UserError

# FFmpeg's own lines are silenced before it starts, or never.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
_IMAGE_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
_BEGINNINGS = (
    b"\x1a\x45\xdf\xa3",  # Matroska and WebM
    b"\x00\x00\x01\xba",  # MPEG
    b"\x00\x00\x01\xb3",
    b"\x30\x26\xb2\x75",  # Windows Media
    b"FLV\x01",
)
_SUBFILE_TYPE, _REDUCED_OR_MASK = 254, 0b101
"""A TIFF's tag that says what a page is of another one: a smaller copy, or its transparency."""

_ANIMATED = {".gif": GifImageFile, ".webp": WebPImageFile}


def is_video(path: Path) -> bool:
    """Returns whether a file begins like a video: MP4, MOV, AVI, Matroska, WebM, MPEG, WMV or FLV.

    A file that cannot be read is none.
    """
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except OSError:
        return False
    if start[4:8] in _BOXES:
        return start[8:12] not in _IMAGE_BRANDS
    return start.startswith(_BEGINNINGS) or (start[:4] == b"RIFF" and start[8:12] == b"AVI ")


def video_length(path: Path) -> int:
    """Returns how many frames a video says it has.

    Raises:
      UserError: it cannot be opened, does not say, or its frames are too large.
    """
    video = _opened(path)
    try:
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        size = [int(video.get(x)) for x in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)]
    finally:
        video.release()
    if not 0 < count < 10**8:
        raise UserError(
            f"{path} is a video that does not say how many frames it has: it is cut short; convert "
            "it, or save its frames as images"
        )
    if size[0] * size[1] > MAX_PIXELS:
        raise UserError(f"{path} has frames of {size[0]}x{size[1]} pixels, too many")
    return count


def tiff_pages(path: Path) -> list[int]:
    """Returns the numbers of a TIFF's pages, from 0 on; smaller copies and masks are left out.

    Empty for a file of another kind, or one that cannot be understood: reading it says why.
    """
    try:
        with path.open("rb") as file, TiffImageFile(file) as image:
            pages = []
            for page in range(image.n_frames):
                image.seek(page)
                if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK:
                    pages.append(page)
            return pages
    except Exception:  # A damaged file can raise nearly anything.
        return []


def is_animation(path: Path) -> bool:
    """Returns whether a file is a GIF or WebP with more than one frame."""
    kind = _ANIMATED.get(path.suffix.lower())
    if kind is None:
        return False
    try:
        with path.open("rb") as file:
            return kind(file).is_animated
    except Exception:  # A damaged file can raise nearly anything.
        return False


def read_frames(
    path: Path, frames: Sequence[int], tell: Callable[[str], None] = warn
) -> Iterator[UprightImage]:
    """Yields frames of a video, or pages of a TIFF, in order.

    Args:
      path: of the file.
      frames: their numbers, from 0 on, rising.
      tell: is given a line where a video ends before it says.

    Raises:
      UserError: it cannot be read, or the first of the frames cannot.
    """
    return _video_frames(path, frames, tell) if is_video(path) else _pages(path, frames)


def _video_frames(
    path: Path, frames: Sequence[int], tell: Callable[[str], None]
) -> Iterator[UprightImage]:
    video, position = _opened(path), 0
    try:
        for wanted in frames:
            while position <= wanted and video.grab():
                position += 1
            whole, image = video.retrieve() if position > wanted else (False, None)
            if not whole and wanted == frames[0]:
                raise UserError(f"{path} is cut short or damaged: no frame of it can be read")
            if not whole:
                tell(f"{path} ends after {position} frames, though it says that it has more")
                return
            yield UprightImage(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), path)
    finally:
        video.release()


def _pages(path: Path, pages: Sequence[int]) -> Iterator[UprightImage]:
    data = read_bytes(path)
    for page in pages:
        name = f"page {page + 1} of {path}"
        encoded = open_encoded(data, name, page=page)
        yield UprightImage(upright_pixels(encoded), path, encoded.orientation)


def _opened(path: Path) -> cv2.VideoCapture:
    # OpenCV would say in its own words that it cannot.
    logging = cv2.utils.logging
    level = logging.getLogLevel()
    logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        video = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    finally:
        logging.setLogLevel(level)
    if not video.isOpened():
        raise UserError(
            f"{path} is no video that can be read: it is cut short, or of an unknown kind; "
            "convert it, or save its frames as images"
        )
    return video
