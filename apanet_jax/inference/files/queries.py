"""The images to segment: files, frames of videos and pages of TIFF files."""

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from apanet_jax.data.images.frames import (
    is_animation,
    is_video,
    read_frames,
    tiff_pages,
    video_length,
)
from apanet_jax.data.images.georeference import Georeference, read_georeference
from apanet_jax.data.images.image_files import warn
from apanet_jax.data.images.reader import UprightImage, read_image
from apanet_jax.runtime.errors import UserError

_TIFF_ENDINGS = (".tif", ".tiff")
_MOST_BYTES = 100
"""Of an image's or a class's part in the name of a result."""


class Query(NamedTuple):
    """An image to segment.

    Attributes:
      path: its file.
      name: what its results are called; no two queries share it.
      frame: which frame of a video or page of a TIFF it is, from 0 on; None where the file is one
        image.
      georeference: of a GeoTIFF.
    """

    path: Path
    name: str
    frame: int | None = None
    georeference: Georeference | None = None


def find_queries(
    paths: Sequence[Path], every: int | None = None, tell: Callable[[str], None] = warn
) -> list[Query]:
    """Returns the images in files.

    Args:
      paths: of images and videos.
      every: of videos and TIFF files with several pages, the first and every Nth after it; None:
        all frames.
      tell: is given a line that counts the animations, whose other frames are left out.

    Raises:
      UserError: a video cannot be used, or `every` is given for images alone, or below 1.
    """
    if every is not None and every < 1:
        raise UserError(f"--every={every}: expected 1 or more, every which frame is taken")
    queries = [image for query in named_queries(paths) for image in _images_in(query, every or 1)]
    if every is not None and all(query.frame is None for query in queries):
        raise UserError(
            f"--every={every}: no query is a video or a TIFF with several pages, leave it out"
        )
    animations = sum(is_animation(path) for path in paths)
    if animations:
        tell(f"left out: all but the first frame of {animations} animations (GIF or WebP)")
    return queries


def named_queries(paths: Sequence[Path]) -> list[Query]:
    """Names the results of each image: its stem, with folder or ending where that is not enough.

    `a/1.jpg` and `b/1.jpg` are `a_1` and `b_1`; `1.jpg` and `1.png` of a folder keep their ending;
    `a b.jpg` and `a_b.jpg` have a digest of their own.
    """
    names = [file_name(path.stem) for path in paths]
    for longer in (
        lambda path: f"{path.absolute().parent.name}_{path.stem}",
        lambda path: f"{path.absolute().parent.name}_{path.name}",
        lambda path: "_".join(path.absolute().parts[1:]),
        lambda path: f"{path.stem}_{_digest(str(path))}",
    ):
        count = Counter(names)
        names = [
            file_name(longer(path)) if count[name] > 1 else name
            for path, name in zip(paths, names, strict=True)
        ]
    return [Query(*pair) for pair in zip(paths, names, strict=True)]


def read_queries(
    queries: Sequence[Query], tell: Callable[[str], None] = warn, side: int | None = None
) -> Iterator[tuple[Query, UprightImage | UserError]]:
    """Yields each query with its image, or with what is wrong with it; a file's frames in one go.

    Args:
      queries: the images.
      tell: is given a line where a video ends before it says; its other frames are left out.
      side: longer side that is enough of a file's one image, see `read_image`.
    """
    for path, of_file in itertools.groupby(queries, lambda query: query.path):
        remaining = list(of_file)
        while remaining:
            taken = 0
            try:
                for query, image in zip(
                    remaining, _images_of(path, remaining, tell, side), strict=False
                ):
                    taken += 1
                    yield query, image
                break
            except UserError as error:
                yield remaining[taken], error
                # A damaged page says nothing of the next one; a video cannot be read past damage.
                remaining = [] if is_video(path) else remaining[taken + 1 :]


def file_name(text: str) -> str:
    """Returns a text as it can stand in the name of a file, beside another and an ending.

    Of a long one the beginning stays, with a digest of the whole: file systems take 255 bytes.
    """
    name = re.sub(r"[^\w.-]+", "_", text)
    if len(name.encode()) <= _MOST_BYTES:
        return name
    digest = f"_{_digest(text)}"
    return name.encode()[: _MOST_BYTES - len(digest)].decode(errors="ignore") + digest


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]


def _images_in(query: Query, every: int) -> list[Query]:
    path, name, *_ = query
    if is_video(path):
        return [Query(path, _of_frame(name, x), x) for x in range(0, video_length(path), every)]
    if path.suffix.lower() not in _TIFF_ENDINGS:
        return [query]
    pages = tiff_pages(path)
    if len(pages) < 2:
        return [query._replace(georeference=read_georeference(path))]
    taken = pages[::every]
    # Whoever writes a page's place writes the first one's too.
    anywhere = read_georeference(path, taken[0]) is not None
    places = [read_georeference(path, x) if anywhere else None for x in taken]
    return [Query(path, _of_frame(name, x), x, y) for x, y in zip(taken, places, strict=True)]


def _images_of(
    path: Path, queries: Sequence[Query], tell: Callable[[str], None], side: int | None
) -> Iterator[UprightImage]:
    if queries[0].frame is None:
        return (read_image(path, side=side) for _ in queries)
    return read_frames(path, [query.frame for query in queries], tell)


def _of_frame(name: str, frame: int) -> str:
    return f"{name}_frame{frame:06d}"
