"""Resumable building of records: in parts that are there whole or not at all, and joined last.

A part is a run of consecutive images of a split's list: one array_record file, and what the data
set's index needs to know of it. It is written beside its place and renamed, so an interrupted call
leaves whole parts only, and the next call with the same source goes on behind them. A part's file
is held in memory until it is written, which is why a part is bounded in bytes as well as in images.
"""

import dataclasses
import hashlib
import itertools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from apanet_jax.data.images.image_files import printable
from apanet_jax.data.records.record_files import file_in, join_files, write_file
from apanet_jax.data.sources.source import SPLITS, Sample, Source, Split
from apanet_jax.runtime.atomic_files import move, replacing
from apanet_jax.runtime.errors import UserError

MOST_IMAGES = 1000
MOST_BYTES = 128 << 20
"""Of encoded images in a part, unless a single one is larger."""

_SOURCE = "source.json"
_PARTS, JOINED = "parts", "joined"
_INDEX = "part.npz"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part that is written.

    Attributes:
      directory: where it is.
      stop: how many names of the split's list it and the parts before it cover.
      names: of its images, without the bad ones.
      areas: pixels of each class id in each image.
      sizes: height and width of each image.
      digests: SHA-256 of name, encoded image and label map of each image, one behind the other.
      num_bytes: of its records.
      bad: one line for each image that cannot be used.
      notes: what samples say a report should count them under.
    """

    directory: Path
    stop: int
    names: list[str]
    areas: Int[np.ndarray, "images ids"]
    sizes: Int[np.ndarray, "images 2"]
    digests: UInt8[np.ndarray, "images 96"]
    num_bytes: int
    bad: list[str]
    notes: list[str] = dataclasses.field(default_factory=list)


def write_parts(source: Source, directory: Path) -> dict[Split, list[Part]]:
    """Writes a source in parts below `directory`, or goes on with those that are there.

    Parts are taken over if they come from a source of the same origin, lists and classes, and if
    their first image is still the same; other images of a finished part are not read again.
    """
    # Read before anything is made: a list may be one that cannot be used.
    identity = _identity(source)
    if (directory / _SOURCE).exists() and not comes_from(source, directory):
        print(f"{directory} comes from another source: it is begun again", flush=True)
        shutil.rmtree(directory)
    (directory / _PARTS).mkdir(parents=True, exist_ok=True)
    with replacing(directory / _SOURCE) as file:
        file.write(identity)
    return {split: _write_split(source, split, directory / _PARTS) for split in SPLITS}


def comes_from(source: Source, directory: Path) -> bool:
    """Returns whether what lies below `directory` was begun with this source."""
    path = directory / _SOURCE
    return path.exists() and path.read_text() == _identity(source)


def holds_parts(directory: Path) -> bool:
    """Returns whether parts were written below `directory` whose data set is not in its place."""
    return any((directory / name).exists() for name in (_PARTS, JOINED))


def remove_parts(directory: Path) -> None:
    """Removes what is left of the parts whose files were joined."""
    shutil.rmtree(directory / _PARTS)


def any_finished(directory: Path) -> bool:
    """Returns whether `directory` holds a part that a later call can go on behind."""
    return any(directory.glob(f"{_PARTS}/*/{_INDEX}"))


def join(parts: Mapping[Split, Sequence[Part]], directory: Path) -> None:
    """Moves the files of parts to `directory`, as one data set."""
    files = {
        split: [
            (file_in(part.directory), len(part.names), part.num_bytes)
            for part in split_parts
            if part.names
        ]
        for split, split_parts in parts.items()
    }
    join_files(files, directory)


def count_classes(label: UInt8[np.ndarray, "height width"], num_classes: int) -> np.ndarray:
    """Returns the pixels of ids 0 to `num_classes` in a label map, `[num_classes + 1]`."""
    return np.bincount(label.ravel(), minlength=256)[: num_classes + 1]


def _identity(source: Source) -> str:
    lists = [source.names(split) for split in SPLITS]
    content = json.dumps([source.name, source.class_names, source.folds, source.origin, lists])
    return json.dumps({"identity": hashlib.sha256(content.encode()).hexdigest()})


def _write_split(source: Source, split: Split, directory: Path) -> list[Part]:
    names, parts, taken_over = source.names(split), [], 0
    with tqdm(total=len(names), unit="image", desc=split, leave=False, disable=None) as bar:
        start = 0
        while start < len(names):
            place = directory / f"{split}-{start:07d}"
            part = _read(place)
            if part is None or part.bad or not _still_same(part, source, split):
                if taken_over:
                    bar.write(f"{split}: going on, {taken_over} of {len(names)} are written")
                    taken_over = 0
                part = _write(source, split, names, start, place, bar.update)
            else:
                taken_over = part.stop
                bar.update(part.stop - start)
            parts.append(part)
            start = part.stop
        if taken_over:
            bar.write(f"{split}: all {len(names)} are written")
    return parts


def _still_same(part: Part, source: Source, split: Split) -> bool:
    try:
        digest = _digest(source.read(split, part.names[0]))
    except UserError:
        return False
    return digest == part.digests[0].tobytes()


def _write(
    source: Source,
    split: Split,
    names: Sequence[str],
    start: int,
    place: Path,
    progress: Callable[[int], object],
) -> Part:
    new = place.with_name(place.name + ".new")
    for leftover in (new, place):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    tally = _Tally(source, split, progress)
    samples = tally.samples(itertools.islice(names, start, start + MOST_IMAGES))
    num_bytes = write_file(samples, split, new)
    np.savez(new / _INDEX, stop=start + tally.seen, num_bytes=num_bytes, **tally.arrays())
    move(new, place)
    return _read(place)


def _read(directory: Path) -> Part | None:
    """Returns the part in a directory, or None if there is no whole one."""
    if not (directory / _INDEX).exists():
        return None
    with np.load(directory / _INDEX) as arrays:
        part = Part(
            directory,
            int(arrays["stop"]),
            arrays["names"].tolist(),
            arrays["areas"],
            arrays["sizes"],
            arrays["digests"],
            int(arrays["num_bytes"]),
            arrays["bad"].tolist(),
            # Earlier versions wrote none.
            arrays["notes"].tolist() if "notes" in arrays else [],
        )
    # A call that was stopped while it joined parts has moved some of their files away.
    return part if not part.names or file_in(directory) else None


class _Tally:
    """Collects the index of a part while its samples pass by."""

    def __init__(self, source: Source, split: Split, progress: Callable[[int], object]):
        self._source, self._split, self._progress = source, split, progress
        self._num_classes = len(source.class_names)
        self.seen = 0
        self._names, self._areas, self._sizes, self._digests = [], [], [], []
        self._bad, self._notes = [], []

    def samples(self, names: Iterator[str]) -> Iterator[Sample]:
        """Yields the usable images among `names`, until the part is full."""
        size = 0
        for name in names:
            self.seen += 1
            self._progress(1)
            try:
                sample = self._source.read(self._split, name)
                digest = _digest(sample)
            except UserError as error:
                self._bad.append(printable(f"{self._split} {name}: {error}"))
                continue
            self._names.append(name)
            self._areas.append(count_classes(sample.label, self._num_classes))
            self._sizes.append(sample.label.shape)
            self._digests.append(np.frombuffer(digest, np.uint8))
            if sample.note:
                self._notes.append(sample.note)
            yield sample
            size += len(sample.image)
            if size >= MOST_BYTES:
                return

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what is kept of the part, as arrays."""
        count = len(self._names)
        return {
            "names": np.array(self._names, str),
            "areas": np.array(self._areas, np.int32).reshape(count, self._num_classes + 1),
            "sizes": np.array(self._sizes, np.int32).reshape(count, 2),
            "digests": np.array(self._digests, np.uint8).reshape(count, 96),
            "bad": np.array(self._bad, str),
            "notes": np.array(self._notes, str),
        }


def _digest(sample: Sample) -> bytes:
    """Returns what records are told apart by.

    Raises:
      UserError: the name cannot be stored.
    """
    try:
        name = sample.name.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"the file name {printable(sample.name)} is not UTF-8: rename the file"
        ) from error
    parts = (name, sample.image, sample.label.tobytes())
    return b"".join(hashlib.sha256(part).digest() for part in parts)
