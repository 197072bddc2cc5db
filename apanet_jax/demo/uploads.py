"""From what a visitor uploads to images, and masks in any form that `data.annotations` reads."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.annotations.masks import OUTLINE_ENDINGS, labels_in, read_mask
from apanet_jax.data.images.encoded_images import open_encoded, read_bytes
from apanet_jax.data.images.reader import UprightImage, decode_image
from apanet_jax.demo.visit import (
    MOST_QUERIES,
    MOST_SUPPORTS,
    RUB_OUT,
    Label,
    Query,
    Support,
    Visit,
    check_number,
    unpainted,
    with_class,
    with_current,
)
from apanet_jax.inference.files.prediction_files import shrunk
from apanet_jax.inference.files.support_folders import masks_of_images, without_masks
from apanet_jax.runtime.errors import UserError

LARGEST_FILE = 20 * 2**20
"""Bytes of an uploaded file."""
LARGEST_IMAGE = 50_000_000
"""Pixels of an uploaded image."""
LARGEST_SIDE = 1280
"""Pixels; images with a longer side are shrunk to it when they come in."""
_MOST_MASKS = 60
_EARLIER = "earlier"
_NAMES = ("classes.txt", "obj.names", "data.yaml", "dataset.yaml")
"""Files that name YOLO's classes."""
_MOST_LAYERS, _PAINT_FORMATS = 4, ("PNG", "WEBP", "JPEG")


def with_supports(visit: Visit, paths: Sequence[Path]) -> Visit:
    """Returns the visit with more supports, and with the masks among the files.

    Masks are matched by name as in `support_folders.folder_supports`, with images that came before
    too. What has no mask is to be painted; the first of those is current.

    Args:
      visit: so far.
      paths: of images, masks, and files that name the classes of YOLO's labels.

    Raises:
      UserError: these are too many, or one cannot be used or belongs to no image; then none is
        taken. The message names files without their folder.
    """
    with tempfile.TemporaryDirectory() as place:
        files = _beside_each_other(paths, Path(place))
        try:
            return _with_files(visit, files, Path(place))
        except UserError as error:
            told = str(error).replace(f"{place}/{_EARLIER}/", "").replace(f"{place}/", "")
            raise UserError(told) from error


def with_queries(visit: Visit, paths: Sequence[Path]) -> Visit:
    """Returns the visit with more queries.

    Raises:
      UserError: these are too many, or one cannot be used; then none is taken.
    """
    check_number(len(visit.queries), len(paths), MOST_QUERIES, "images to segment")
    read = [read_upload(path) for path in paths]
    queries = [
        Query(path.name, shrunk(x.image, LARGEST_SIDE), x.image.shape[:2])
        for path, x in zip(paths, read, strict=True)
    ]
    return visit._replace(queries=(*visit.queries, *queries))


def with_mask(visit: Visit, path: Path) -> Visit:
    """Returns the visit with a file's mask on the current support, whatever the file's name.

    Raises:
      UserError: there is no support, or the mask cannot be used.
    """
    if visit.shown is None:
        raise UserError("No image is there yet that the mask could be of.")
    try:
        painted = _with_masks(visit, [path])
    except UserError as error:
        raise UserError(str(error).replace(f"{path.parent}/", "")) from error
    return painted


def read_upload(path: Path) -> UprightImage:
    """Returns an uploaded image.

    Raises:
      UserError: it cannot be used; the message names the file without its folder.
    """
    try:
        return decode_image(_upload(path), path, max_pixels=LARGEST_IMAGE)
    except UserError as error:
        raise UserError(str(error).replace(str(path), path.name)) from error


def read_layers(sent: Sequence[str | bytes]) -> list[UInt8[np.ndarray, "height width 4"]]:
    """Returns the layers of paint that a visitor sent, as RGBA.

    Args:
      sent: image files, or their content.

    Raises:
      UserError: these are too many, or one is too large or no image.
    """
    check_number(0, len(sent), _MOST_LAYERS, "layers of paint")
    layers = []
    for file in sent:
        data = file if isinstance(file, bytes) else _upload(Path(file))
        encoded = open_encoded(data, "the paint", max_pixels=LARGEST_IMAGE, formats=_PAINT_FORMATS)
        layers.append(np.array(encoded.decode().convert("RGBA")))
    return layers


def _beside_each_other(paths: Sequence[Path], place: Path) -> list[Path]:
    """Places uploads, each of which lies in a folder of its own, in one."""
    files = []
    for path in paths:
        file = place / path.name
        if file.exists():
            raise UserError(f"two files are called {path.name}: rename one of them")
        file.write_bytes(_upload(path))
        files.append(file)
    return files


def _with_files(visit: Visit, files: Sequence[Path], place: Path) -> Visit:
    drawn = [path for path in files if path.suffix.lower() not in (*OUTLINE_ENDINGS, ".yaml")]
    masks = [path for path in files if path.name not in _NAMES]
    # Of those before, which of the files could be masks of.
    waiting = unpainted(visit)
    before = [place / _EARLIER / visit.supports[number].name for number in waiting]
    new = [path for path in without_masks([*before, *drawn], masks) if path not in before]
    check_number(len(visit.supports), len(new), MOST_SUPPORTS, "images that show the classes")
    masks = [path for path in masks if path not in new and path.suffix.lower() != ".yaml"]
    check_number(0, len(masks), _MOST_MASKS, "masks")
    found = masks_of_images([*before, *new], masks)
    for path in masks:
        if not any(path in of_image for of_image in found):
            raise UserError(
                f"{path.name} belongs to no image here by its name: the mask of a.jpg is called "
                "a.json or a_mask.png; or take it from a file when its image is shown"
            )
    first = len(visit.supports)
    visit = visit._replace(supports=(*visit.supports, *(_support(path) for path in new)))
    for number, of_image in zip([*waiting, *range(first, len(visit.supports))], found, strict=True):
        if of_image:
            visit = _with_masks(visit._replace(current=number), of_image)
    left = [number for number in unpainted(visit) if number >= first]
    return visit._replace(current=(left or [min(first, len(visit.supports) - 1)])[0])


def _support(path: Path) -> Support:
    read = read_upload(path)
    small = shrunk(read.image, LARGEST_SIDE)
    return Support(path.name, small, size=read.image.shape[:2], orientation=read.orientation)


def _with_masks(visit: Visit, masks: Sequence[Path]) -> Visit:
    """Returns the visit with masks of the current support in place of what is painted on it."""
    support = visit.shown
    # Only its size, name and orientation matter to the reader of masks.
    blank = np.broadcast_to(np.uint8(0), (*support.full_size, 3))
    label = np.zeros(support.full_size, np.uint8)
    for path in masks:
        image = UprightImage(blank, path.with_name(support.name), support.orientation)
        if path.suffix.lower() not in OUTLINE_ENDINGS:
            open_encoded(_upload(path), str(path), max_pixels=LARGEST_IMAGE)
        # A drawn mask of one class has no label: it is of the class that is being painted.
        for name in labels_in(path, image) or [None]:
            if name is not None:
                visit = with_class(visit, f"class {name}" if name.isdecimal() else name)
            read = read_mask(path if name is None else Path(f"{path}:{name}"), image)
            painted = 0 if visit.painting == RUB_OUT else visit.painting
            label[(read == IGNORE) & (label == 0)] = IGNORE
            label[read == 1] = painted + 1
    label = _shrunk_label(label)
    return with_current(visit, support._replace(before=label, label=label))


def _shrunk_label(label: Label) -> Label | None:
    label = shrunk(label, LARGEST_SIDE)
    return label if label.any() else None


def _upload(path: Path) -> bytes:
    if path.exists() and (size := path.stat().st_size) > LARGEST_FILE:
        raise UserError(
            f"{path.name} has {size / 2**20:.0f} MB: {LARGEST_FILE // 2**20} at most, make it "
            "smaller"
        )
    return read_bytes(path)
