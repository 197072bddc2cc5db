"""Data sets as this project reads them: array_record files, and one index of what is in them."""

import dataclasses
import functools
import hashlib
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int, UInt8

from apanet_jax.data.building import (
    JOINED,
    Part,
    any_finished,
    comes_from,
    holds_parts,
    join,
    remove_parts,
    write_parts,
)
from apanet_jax.data.images import decode_verified
from apanet_jax.data.record_files import FOLDER, open_split
from apanet_jax.data.source import Source, Split, notes_of
from apanet_jax.runtime.atomic_files import move, write_json
from apanet_jax.runtime.errors import UserError

_INDEX = "index.json"
_ARRAYS = "index.npz"
_REPORT = "report.json"
_REPLACED = "replaced"
_FORMAT = 1


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


@dataclasses.dataclass
class Report:
    """What was found in a source.

    Attributes:
      pictures: how many images, by split.
      per_class: by split and class name, images with any pixel and with `min_area` pixels of it.
      bad: one line for each image that cannot be used.
      notes: lines that say what was left out, and what images were taken for.
    """

    pictures: dict[str, int] = dataclasses.field(default_factory=dict)
    per_class: dict[str, dict[str, tuple[int, int]]] = dataclasses.field(default_factory=dict)
    bad: list[str] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


class BadImages(UserError):
    """Some images of a source cannot be used; `report.bad` names each."""

    def __init__(self, report: Report):
        """Says how many, and what to do."""
        super().__init__(
            f"{len(report.bad)} images cannot be used, nothing was written: mend them, or leave "
            "them out with --skip_bad"
        )
        self.report = report


def write(
    source: Source,
    directory: Path,
    *,
    skip_bad: bool = False,
    overwrite: bool = False,
    min_area: int = 2048,
) -> Report:
    """Writes a source as records, whole or not at all.

    A call that is interrupted leaves its finished parts (`building.MOST_IMAGES` images each)
    beside `directory`, in a folder named after it with the ending `.unfinished`, and the next call
    goes on behind them. The records are the same for any number of interruptions. The report is
    kept in them as `report.json`.

    Args:
      source: what to write.
      directory: where to; it appears when everything is written.
      skip_bad: leave out images that cannot be used, instead of refusing.
      overwrite: replace records that are there, once the new ones are whole.
      min_area: pixels of a class that put an image on its list, for the report.

    Raises:
      UserError: `directory` is there already, or holds something else than records, or images
        cannot be used.
    """
    directory = Path(directory)
    if directory.is_symlink():
        directory = directory.resolve()
    unfinished = directory.with_name(directory.name + ".unfinished")
    if (unfinished / _REPLACED).exists() and not directory.exists():
        # A call was killed between the two renames of `_put`.
        move(unfinished / _REPLACED, directory)
    if directory.exists() and not overwrite:
        # A call that was killed behind its last step but one; before, records are earlier ones.
        if comes_from(source, unfinished) and not holds_parts(unfinished):
            shutil.rmtree(unfinished)
            return Report(**json.loads((directory / _REPORT).read_text()))
        raise UserError(f"{directory} is there already: name another, or pass --overwrite")
    if directory.exists() and not _replaceable(directory):
        raise UserError(
            f"{directory} holds no records, and --overwrite replaces nothing else: name another, "
            "or remove it yourself"
        )
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        parts = write_parts(source, unfinished)
        report = _report(source, parts, min_area)
        if refusal := _refusal(source, report, skip_bad):
            shutil.rmtree(unfinished)
            raise refusal
        joined = unfinished / JOINED
        shutil.rmtree(joined, ignore_errors=True)
        join(parts, joined)
        _write_index(source, parts, joined)
        write_json(joined / _REPORT, vars(report))
        remove_parts(unfinished)
        _put(joined, directory, unfinished / _REPLACED)
        shutil.rmtree(unfinished)
    except OSError as error:
        raise UserError(
            f"records could not be written to {directory}: {error.strerror or error}"
            + _what_is_kept(unfinished)
        ) from error
    except KeyboardInterrupt:
        if kept := _what_is_kept(unfinished):
            print(f"records are not written{kept}", flush=True)
        raise
    return report


def open_records(directory: Path) -> Records:
    """Opens records.

    Raises:
      UserError: there are none, or they are damaged.
    """
    directory = Path(directory)
    if not (directory / _INDEX).exists():
        raise UserError(
            f"data.records={str(directory)!r} holds no records: make them with python -m "
            "apanet_jax.prepare KIND … --output=DIR (--help lists the kinds) and name that DIR"
        )
    try:
        index = _read_index(directory)
        if index["format"] != _FORMAT or not (directory / _ARRAYS).exists():
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


def _replaceable(directory: Path) -> bool:
    """Whether nothing but records, of any version, or nothing at all would be lost."""
    if not directory.is_dir():
        return False
    names = {path.name for path in directory.iterdir()}
    return not names or {_INDEX, FOLDER} <= names


def _put(new: Path, directory: Path, replaced: Path) -> None:
    """Puts new records into their place; earlier ones leave it just before, or stay."""
    if directory.exists():
        shutil.rmtree(replaced, ignore_errors=True)
        move(directory, replaced)
    try:
        move(new, directory)
    except BaseException:
        if replaced.exists() and not directory.exists():
            move(replaced, directory)
        raise


def _what_is_kept(unfinished: Path) -> str:
    """Tells what an interruption leaves, and removes it where no part is finished."""
    if (unfinished / _REPLACED).exists():
        return f"; the earlier records are in {unfinished / _REPLACED}"
    if any_finished(unfinished):
        return f"; {unfinished} keeps what is finished, and the same command goes on from there"
    shutil.rmtree(unfinished, ignore_errors=True)
    return ""


def _refusal(source: Source, report: Report, skip_bad: bool) -> UserError | None:
    if report.bad and not skip_bad:
        return BadImages(report)
    for split, count in report.pictures.items():
        if not count:
            return UserError(f"{source.name} has no usable image in its {split} list")
    return None


def _report(source: Source, parts: Mapping[Split, Sequence[Part]], min_area: int) -> Report:
    report, notes = Report(notes=notes_of(source)), Counter[str]()
    for split, split_parts in parts.items():
        notes.update(note for part in split_parts for note in part.notes)
        report.bad += [line for part in split_parts for line in part.bad]
        report.pictures[split] = sum(len(part.names) for part in split_parts)
        no_areas = np.empty((0, len(source.class_names) + 1), np.int32)
        areas = np.concatenate([no_areas, *(part.areas for part in split_parts)])
        report.per_class[split] = {
            name: (int((areas[:, c] > 0).sum()), int((areas[:, c] >= min_area).sum()))
            for c, name in enumerate(source.class_names, 1)
        }
    report.notes += [f"{count} images are {note}" for note, count in notes.items()]
    return report


def _write_index(source: Source, parts: Mapping[Split, Sequence[Part]], directory: Path) -> None:
    digest, names, arrays = hashlib.sha256(), {}, {}
    for split, split_parts in parts.items():
        names[split] = [name for part in split_parts for name in part.names]
        for part in split_parts:
            digest.update(part.digests.tobytes())
        for kind in ("areas", "sizes"):
            arrays[f"{split}_{kind}"] = np.concatenate([getattr(p, kind) for p in split_parts])
    np.savez_compressed(directory / _ARRAYS, **arrays)
    index = {
        "format": _FORMAT,
        "name": source.name,
        "class_names": source.class_names,
        "folds": source.folds,
        "fingerprint": digest.hexdigest(),
        "names": names,
    }
    (directory / _INDEX).write_text(json.dumps(index) + "\n")


def _read_index(directory: Path) -> dict[str, Any]:
    return json.loads((directory / _INDEX).read_text())


def _read_array(directory: Path, name: str) -> np.ndarray:
    try:
        with np.load(directory / _ARRAYS) as arrays:
            return arrays[name]
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{directory / _ARRAYS} is damaged: make the records again with python -m "
            "apanet_jax.prepare"
        ) from error
