"""The file of a fitted segmenter: its supports and what was chosen by them, and no code.

It is a safetensors file. Its metadata is one JSON, which says what was saved; its tensors are the
supports' images, label maps and features, and how the supports compare with each other. A digest
covers both.
"""

import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from apanet_jax.inference.heads.head_choice import HeadSource
from apanet_jax.runtime.errors import UserError

_NAME = "apanet_jax_segmenter"
"""Of the metadata's one entry: with several, safetensors writes them in any order."""
_VERSION, _DIGEST = "version", "sha256"
VERSION = 1
"""Of the file's form; others are refused."""
_HALF = np.dtype(ml_dtypes.bfloat16).name
"""A type of features that NumPy's side of safetensors does not know."""


class SavedSupport(NamedTuple):
    """A support of a class.

    Attributes:
      class_name: "" where it has none; None: it is a negative.
      image: number of its image, of `Contents.images`.
      size: height and width of the image as it was given.
      files: image and mask of each mask that was given; "" for what was no file.
      label: `[size, size]` uint8 in the matcher's square, see `geometry.square_label`.
      zoom: see `given_supports.Support`.
      digest: of the image that was given, by which a new mask of it takes this one's place.
      prototype: see `given_supports.Support`; None of a negative, and in files of before.
    """

    class_name: str | None
    image: int
    size: tuple[int, int]
    files: tuple[tuple[str, str], ...]
    label: np.ndarray
    zoom: float
    digest: str
    prototype: np.ndarray | None


class SavedImage(NamedTuple):
    """A support's image.

    Attributes:
      square: `[size, size, 3]` uint8, see `transforms.fit_square`.
      features: see `Matcher.stored`.
    """

    square: np.ndarray
    features: Mapping[str, np.ndarray]


class Contents(NamedTuple):
    """What is saved of a segmenter.

    Attributes:
      source: of its matcher.
      size: side of the matcher's square, in pixels.
      largest: longer side at which images are looked at, see `segmenter.load`; None: as usual.
      weights: SHA-256 of the parameters, see `Matcher.fingerprints`.
      options: fields of `MaskOptions`.
      classes: by name, in their order, what was chosen for each; see `Matcher.chosen`.
      supports: of all classes.
      images: of the supports, each once.
    """

    source: HeadSource
    size: int
    largest: int | None
    weights: Mapping[str, str]
    options: Mapping[str, Any]
    classes: Mapping[str, Mapping[str, Any]]
    supports: tuple[SavedSupport, ...]
    images: tuple[SavedImage, ...]


def to_bytes(contents: Contents) -> bytes:
    """Returns the file of a segmenter; of the same one always the same bytes."""
    described = contents._asdict() | {"source": contents.source._asdict()}
    described["supports"] = [
        {
            "class": x.class_name,
            "image": x.image,
            "size": x.size,
            "files": x.files,
            "zoom": x.zoom,
            "digest": x.digest,
        }
        for x in contents.supports
    ]
    described["images"] = len(contents.images)
    tensors = {f"label.{n}": x.label for n, x in enumerate(contents.supports)}
    prototypes = {f"prototype.{n}": x.prototype for n, x in enumerate(contents.supports)}
    tensors |= {name: x for name, x in prototypes.items() if x is not None}
    described["classes"] = {}
    for number, (name, chosen) in enumerate(contents.classes.items()):
        arrays = {k: x for k, x in chosen.items() if isinstance(x, np.ndarray)}
        described["classes"][name] = {k: x for k, x in chosen.items() if k not in arrays}
        tensors |= {f"class.{number}.{k}": x for k, x in arrays.items()}
    for number, image in enumerate(contents.images):
        tensors[f"image.{number}"] = image.square
        for name, array in image.features.items():
            half = array.dtype.name == _HALF
            tensors[f"feature.{number}.{name}{_HALF * half}"] = array.view("<u2") if half else array
    tensors = {name: np.ascontiguousarray(x) for name, x in tensors.items()}
    header = {_VERSION: VERSION, _DIGEST: _digest(described, tensors)}
    return save(tensors, {_NAME: json.dumps(header | described)})


def from_bytes(content: bytes, where: str) -> Contents:
    """Returns what the file of a segmenter holds.

    Args:
      content: of the file.
      where: names the file in messages.

    Raises:
      UserError: it is no whole file of a segmenter, or of another version.
    """
    described = dict(_described_in(content, where))
    try:
        tensors = load(content)
        digest = described.pop(_DIGEST)
        del described[_VERSION]
        if _digest(described, tensors) != digest:
            raise UserError(_damaged(where))
        return _contents(described, tensors)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(_damaged(where)) from error


def read(path: Path) -> bytes:
    """Returns a file's bytes.

    Raises:
      UserError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read: {error.strerror or error}; expected a saved segmenter"
        ) from error


def class_names(path: Path) -> list[str]:
    """Returns the classes of a saved segmenter, without reading the rest; [""] without a name.

    Raises:
      UserError: it is no whole file of a segmenter, or of another version.
    """
    try:
        return list(_described_of(path)["classes"])
    except (KeyError, TypeError) as error:
        raise UserError(_damaged(str(path))) from error


def is_saved(path: Path) -> bool:
    """Returns whether a file says that it is a segmenter's, of whichever version."""
    try:
        with safe_open(path, framework="np") as file:
            return _NAME in (file.metadata() or {})
    except (OSError, SafetensorError):
        return False


def _contents(described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Contents:
    supports = tuple(
        SavedSupport(
            x["class"],
            x["image"],
            tuple(x["size"]),
            tuple(tuple(pair) for pair in x["files"]),
            tensors[f"label.{n}"],
            x["zoom"],
            x["digest"],
            tensors.get(f"prototype.{n}"),
        )
        for n, x in enumerate(described["supports"])
    )
    images = []
    for number in range(described["images"]):
        of_image = dict(
            (k.removesuffix(_HALF), x.view(ml_dtypes.bfloat16)) if k.endswith(_HALF) else (k, x)
            for k, x in _beginning(tensors, f"feature.{number}.").items()
        )
        images.append(SavedImage(tensors[f"image.{number}"], of_image))
    classes = {
        name: chosen | _beginning(tensors, f"class.{number}.")
        for number, (name, chosen) in enumerate(described["classes"].items())
    }
    source = HeadSource(**described["source"])
    made = {"source": source, "classes": classes, "supports": supports, "images": tuple(images)}
    return Contents(**{**described, **made})


def _beginning(tensors: Mapping[str, np.ndarray], start: str) -> dict[str, np.ndarray]:
    """Returns the tensors whose names begin so, by the rest of their names."""
    return {k.removeprefix(start): x for k, x in tensors.items() if k.startswith(start)}


def _described_of(path: Path) -> Mapping[str, Any]:
    if path.is_dir():
        raise UserError(f"{path} is a folder: expected the file of a saved segmenter")
    try:
        with safe_open(path, framework="np") as file:
            return _checked(file.metadata() or {}, str(path))
    except FileNotFoundError as error:
        raise UserError(f"there is no {path}: expected a saved segmenter") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except SafetensorError as error:
        raise UserError(_no_segmenter(path)) from error


def _described_in(content: bytes, where: str) -> Mapping[str, Any]:
    """Returns what the header of a file's bytes says: a length and a JSON."""
    try:
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length])["__metadata__"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(_no_segmenter(where)) from error
    return _checked(metadata, where)


def _checked(metadata: Mapping[str, str], where: str) -> Mapping[str, Any]:
    try:
        described = json.loads(metadata[_NAME])
        version = described[_VERSION]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(_no_segmenter(where)) from error
    if version != VERSION:
        raise UserError(
            f"{where} is a segmenter saved in form {version!r}, this version of apanet_jax reads "
            f"{VERSION!r}: fit and save it again"
        )
    return described


def _no_segmenter(where: str | Path) -> str:
    return (
        f"{where} is no saved segmenter, or not all of one: expected a file that Segmenter.save or "
        "predict --save wrote"
    )


def _damaged(where: str) -> str:
    return f"{where} is a saved segmenter that is damaged: save it again, or copy it once more"


def _digest(described: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(json.dumps(described).encode())
    for name, array in sorted(tensors.items()):
        digest.update(f"\n{name} {array.shape} {array.dtype.name}\n".encode())
        digest.update(np.ascontiguousarray(array).data.cast("B") if math.prod(array.shape) else b"")
    return digest.hexdigest()
