"""Array_record files of images and label maps, written and read through tensorflow-datasets.

tensorflow-datasets takes seconds to import, and array_record, which it needs, has no wheel for
every system: both are imported where a file is written or read, and nowhere else.
"""

import contextlib
import functools
import importlib.util
import io
import itertools
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from apanet_jax.data.sources.source import Sample, Split
from apanet_jax.runtime.atomic_files import move
from apanet_jax.runtime.errors import UserError

FOLDER = "few_shot_records"
"""Of the files, below that of the records: the name of `builder.FewShotRecords`."""

# A worker's threads read at once, and importing tensorflow-datasets in two threads together can
# lock both for ever: its modules import one another lazily.
_OPENING = threading.Lock()


def require_array_record() -> None:
    """Raises a UserError that says what to do where the package array_record is missing."""
    if importlib.util.find_spec("array_record") is None:
        raise UserError(
            "preparing data and training need the package array_record: pip install array_record; "
            "where it has no wheel (Windows), use Linux, WSL or Colab. predict needs none of it"
        )


def write_file(samples: Iterable[Sample], split: Split, directory: Path) -> int:
    """Writes samples as one array_record file below `directory`, and returns its records' bytes.

    The file is held in memory until it is whole. No samples make no file.

    Raises:
      OSError: the disk cannot be written to.
      UserError: array_record is missing.
    """
    require_array_record()
    import tensorflow_datasets as tfds

    from apanet_jax.data.records.builder import FewShotRecords

    samples = iter(samples)
    first = next(samples, None)
    if first is None:
        return 0
    builder = FewShotRecords(directory, {split: itertools.chain([first], samples)})
    one_file = tfds.download.DownloadConfig(num_shards=1)
    with _quiet(), _disk_errors():
        builder.download_and_prepare(download_config=one_file)
    return builder.info.splits[split].num_bytes


def file_in(directory: Path) -> Path | None:
    """Returns the file that `write_file` has written below `directory`; None if there is none."""
    return next(directory.glob(f"{FOLDER}/*/*.array_record-00000-of-00001"), None)


def join_files(files: Mapping[Split, Sequence[tuple[Path, int, int]]], directory: Path) -> None:
    """Moves files to `directory`, as one data set of tensorflow-datasets.

    Args:
      files: by split, in order: the file, how many records it has, and how many bytes these are.
      directory: to be made.
    """
    require_array_record()
    import tensorflow_datasets as tfds

    from apanet_jax.data.records.builder import FewShotRecords

    builder = FewShotRecords(directory, {})
    version = Path(builder.data_dir)
    version.mkdir(parents=True)
    infos = []
    for split, entries in files.items():
        template = tfds.core.ShardedFileTemplate(
            data_dir=version,
            dataset_name=builder.name,
            split=split,
            filetype_suffix="array_record",
        )
        for number, (file, _, _) in enumerate(entries):
            target = template.sharded_filepath(shard_index=number, num_shards=len(entries))
            move(file, target)
        lengths = [count for _, count, _ in entries]
        size = sum(num_bytes for _, _, num_bytes in entries)
        infos.append(tfds.core.SplitInfo(split, lengths, size, template))
    builder.info.set_splits(tfds.core.splits.SplitDict(infos))
    builder.info.write_to_directory(version)


def open_split(directory: Path, split: Split, fingerprint: str) -> Sequence[Mapping[str, bytes]]:
    """Opens a split of records: by index, the bytes of `name`, `image` and `label`.

    Args:
      directory: of the records.
      split: which.
      fingerprint: of the records; where it is another one, files are opened again.

    Raises:
      OSError: there are no files.
      UserError: array_record is missing.
    """
    require_array_record()
    with _OPENING:
        return _opened(directory, split, fingerprint)


@functools.lru_cache(maxsize=8)
def _opened(directory: Path, split: Split, _fingerprint: str):
    import tensorflow_datasets as tfds

    versions = sorted(directory.glob(f"{FOLDER}/*/dataset_info.json"))
    if not versions:
        raise OSError(f"no array_record files in {directory}")
    builder = tfds.builder_from_directory(versions[-1].parent)
    skip = tfds.decode.SkipDecoding()
    return builder.as_data_source(split, decoders={"image": skip, "label": skip})


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    """Makes an `OSError` of what array_record raises for a disk that cannot be written to."""
    try:
        yield
    except RuntimeError as error:
        found = re.search(r"\w+\(\) failed: ([^;\n]+)", str(error))
        if found is None:
            raise
        raise OSError(found[1]) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the builder's own bars and notes out of the terminal; ours stay."""
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):
        yield
