"""Parts of a data set that is being written: each is there whole or not at all, and joined last.

A part is a run of consecutive pictures of a split's list: one array_record file, written by the
tensorflow-datasets builder, and what the data set's index needs to know of it. It is written beside
its place and renamed, so an interrupted call leaves whole parts only, and the next call with the
same source goes on behind them. The builder holds a part in memory until it writes the file, which
is why a part is bounded in bytes as well as in pictures.
"""

import contextlib
import dataclasses
import hashlib
import io
import itertools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

from apanet_jax.data.source import SPLITS, Sample, Source, Split
from apanet_jax.runtime.errors import UserError

MOST_PICTURES = 1000
MOST_BYTES = 128 << 20
"""Of encoded pictures in a part, unless a single one is larger."""

_SOURCE = "source.json"
_PARTS = "parts"
_INDEX = "part.npz"


@dataclasses.dataclass(frozen=True)
class Part:
    """A part that is written.

    Attributes:
      directory: where it is.
      stop: how many names of the split's list it and the parts before it cover.
      names: of its pictures, without the bad ones.
      areas: pixels of each class id in each picture.
      sizes: height and width of each picture.
      digests: SHA-256 of name, picture and label of each picture, one behind the other.
      num_bytes: of its records.
      bad: one line for each picture that cannot be used.
    """

    directory: Path
    stop: int
    names: list[str]
    areas: Int[np.ndarray, "pictures ids"]
    sizes: Int[np.ndarray, "pictures 2"]
    digests: UInt8[np.ndarray, "pictures 96"]
    num_bytes: int
    bad: list[str]


def write_parts(source: Source, directory: Path) -> dict[Split, list[Part]]:
    """Writes a source in parts below `directory`, or goes on with those that are there.

    Parts are taken over if they come from a source of the same origin, lists and classes, and if
    their first picture is still the same; other pictures of a finished part are not read again.
    """
    # Read before anything is made: a list may be one that cannot be used.
    identity = _identity(source)
    if (directory / _SOURCE).exists() and not comes_from(source, directory):
        print(f"{directory} comes from another source: starting anew", flush=True)
        shutil.rmtree(directory)
    (directory / _PARTS).mkdir(parents=True, exist_ok=True)
    (directory / _SOURCE).write_text(identity)
    return {split: _write_split(source, split, directory / _PARTS) for split in SPLITS}


def comes_from(source: Source, directory: Path) -> bool:
    """Returns whether what lies below `directory` was begun with this source."""
    path = directory / _SOURCE
    return path.exists() and path.read_text() == _identity(source)


def any_finished(directory: Path) -> bool:
    """Returns whether `directory` holds a part that a later call can go on behind."""
    return any(directory.glob(f"{_PARTS}/*/{_INDEX}"))


def join(parts: Mapping[Split, Sequence[Part]], directory: Path) -> None:
    """Moves the files of parts to `directory`, as one data set of tensorflow-datasets."""
    import tensorflow_datasets as tfds

    from apanet_jax.data.builder import FewShotRecords

    builder = FewShotRecords(directory, {})
    version = Path(builder.data_dir)
    version.mkdir(parents=True)
    infos = []
    for split, all_parts in parts.items():
        filled = [part for part in all_parts if part.names]
        template = tfds.core.ShardedFileTemplate(
            data_dir=version,
            dataset_name=builder.name,
            split=split,
            filetype_suffix="array_record",
        )
        for number, part in enumerate(filled):
            target = template.sharded_filepath(shard_index=number, num_shards=len(filled))
            _record_file(part.directory).rename(target)
        lengths = [len(part.names) for part in filled]
        size = sum(part.num_bytes for part in filled)
        infos.append(tfds.core.SplitInfo(split, lengths, size, template))
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    builder.info.write_to_directory(version)


def _identity(source: Source) -> str:
    lists = [source.names(split) for split in SPLITS]
    content = json.dumps([source.name, source.class_names, source.folds, source.origin, lists])
    return json.dumps({"identity": hashlib.sha256(content.encode()).hexdigest()})


def _write_split(source: Source, split: Split, directory: Path) -> list[Part]:
    names, parts, taken_over = source.names(split), [], 0
    with tqdm(total=len(names), unit="picture", desc=split, leave=False, disable=None) as bar:
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
    # tensorflow-datasets takes seconds to import, and only writing and reading pictures need it.
    import tensorflow_datasets as tfds

    from apanet_jax.data.builder import FewShotRecords

    new = place.with_name(place.name + ".new")
    for leftover in (new, place):
        shutil.rmtree(leftover, ignore_errors=True)
    new.mkdir()
    tally = _Tally(source, split, progress)
    samples = tally.samples(itertools.islice(names, start, start + MOST_PICTURES))
    first = next(samples, None)
    num_bytes = 0
    if first is not None:
        builder = FewShotRecords(new, {split: itertools.chain([first], samples)})
        with _quiet(), _telling_of_the_disk():
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=1))
        num_bytes = builder.info.splits[split].num_bytes
    np.savez(new / _INDEX, stop=start + tally.seen, num_bytes=num_bytes, **tally.arrays())
    new.rename(place)
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
        )
    # A call that was stopped while it joined parts has moved some of their files away.
    return part if not part.names or _record_file(directory) else None


def _record_file(part: Path) -> Path | None:
    return next(part.glob("few_shot_records/*/*.array_record-00000-of-00001"), None)


class _Tally:
    """Collects the index of a part while its samples pass by."""

    def __init__(self, source: Source, split: Split, progress: Callable[[int], object]):
        self._source, self._split, self._progress = source, split, progress
        self._ids = len(source.class_names) + 1
        self.seen = 0
        self._names, self._areas, self._sizes, self._digests, self._bad = [], [], [], [], []

    def samples(self, names: Iterator[str]) -> Iterator[Sample]:
        """Yields the usable pictures among `names`, until the part is full."""
        size = 0
        for name in names:
            self.seen += 1
            self._progress(1)
            try:
                sample = self._source.read(self._split, name)
            except UserError as error:
                self._bad.append(f"{self._split} {name}: {error}")
                continue
            self._names.append(name)
            self._areas.append(np.bincount(sample.label.ravel(), minlength=256)[: self._ids])
            self._sizes.append(sample.label.shape)
            self._digests.append(np.frombuffer(_digest(sample), np.uint8))
            yield sample
            size += len(sample.image)
            if size >= MOST_BYTES:
                return

    def arrays(self) -> dict[str, np.ndarray]:
        """Returns what is kept of the part, as arrays."""
        count = len(self._names)
        return {
            "names": np.array(self._names, str),
            "areas": np.array(self._areas, np.int32).reshape(count, self._ids),
            "sizes": np.array(self._sizes, np.int32).reshape(count, 2),
            "digests": np.array(self._digests, np.uint8).reshape(count, 96),
            "bad": np.array(self._bad, str),
        }


def _digest(sample: Sample) -> bytes:
    parts = (sample.name.encode(), sample.image, sample.label.tobytes())
    return b"".join(hashlib.sha256(part).digest() for part in parts)


@contextlib.contextmanager
def _telling_of_the_disk() -> Iterator[None]:
    """Makes an `OSError` of what array_record raises for a disk that cannot be written to."""
    try:
        yield
    except RuntimeError as error:
        reason = re.search(r"\w+\(\) failed: ([^;\n]+)", str(error))
        if reason is None:
            raise
        raise OSError(reason[1]) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the builder's own bars and notes out of the terminal; ours stay."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
