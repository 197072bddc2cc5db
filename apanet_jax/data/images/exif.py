"""What an image file says of itself beside its pixels: taken out before a decoder sees the file.

Decoders differ in what they make of metadata: whether EXIF or XMP turns an image, which types a tag
may have, how much text a PNG may hold, whether a broken tag is an error. Here the orientation is
read in one way, and decoders are handed files without it.
"""

import struct
from collections.abc import Iterator

import numpy as np
from jaxtyping import Shaped

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
_EXIF = b"Exif\0\0"
_ORIENTATION = 0x0112
_START_OF_SCAN, _APP1 = 0xDA, 0xE1
_METADATA_MARKERS = {*range(0xE1, 0xEE), 0xEF, 0xFE}
"""JPEG's application segments and comments, but for JFIF's and Adobe's, which say how to decode."""
_ANCILLARY_KEPT = {b"tRNS"}


def without_metadata(data: bytes) -> tuple[bytes, bytes]:
    """Returns a JPEG or PNG file without its metadata, and its EXIF block, empty if it has none.

    Pixels are the same with and without. Other files, and what is no whole file, come back as
    they are.
    """
    if data.startswith(_JPEG):
        return _stripped_jpeg(data)
    if data.startswith(_PNG):
        return _stripped_png(data)
    return data, b""


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation that an EXIF block gives, 1 to 8; 1 (upright) where it gives none.

    It is read as OpenCV reads it and browsers do: the two bytes of the value of tag 0x0112 in the
    first directory, whatever type the tag has. XMP's orientation is not looked at.
    """
    exif = exif.removeprefix(_EXIF)
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    try:
        if order is None or struct.unpack_from(order + "H", exif, 2) != (42,):
            return 1
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
            if tag == _ORIENTATION:
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def turned_upright(
    stored: Shaped[np.ndarray, "h w *channels"], orientation: int
) -> Shaped[np.ndarray, "H W *channels"]:
    """Returns upright what a file stores with an EXIF orientation."""
    if orientation >= 5:
        stored = stored.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        stored = stored[::-1]
    if orientation in (2, 3, 6, 7):
        stored = stored[:, ::-1]
    return np.ascontiguousarray(stored)


def _stripped_jpeg(data: bytes) -> tuple[bytes, bytes]:
    kept, exif, position = [data[:2]], b"", 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker == _START_OF_SCAN or marker in (0x01, *range(0xD0, 0xDA)):
            break
        stop = position + 2 + int.from_bytes(data[position + 2 : position + 4])
        if stop <= position + 3 or stop > len(data):
            break
        if marker == _APP1 and not exif and data[position + 4 : position + 10] == _EXIF:
            exif = data[position + 4 : stop]
        if marker not in _METADATA_MARKERS:
            kept.append(data[position:stop])
        position = stop
    return b"".join([*kept, data[position:]]), exif


def _stripped_png(data: bytes) -> tuple[bytes, bytes]:
    kept, exif = [data[:8]], b""
    for kind, start, stop in _png_chunks(data):
        if kind == b"eXIf" and not exif:
            exif = data[start + 8 : stop - 4]
        # A lower-case first letter marks a chunk that need not be understood to decode pixels.
        if kind in _ANCILLARY_KEPT or not kind[:1].islower():
            kept.append(data[start:stop])
    return b"".join(kept), exif


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    start = 8
    while start < len(data):
        stop = start + 12 + int.from_bytes(data[start : start + 4])
        yield data[start + 4 : start + 8], start, min(stop, len(data))
        start = stop
