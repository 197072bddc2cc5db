"""Where on the Earth a GeoTIFF's pixels lie: tags that are copied to what is made of it."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile

_PLACE = (33550, 33922, 34264)
"""ModelPixelScale, ModelTiepoint, ModelTransformation."""
_KEYS = (34735, 34736, 34737)
"""GeoKeyDirectory, GeoDoubleParams, GeoAsciiParams: the system of coordinates."""
_ORIENTATION = 0x0112


class Georeference(NamedTuple):
    """The tags of a page that say where its pixels lie.

    Attributes:
      values: by the number of the tag.
      kinds: TIFF's type of each.
    """

    values: Mapping[int, Any]
    kinds: Mapping[int, int]


def read_georeference(path: Path, page: int = 0) -> Georeference | None:
    """Returns a page's georeference.

    Returns:
      None where it has none, lies otherwise than upright, or is no TIFF that can be understood.
    """
    try:
        with path.open("rb") as file, TiffImageFile(file) as image:
            image.seek(page)
            tags = image.tag_v2
            if tags.get(_ORIENTATION, 1) != 1 or not any(tag in tags for tag in _PLACE):
                return None
            present = [tag for tag in (*_PLACE, *_KEYS) if tag in tags]
            kinds = {tag: tags.tagtype[tag] for tag in present}
            return Georeference({tag: tags[tag] for tag in present}, kinds)
    except Exception:  # A damaged file can raise nearly anything.
        return None


def geotiff(image: Image.Image | UInt8[np.ndarray, "height width"], place: Georeference) -> bytes:
    """Returns a gray image or a PIL image as a TIFF with a georeference, compressed."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    tags = ImageFileDirectory_v2()
    for tag, value in place.values.items():
        tags[tag] = value
        tags.tagtype[tag] = place.kinds[tag]
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", tiffinfo=tags, compression="tiff_adobe_deflate")
    return buffer.getvalue()
