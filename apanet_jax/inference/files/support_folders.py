"""Supports that lie in a folder: images with their masks beside them, a folder for each class."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apanet_jax.data.annotations.masks import OUTLINE_ENDINGS
from apanet_jax.data.images.image_files import ENDINGS, composed, is_left_behind
from apanet_jax.runtime.errors import UserError

IMAGES, MASKS, LABELS = "images", "masks", "labels"
_MASK = "_mask"
_FOR_ALL, _PERHAPS = (".json", ".xml"), (".xml", ".txt")
"""Endings of files that may be of several images, and of those that may be no masks."""


class Support(NamedTuple):
    """A support's files.

    Attributes:
      name: of its class; None where there is one class without a name.
      image: the image.
      mask: see `masks.read_mask`.
    """

    name: str | None
    image: Path
    mask: Path


def folder_supports(folder: Path) -> list[Support]:
    """Returns the supports in a folder, in the order of their names.

    The mask of `a.jpg` is `a_mask.png`, `a.json` or `a.png` beside it, or `masks/a.png` where the
    image is `images/a.jpg`. With a mask for each object, these are `a_1.png`, `a_2.png` and so on,
    or `a_mask_1.png`: a support for each, which `Segmenter.fit` joins. A JSON or XML that is named
    like no image is for all of them (COCO's, Label Studio's, CVAT's). In YOLO's layout,
    `labels/a.txt` is the mask of `images/a.jpg`. Where folders lie in the folder, each of them is a
    class, named like it.

    Raises:
      UserError: it is no folder, holds no supports, or an image in it has no mask, or several.
    """
    if not folder.is_dir():
        raise UserError(f"--supports={folder} is no folder: give one with images and masks")
    inside = [path for path in sorted(folder.iterdir()) if not is_left_behind(path.name)]
    parts = (IMAGES, MASKS, LABELS)
    classes = [path for path in inside if path.is_dir() and path.name not in parts]
    if not classes:
        return [Support(None, *pair) for pair in _pairs(folder)]
    files = [path for path in inside if path not in classes]
    if files:
        raise UserError(
            f"{folder} holds {files[0].name} beside the folder {classes[0].name}: expected "
            "images with their masks, or a folder of them for each class"
        )
    return [Support(path.name, *pair) for path in classes for pair in _pairs(path)]


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    images, masks = folder / IMAGES, folder / MASKS
    if not masks.is_dir():
        masks = folder / LABELS
    separate = images.is_dir() and masks.is_dir()
    of_images = _files(images if separate else folder, ENDINGS)
    of_masks = _files(masks if separate else folder, (*ENDINGS, *OUTLINE_ENDINGS))
    if not separate:
        of_images = without_masks(of_images, of_masks)
    if not of_images:
        raise UserError(f"{images if separate else folder} holds no image ({', '.join(ENDINGS)})")
    found = masks_of_images(of_images, of_masks)
    for image, of_image in zip(of_images, found, strict=True):
        if not of_image:
            raise UserError(f"{image} has no mask: {_expected(image)}")
    pairs = zip(of_images, found, strict=True)
    return [(path, mask) for path, of_image in pairs for mask in of_image]


def without_masks(images: Sequence[Path], files: Sequence[Path]) -> list[Path]:
    """Returns the images that are no masks of others, by the names of all files."""
    return [path for path in images if not _is_mask(path, images, files)]


def masks_of_images(images: Sequence[Path], masks: Sequence[Path]) -> list[list[Path]]:
    """Returns the masks of each image, by their names: see `folder_supports`. None of them is read.

    Raises:
      UserError: an image has several that are not one for each object.
    """
    stems = {_stem(path) for path in images}
    for_all = [x for x in masks if x.suffix.lower() in _FOR_ALL and _stem(x) not in stems]
    return [_masks_of(path, masks, for_all) for path in images]


def _masks_of(image: Path, masks: Sequence[Path], for_all: Sequence[Path]) -> list[Path]:
    stem, others = _stem(image), [path for path in masks if path != image]
    own = [path for path in others if _stem(path) in (stem, stem + _MASK)]
    # Notes and boxes lie beside images too, and are no masks where there is another.
    perhaps = [path for path in own if path.suffix.lower() in _PERHAPS]
    own = [path for path in own if path not in perhaps]
    of_objects = [] if own else [path for path in others if _of_object(path, stem)]
    found = own or of_objects or list(for_all) or perhaps
    if len(found) > 1 and not of_objects:
        names = " and ".join(path.name for path in found)
        raise UserError(f"{image} has {len(found)} masks, {names}: {_expected(image)}")
    return found


def _expected(image: Path) -> str:
    one = f"{image.stem}{_MASK}.png, {image.stem}.png or {image.stem}.json"
    each = f"{image.stem}_1.png, {image.stem}_2.png"
    return f"expected one of {one}; or one mask for each object, {each}"


def _is_mask(path: Path, images: Sequence[Path], masks: Sequence[Path]) -> bool:
    """Returns whether an image is another one's mask: by its name, or a PNG beside a JPEG."""
    stem = _stem(path)
    stems = {_stem(other) for other in images if other != path}
    if stem.endswith(_MASK) and stem.removesuffix(_MASK) in stems:
        return True
    if path.suffix.lower() != ".png":
        return False
    has_own = any(_stem(other) in (stem, stem + _MASK) for other in masks if other != path)
    return stem in stems or not has_own and any(_of_object(path, other) for other in stems)


def _of_object(path: Path, stem: str) -> bool:
    """Returns whether a PNG is named like a mask of one of the objects in an image."""
    name = re.fullmatch(f"{re.escape(stem)}(?:{_MASK})?_[0-9]+", _stem(path))
    return name is not None and path.suffix.lower() == ".png"


def _stem(path: Path) -> str:
    """Returns a file's stem; accents are one character each, as macOS does not write them."""
    return composed(path.stem)


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() in endings and not is_left_behind(path.name)
    ]
