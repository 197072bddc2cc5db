"""Records as runs read them: array_record files, and one index of what is in them."""

import dataclasses
import functools
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from apanet_jax.data.images.reader import decode_verified
from apanet_jax.data.records.record_files import open_split
from apanet_jax.data.sources.source import Split
from apanet_jax.runtime.errors import UserError

INDEX = "index.json"
ARRAYS = "index.npz"
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class RecordSplit:
    """The images of a split, by number; files are opened where they are read.

    The index is read where it is first asked for, and stays behind when a split travels to another
    process: workers need images only, and the index of a large data set is tens of megabytes.

    Attributes:
      directory: of the records.
      split: "train" or "val".
      fingerprint: of the records; others that take their place are not read as if they were these.
    """

    directory: Path
    split: Split
    fingerprint: str

    @functools.cached_property
    def names(self) -> list[str]:
        """The names of the images."""
        return _read_index(self.directory)["names"][self.split]

    @functools.cached_property
    def areas(self) -> Int[np.ndarray, "images ids"]:
        """Pixels of each class id in each image; column 0 is background, 255 is not counted."""
        return _read_array(self.directory, f"{self.split}_areas")

    @functools.cached_property
    def sizes(self) -> Int[np.ndarray, "images 2"]:
        """Height and width of each image."""
        return _read_array(self.directory, f"{self.split}_sizes")

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns an image's `name`, `image` `[H, W, 3]` (uint8, RGB) and `label` `[H, W]`.

        Raises:
          UserError: the records are damaged.
        """
        record = self._record(index)
        image = decode_verified(record["image"])
        if image is None:
            raise UserError(self._damaged(index))
        return {"name": record["name"].decode(), "image": image, "label": self._label(record)}

    def label(self, index: int) -> UInt8[np.ndarray, "height width"]:
        """Returns an image's label map; the image itself is not decoded.

        Raises:
          UserError: the records are damaged.
        """
        return self._label(self._record(index))

    @staticmethod
    def _label(record: Mapping[str, bytes]) -> UInt8[np.ndarray, "height width"]:
        return cv2.imdecode(np.frombuffer(record["label"], np.uint8), cv2.IMREAD_GRAYSCALE)

    def _record(self, index: int) -> Mapping[str, bytes]:
        try:
            return open_split(self.directory, self.split, self.fingerprint)[index]
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(self._damaged(index)) from error

    def _damaged(self, index: int) -> str:
        return (
            f"the image {self.names[index]} of {self.split} in {self.directory} cannot be read: "
            "make the records "
            "again with python -m apanet_jax.prepare"
        )


@dataclasses.dataclass(frozen=True)
class Records:
    """A data set.

    Attributes:
      directory: where it is.
      name: of the data set.
      class_names: of the classes 1..C.
      folds: for each fold the names of its novel classes.
      fingerprint: hash of names, images and label maps.
    """

    directory: Path
    name: str
    class_names: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    fingerprint: str

    def split(self, split: Split) -> RecordSplit:
        """Returns the images of "train" or "val"."""
        return RecordSplit(self.directory, split, self.fingerprint)


def open_records(directory: Path) -> Records:
    """Opens records.

    Raises:
      UserError: there are none, or they are damaged.
    """
    directory = Path(directory)
    if not (directory / INDEX).exists():
        raise UserError(
            f"data.records={str(directory)!r} holds no records: make them with python -m "
            "apanet_jax.prepare KIND … --output=DIR (--help lists the kinds) and name that DIR"
        )
    try:
        index = _read_index(directory)
        if index["format"] != FORMAT or not (directory / ARRAYS).exists():
            raise ValueError
        return Records(
            directory,
            index["name"],
            tuple(index["class_names"]),
            tuple(map(tuple, index["folds"])),
            index["fingerprint"],
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"the index of the records in {directory} is damaged or of another version: make them "
            "again with python -m apanet_jax.prepare"
        ) from error


def _read_index(directory: Path) -> dict[str, Any]:
    return json.loads((directory / INDEX).read_text())


def _read_array(directory: Path, name: str) -> np.ndarray:
    try:
        with np.load(directory / ARRAYS) as arrays:
            return arrays[name]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{directory / ARRAYS} is damaged: make the records again with python -m "
            "apanet_jax.prepare"
        ) from error
