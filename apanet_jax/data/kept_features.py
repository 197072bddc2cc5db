"""Features of a frozen backbone, computed once per image and kept on disk.

A training image is kept in several augmented views (scale, rotation, blur, mirror and crop are
drawn per view and then stay), a test image in its one test view. Episodes then read rows of
memory-mapped files: a head trains without the backbone running at all.
"""

import concurrent.futures
import dataclasses
import errno
import functools
import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from apanet_jax.data.episodes import Draw, Episode
from apanet_jax.data.loader import batches, scoring_label
from apanet_jax.data.records.reading import RecordSplit
from apanet_jax.data.transforms import Augmentation, augment, binary_label, fit_square
from apanet_jax.models.apanet import ImageFeatures
from apanet_jax.runtime.atomic_files import write_bytes, write_json
from apanet_jax.runtime.errors import UserError
from apanet_jax.runtime.workdir_lock import sole_use

_VIEW_STREAM = 0x71E3
_EPISODE_STREAM = 0xE915
_WRITTEN_TOGETHER = 256
_OPENING = threading.Lock()

Embed = Callable[[np.ndarray], ImageFeatures]
"""From images `[B, S, S, 3]` to their middle and high features; it need not wait for these."""


@dataclasses.dataclass(frozen=True)
class KeptFeatures:
    """The kept views of a split's images; picklable, files are opened where they are read.

    Attributes:
      directory: holds `middle.npy` `[N, V, h, w, c]` and, where the head needs it, `high.npy`
        `[N, V, h, w, d]` in float16, and `label.npy` `[N, V, S, S]` with class ids.
      views: V.
      maps: which of them there are.
    """

    directory: Path
    views: int
    maps: tuple[str, ...]

    def view(self, image: int, view: int) -> dict[str, np.ndarray]:
        """Returns `middle`, `label` and, if kept, `high` of a view of a image."""
        return {name: _open_map(self.directory / f"{name}.npy")[image, view] for name in self.maps}

    def episode(self, episode: Episode, views: np.ndarray) -> dict[str, np.ndarray]:
        """Returns an episode's arrays, un-batched.

        Args:
          episode: which images.
          views: of the query, then of each support.
        """
        query = self.view(episode.query, views[0])
        supports = [self.view(s, v) for s, v in zip(episode.supports, views[1:], strict=True)]
        labels = np.stack([s["label"] for s in supports])
        arrays = {}
        for name in query.keys() - {"label"}:
            arrays[f"query_{name}"] = query[name]
            arrays[f"support_{name}"] = np.stack([s[name] for s in supports])
        return arrays | {
            "query_label": binary_label(query["label"], episode.class_id),
            "support_labels": binary_label(labels, episode.class_id),
            "class_id": np.int32(episode.class_id),
        }


def _open_map(path: Path) -> np.ndarray:
    # Python 3.11 fails at times when two threads parse at once, as NumPy does a file's header.
    with _OPENING:
        found = path.stat()
        # A file system may give a new file the number of the one that it takes the place of.
        return _opened_map(path, (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=16)
def _opened_map(path: Path, _file: tuple[int, ...]) -> np.ndarray:
    """Opens a map; a file that was made again in the place of another is opened again."""
    return np.load(path, mmap_mode="r")


def load_kept_training_episode(
    kept: KeptFeatures, draw: Draw, index: int, *, seed: int
) -> dict[str, np.ndarray]:
    """Returns training episode `index`, a random view of each of its images."""
    episode = draw(index)
    rng = np.random.default_rng([seed, _EPISODE_STREAM, index])
    return kept.episode(episode, rng.integers(kept.views, size=1 + len(episode.supports)))


def load_kept_evaluation_episode(
    kept: KeptFeatures, split: RecordSplit, draw: Draw, label_side: int, index: int
) -> dict[str, np.ndarray]:
    """Returns test episode `index`, with the query's original label to score against."""
    episode = draw(index)
    arrays = kept.episode(episode, np.zeros(1 + len(episode.supports), int))
    label = binary_label(split.label(episode.query), episode.class_id)
    return arrays | scoring_label(label, label_side) | {"index": np.int32(index)}


def _training_view(
    split: RecordSplit, augmentation: Augmentation, views: int, seed: int, index: int
) -> dict[str, np.ndarray]:
    stored = split[index // views]
    rng = np.random.default_rng([seed, _VIEW_STREAM, index])
    image, label = augment(stored["image"], stored["label"], rng, augmentation)
    return {"image": image, "label": label}


def load_test_view(
    split: RecordSplit, size: int, images: Sequence[int], index: int, *, multiple: int = 8
) -> dict[str, np.ndarray]:
    """Returns the `index`-th of some images as it is tested: image and label with class ids."""
    stored = split[images[index]]
    image, label = fit_square(stored["image"], stored["label"], size, multiple)
    return {"image": image, "label": label}


def load_kept_test_view(
    kept: KeptFeatures, images: Sequence[int], index: int
) -> dict[str, np.ndarray]:
    """Returns the `index`-th of some images as it is tested: its features and label with ids."""
    return kept.view(images[index], 0)


def keep_training_features(
    embed: Embed,
    split: RecordSplit,
    directory: Path,
    identity: str,
    *,
    maps: tuple[str, ...],
    augmentation: Augmentation,
    views: int,
    seed: int,
    workers: int,
    batch_size: int,
) -> KeptFeatures:
    """Keeps `views` augmented views of each image of `split` (see `keep_features`)."""
    load = functools.partial(_training_view, split, augmentation, views, seed)
    identity = f"{identity} {augmentation} views={views} seed={seed}"
    return keep_features(
        embed, load, len(split), views, maps, directory, identity, workers, batch_size
    )


def keep_test_features(
    embed: Embed,
    split: RecordSplit,
    directory: Path,
    identity: str,
    *,
    maps: tuple[str, ...],
    size: int,
    multiple: int,
    workers: int,
    batch_size: int,
) -> KeptFeatures:
    """Keeps the test view of each image of `split` (see `keep_features`)."""
    load = functools.partial(load_test_view, split, size, range(len(split)), multiple=multiple)
    identity = f"{identity} test {size}"
    return keep_features(embed, load, len(split), 1, maps, directory, identity, workers, batch_size)


def keep_features(
    embed: Embed,
    load: Callable[[int], dict[str, np.ndarray]],
    images: int,
    views: int,
    maps: tuple[str, ...],
    directory: Path,
    identity: str,
    workers: int,
    batch_size: int = 8,
) -> KeptFeatures:
    """Embeds every view of every image, unless that was done; goes on where it was stopped.

    Args:
      embed: from images `[B, S, S, 3]` to their middle and high features.
      load: from the number of a view (image times views, plus view) to its image and label.
      images: how many there are.
      views: how many of each.
      maps: what is kept: "middle", "label" and, where the head looks at it, "high".
      directory: features are kept in a folder of it that is named after `identity`.
      identity: everything that the features depend on.
      workers: processes that load images.
      batch_size: images embedded together; it may change where an earlier call is continued.

    Raises:
      UserError: the disk is too small, or what lies there cannot be read.
    """
    name = hashlib.sha256(identity.encode()).hexdigest()[:16]
    directory = Path(directory) / name
    kept = KeptFeatures(directory, views, maps)
    total = images * views
    if _progress(kept, images) == total:
        return kept
    try:
        # Here, where what to do about it is known.
        directory.mkdir(parents=True, exist_ok=True)
        # Runs of other workdirs may share the features.
        with sole_use(directory, wait=True):
            _embed_missing(embed, load, kept, images, identity, workers, batch_size)
    except OSError as error:
        raise UserError(
            f"features could not be kept in {directory}: {error.strerror or error}; free some "
            "space, or name another place with features.directory"
        ) from error
    return kept


def _embed_missing(
    embed: Embed,
    load: Callable[[int], dict[str, np.ndarray]],
    kept: KeptFeatures,
    images: int,
    identity: str,
    workers: int,
    batch_size: int,
) -> None:
    done, total = _progress(kept, images), images * kept.views
    if done == total:
        return
    write_bytes(kept.directory / "identity.txt", f"{identity}\n".encode())
    if not done:
        _forget(kept.directory)
    start = done // batch_size
    with (
        batches(load, count=total, batch_size=batch_size, start=start, workers=workers) as iterator,
        tqdm(
            total=total, initial=done, unit="image", desc="embedding", leave=False, disable=None
        ) as progress,
    ):
        _write(embed, iterator, kept, images, start * batch_size, progress)


def _write(embed, iterator, kept, images, position, progress) -> None:
    """Embeds batches; while the device is at one, the one before is written and the next read."""
    writer = _Writer(kept, images, position)
    with concurrent.futures.ThreadPoolExecutor(1) as thread:
        writing = None
        for batch in iterator:
            features = embed(batch["image"])
            # One batch waits for the disk and no more, so that memory holds two.
            if writing is not None:
                progress.update(writing.result())
            writing = thread.submit(writer.write, features, batch["label"], batch["valid"])
        if writing is not None:
            progress.update(writing.result())


class _Writer:
    """Writes batches of views one behind the other, and how far it has come."""

    def __init__(self, kept: KeptFeatures, images: int, position: int):
        """Goes on at a view's number."""
        self._kept, self._images, self._position = kept, images, position
        self._total = images * kept.views
        self._noted = position
        self._maps: dict[str, np.memmap] = {}

    def write(self, features: ImageFeatures, labels: np.ndarray, valid: np.ndarray) -> int:
        """Writes a batch and returns how many views it has."""
        count, position = int(valid.sum()), self._position
        rows = jax.device_get(features)._asdict() | {"label": labels}
        for name in self._kept.maps:
            array = rows[name][:count]
            _check_half_precision(name, array)
            self._flat(name, rows[name])[position : position + count] = array
        self._position += count
        whole = self._position == self._total
        if whole or self._position - self._noted >= _WRITTEN_TOGETHER:
            for array in self._maps.values():
                array.flush()
            _set_progress(self._kept.directory, self._position)
            self._noted = self._position
        return count

    def _flat(self, name: str, rows: np.ndarray) -> np.ndarray:
        if name not in self._maps:
            path, shape = self._kept.directory / f"{name}.npy", (self._images, self._kept.views)
            self._maps[name] = _writable_map(path, shape, rows)
        return self._maps[name].reshape(self._total, *rows.shape[1:])


def _check_half_precision(name: str, rows: np.ndarray) -> None:
    """Refuses features that float16 would store as infinity."""
    largest = float(np.abs(rows.astype(np.float32)).max(initial=0))
    if not largest <= float(np.finfo(np.float16).max):
        raise UserError(
            f"{name} features reach {largest:g}, more than the half precision that they are kept "
            "in can hold: train with features.keep=False"
        )


def _writable_map(path: Path, shape: tuple[int, int], rows: np.ndarray) -> np.memmap:
    dtype = np.uint8 if rows.dtype == np.uint8 else np.float16
    if path.exists():
        return np.load(path, mmap_mode="r+")
    opened = np.lib.format.open_memmap(path, "w+", dtype, (*shape, *rows.shape[1:]))
    # Taken now: a mapped page that finds the disk full kills the process without a word.
    if hasattr(os, "posix_fallocate"):
        with path.open("r+b") as file:
            _take_space(file.fileno(), path.stat().st_size)
    return opened


def _take_space(descriptor: int, size: int) -> None:
    try:
        os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        # Some file systems cannot promise space; then there is nothing to ask for.
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise


def _progress(kept: KeptFeatures, images: int) -> int:
    """Returns how many views are whole: 0 where a file is not what it should be."""
    path, total = kept.directory / "progress.json", images * kept.views
    if not path.exists():
        return 0
    try:
        views = json.loads(path.read_text())["views"]
        maps = [np.load(kept.directory / f"{name}.npy", mmap_mode="r") for name in kept.maps]
        if 0 <= views <= total and all(m.shape[:2] == (images, kept.views) for m in maps):
            return views
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        pass
    print(
        f"warning: the features in {kept.directory} are damaged: they are made again",
        file=sys.stderr,
    )
    return 0


def _forget(directory: Path) -> None:
    """Removes what an earlier call left before its first views were whole."""
    for path in (directory / "progress.json", *directory.glob("*.npy")):
        path.unlink(missing_ok=True)


def _set_progress(directory: Path, views: int) -> None:
    write_json(directory / "progress.json", {"views": views})
