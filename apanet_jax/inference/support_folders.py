"""Supports that lie in a folder: pictures with their masks beside them, a folder for each class."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from apanet_jax.data.image_files import ENDINGS, composed, is_left_behind
from apanet_jax.runtime.errors import UserError

IMAGES, MASKS = "images", "masks"
_MASK = "_mask"


class Support(NamedTuple):
    """A support's files.

    Attributes:
      name: of its class; None where there is one thing alone.
      image: the picture.
      mask: see `masks.read_mask`.
    """

    name: str | None
    image: Path
    mask: Path


def folder_supports(folder: Path) -> list[Support]:
    """Returns the supports in a folder, in the order of their names.

    The mask of `a.jpg` is `a_mask.png`, `a.json` or `a.png` beside it, or `masks/a.png` where the
    picture is `images/a.jpg`; a JSON that is named like no picture is for all of them (COCO's).
    Where folders lie in the folder, each of them is a class, named like it.

    Raises:
      UserError: it is no folder, holds no supports, or a picture in it has no mask, or several.
    """
    if not folder.is_dir():
        raise UserError(f"--supports={folder} is no folder: give one with pictures and masks")
    inside = [path for path in sorted(folder.iterdir()) if not is_left_behind(path.name)]
    classes = [path for path in inside if path.is_dir() and path.name not in (IMAGES, MASKS)]
    if not classes:
        return [Support(None, *pair) for pair in _pairs(folder)]
    files = [path for path in inside if path not in classes]
    if files:
        raise UserError(
            f"{folder} holds {files[0].name} beside the folder {classes[0].name}: expected "
            "pictures with their masks, or a folder of them for each class"
        )
    return [Support(path.name, *pair) for path in classes for pair in _pairs(path)]


def _pairs(folder: Path) -> list[tuple[Path, Path]]:
    images, masks = folder / IMAGES, folder / MASKS
    apart = images.is_dir() and masks.is_dir()
    pictures = _files(images if apart else folder, ENDINGS)
    beside = _files(masks, (*ENDINGS, ".json")) if apart else _files(folder, (*ENDINGS, ".json"))
    if not apart:
        pictures = [path for path in pictures if not _is_mask(path, pictures)]
    if not pictures:
        raise UserError(f"{images if apart else folder} holds no picture ({', '.join(ENDINGS)})")
    stems = {composed(path.stem) for path in pictures}
    for_all = [
        path
        for path in beside
        if path.suffix.lower() == ".json" and composed(path.stem) not in stems
    ]
    return [(path, _mask_of(path, beside, for_all)) for path in pictures]


def _mask_of(picture: Path, beside: Sequence[Path], for_all: Sequence[Path]) -> Path:
    stems = composed(picture.stem), composed(picture.stem + _MASK)
    own = [path for path in beside if path != picture and composed(path.stem) in stems]
    found = own or for_all
    if len(found) != 1:
        expected = f"{picture.stem}{_MASK}.png, {picture.stem}.png or {picture.stem}.json"
        many = f"{len(found)} masks, {' and '.join(path.name for path in found)}"
        raise UserError(f"{picture} has {many if found else 'no mask'}: expected one of {expected}")
    return found[0]


def _is_mask(path: Path, pictures: Sequence[Path]) -> bool:
    """Returns whether a picture is another one's mask: by its name, or a PNG beside a JPEG."""
    stems = {composed(other.stem) for other in pictures if other != path}
    stem = composed(path.stem)
    if stem.endswith(_MASK) and stem.removesuffix(_MASK) in stems:
        return True
    return path.suffix.lower() == ".png" and stem in stems


def _files(folder: Path, endings: Sequence[str]) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix.lower() in endings and not is_left_behind(path.name)
    ]
