"""Data sets as this project reads them: array_record files, and one index of what is in them."""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from jaxtyping import Int
from tqdm import tqdm

from apanet_jax.data.source import SPLITS, Sample, Source, Split
from apanet_jax.errors import UserError

_INDEX = "index.json"
_ARRAYS = "index.npz"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class RecordSplit:
    """The pictures of a split, by number; picklable, files are opened where they are read.

    Attributes:
      directory: of the records.
      split: "train" or "val".
      names: of the pictures.
      areas: pixels of each class id in each picture; column 0 is background, 255 is not counted.
      sizes: height and width of each picture.
    """

    directory: Path
    split: Split
    names: list[str]
    areas: Int[np.ndarray, "pictures ids"]
    sizes: Int[np.ndarray, "pictures 2"]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> dict[str, Any]:
        """Returns a picture's `name`, `image` `[H, W, 3]` (uint8, RGB) and `label` `[H, W]`."""
        try:
            record = _data_source(self.directory, self.split)[number]
        except (OSError, ValueError, IndexError, RuntimeError) as error:
            raise UserError(
                f"picture {number} of {self.split} in {self.directory} cannot be read: make the "
                "records again with python -m apanet_jax.prepare"
            ) from error
        image = cv2.imdecode(np.frombuffer(record["image"], np.uint8), cv2.IMREAD_COLOR_RGB)
        label = cv2.imdecode(np.frombuffer(record["label"], np.uint8), cv2.IMREAD_GRAYSCALE)
        return {"name": self.names[number], "image": image, "label": label}


@dataclasses.dataclass(frozen=True)
class Records:
    """A data set.

    Attributes:
      directory: where it is.
      name: of the data set.
      class_names: of the classes 1..C.
      folds: for each fold the names of its novel classes.
      fingerprint: hash of names, pictures and labels.
    """

    directory: Path
    name: str
    class_names: tuple[str, ...]
    folds: tuple[tuple[str, ...], ...]
    fingerprint: str

    def split(self, split: Split) -> RecordSplit:
        """Returns the pictures of "train" or "val"."""
        index = json.loads((self.directory / _INDEX).read_text())
        with np.load(self.directory / _ARRAYS) as arrays:
            return RecordSplit(
                self.directory,
                split,
                index["names"][split],
                arrays[f"{split}_areas"],
                arrays[f"{split}_sizes"],
            )


@dataclasses.dataclass
class Report:
    """What was found in a source.

    Attributes:
      pictures: how many, by split.
      per_class: by split and class name, pictures with any pixel and with `min_area` pixels of it.
      bad: one line for each picture that cannot be used.
    """

    pictures: dict[str, int] = dataclasses.field(default_factory=dict)
    per_class: dict[str, dict[str, tuple[int, int]]] = dataclasses.field(default_factory=dict)
    bad: list[str] = dataclasses.field(default_factory=list)


class BadPictures(UserError):
    """Some pictures of a source cannot be used; `report.bad` names each."""

    def __init__(self, report: Report):
        """Says how many, and what to do."""
        super().__init__(
            f"{len(report.bad)} pictures cannot be used, nothing was written: mend them, or leave "
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

    Args:
      source: what to write.
      directory: where to; it appears when everything is written.
      skip_bad: leave out pictures that cannot be used, instead of refusing.
      overwrite: replace what is there.
      min_area: pixels of a class that put a picture on its list, for the report.

    Raises:
      UserError: `directory` is there already, or pictures cannot be used.
    """
    directory = Path(directory)
    if directory.exists() and not overwrite:
        raise UserError(f"{directory} is there already: name another, or pass --overwrite")
    directory.parent.mkdir(parents=True, exist_ok=True)
    unfinished = directory.with_name(directory.name + ".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        report = _write(source, unfinished, skip_bad, min_area)
        if report.bad and not skip_bad:
            raise BadPictures(report)
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)
    except OSError as error:
        raise UserError(
            f"records could not be written to {directory}: {error.strerror or error}"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
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
            "apanet_jax.prepare {pascal,folder,synthetic} … --output=DIR and name that DIR"
        )
    try:
        index = json.loads((directory / _INDEX).read_text())
        if index["format"] != _FORMAT or not (directory / _ARRAYS).exists():
            raise ValueError
        return Records(
            directory,
            index["name"],
            tuple(index["class_names"]),
            tuple(map(tuple, index["folds"])),
            index["fingerprint"],
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the index of the records in {directory} is damaged or of another version: make them "
            "again with python -m apanet_jax.prepare"
        ) from error


class _Tally:
    """Collects the index of a split while its samples pass by."""

    def __init__(self, source: Source, split: Split, report: Report, digest):
        self._source, self._split, self._report, self._digest = source, split, report, digest
        self.names, self.areas, self.sizes = [], [], []

    def samples(self) -> Iterator[Sample]:
        source, ids = self._source, len(self._source.class_names) + 1
        names = source.names(self._split)
        for name in tqdm(names, unit="picture", desc=self._split, leave=False, disable=None):
            try:
                sample = source.read(self._split, name)
            except UserError as error:
                self._report.bad.append(f"{self._split} {name}: {error}")
                continue
            self.names.append(name)
            self.areas.append(np.bincount(sample.label.ravel(), minlength=256)[:ids])
            self.sizes.append(sample.label.shape)
            for part in (name.encode(), sample.image, sample.label.tobytes()):
                self._digest.update(hashlib.sha256(part).digest())
            yield sample


def _write(source: Source, directory: Path, skip_bad: bool, min_area: int) -> Report:
    # tensorflow-datasets takes seconds to import, and only writing and reading pictures need it.
    from apanet_jax.data.builder import FewShotRecords

    report, digest = Report(), hashlib.sha256()
    tallies = {split: _Tally(source, split, report, digest) for split in SPLITS}
    builder = FewShotRecords(directory, {s: tally.samples() for s, tally in tallies.items()})
    with _quiet():
        builder.download_and_prepare()
    if report.bad and not skip_bad:
        return report
    arrays = {}
    for split, tally in tallies.items():
        if not tally.names:
            raise UserError(f"{source.name} has no usable picture in its {split} list")
        areas = np.array(tally.areas, np.int64)
        arrays[f"{split}_areas"], arrays[f"{split}_sizes"] = areas, np.array(tally.sizes, np.int64)
        report.pictures[split] = len(tally.names)
        report.per_class[split] = {
            name: (int((areas[:, c] > 0).sum()), int((areas[:, c] >= min_area).sum()))
            for c, name in enumerate(source.class_names, 1)
        }
    np.savez_compressed(directory / _ARRAYS, **arrays)
    index = {
        "format": _FORMAT,
        "name": source.name,
        "class_names": source.class_names,
        "folds": source.folds,
        "fingerprint": digest.hexdigest(),
        "names": {split: tally.names for split, tally in tallies.items()},
    }
    (directory / _INDEX).write_text(json.dumps(index) + "\n")
    return report


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the builder's own bars and notes out of the terminal; ours stay."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@functools.lru_cache(maxsize=8)
def _data_source(directory: Path, split: Split):
    import tensorflow_datasets as tfds

    versions = sorted(directory.glob("few_shot_records/*/dataset_info.json"))
    if not versions:
        raise OSError(f"no array_record files in {directory}")
    builder = tfds.builder_from_directory(versions[-1].parent)
    skip = tfds.decode.SkipDecoding()
    return builder.as_data_source(split, decoders={"image": skip, "label": skip})
