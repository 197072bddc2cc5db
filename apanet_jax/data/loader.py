"""From episodes to batches: decoded, transformed, batched and prefetched by grain.

Arrays of a batch have fixed names: `query_image` `[B, S, S, 3]`, `query_label` `[B, S, S]`,
`support_images` `[B, K, S, S, 3]`, `support_labels` `[B, K, S, S]` and `class_id` `[B]`; in
testing also `original_label` `[B, L, L]`, `original_side` `[B]` and `index` `[B]`; and always
`valid` `[B]`, false for the repeated elements that fill up a last batch.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from absl import flags
from jaxtyping import UInt8

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.episodes import Draw, Episode
from apanet_jax.data.records.reading import RecordSplit
from apanet_jax.data.records.record_files import require_array_record
from apanet_jax.data.transforms import Augmentation, augment, binary_label, fit_square
from apanet_jax.runtime.errors import UserError

if TYPE_CHECKING:
    import grain

Arrays = dict[str, np.ndarray]
_AUGMENTATION = 4
_ENDLESS = 1 << 40
_SHARED_MEMORY_IS_FULL = ("exit code -7", "No space left on device")
"""A worker that finds it full ends by SIGBUS; containers have 64 MB."""
_PREFETCHED_BATCHES = 2


def load_training_episode(
    split: RecordSplit,
    draw: Draw,
    augmentation: Augmentation,
    index: int,
    *,
    seed: int,
) -> Arrays:
    """Returns training episode `index`, each image augmented by draws of its own."""
    episode = draw(index)

    def transformed(slot: int, image: int):
        data = split[image]
        label = binary_label(data["label"], episode.class_id)
        rng = np.random.default_rng([seed, _AUGMENTATION, index, slot])
        return augment(data["image"], label, rng, augmentation)

    return _arrays(episode, transformed)


def load_evaluation_episode(
    split: RecordSplit,
    draw: Draw,
    size: int,
    label_side: int,
    index: int,
    *,
    multiple: int = 8,
) -> Arrays:
    """Returns test episode `index`, with the query's original label to score against.

    Args:
      split: where the images are.
      draw: the test episodes.
      size: side of the square that images are fitted into.
      label_side: side of the square that original labels are put into, top left.
      index: which episode.
      multiple: of which an image's sides are multiples in the square, in pixels.
    """
    episode = draw(index)

    def transformed(_slot: int, image: int):
        data = split[image]
        label = binary_label(data["label"], episode.class_id)
        return fit_square(data["image"], label, size, multiple)

    label = binary_label(split.label(episode.query), episode.class_id)
    return (
        _arrays(episode, transformed)
        | scoring_label(label, label_side)
        | {"index": np.int32(index)}
    )


def scoring_label(label: UInt8[np.ndarray, "height width"], side: int) -> Arrays:
    """Returns `original_label`, top left in a square of 255, and its longer side."""
    height, width = label.shape
    square = np.full((side, side), IGNORE, np.uint8)
    square[:height, :width] = label
    return {"original_label": square, "original_side": np.int32(max(height, width))}


def _arrays(episode: Episode, transformed) -> Arrays:
    query_image, query_label = transformed(0, episode.query)
    supports = [transformed(slot, image) for slot, image in enumerate(episode.supports, 1)]
    return {
        "query_image": query_image,
        "query_label": query_label,
        "support_images": np.stack([image for image, _ in supports]),
        "support_labels": np.stack([label for _, label in supports]),
        "class_id": np.int32(episode.class_id),
    }


class EpisodeIterator:
    """Batches of elements that are each a function of their number; a context manager.

    The sequence is the same for any number of workers. The state is the number of the next batch,
    so a run can go on with other workers than it was started with.
    """

    def __init__(self, batches: "grain.MapDataset", start: int, workers: int):
        """Iterates over `batches` from number `start` on."""
        import grain

        self._position = start
        dataset = batches[start:].to_iter_dataset(
            grain.ReadOptions(num_threads=2, prefetch_buffer_size=_PREFETCHED_BATCHES)
        )
        if workers:
            if not flags.FLAGS.is_parsed():
                # grain reads its own flags; in a notebook or a test nobody has parsed them.
                flags.FLAGS.mark_as_parsed()
            options = grain.MultiprocessingOptions(
                num_workers=workers, per_worker_buffer_size=_PREFETCHED_BATCHES
            )
            dataset = dataset.mp_prefetch(options, worker_init_fn=_prepare_worker)
        self._iterator = iter(dataset)

    def __iter__(self) -> "EpisodeIterator":
        return self

    def __next__(self) -> Arrays:
        try:
            batch = next(self._iterator)
        except (StopIteration, UserError):
            raise
        except Exception as error:
            reason = str(error)[:300] or type(error).__name__
            if any(sign in str(error) for sign in _SHARED_MEMORY_IS_FULL):
                reason += "; the shared memory, /dev/shm, is full: enlarge it, or pass workers=0"
            raise UserError(
                f"loading batch {self._position} failed: {reason}; the same command goes on from "
                "the newest checkpoint"
            ) from error
        self._position += 1
        return batch

    def __enter__(self) -> "EpisodeIterator":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def state(self) -> dict[str, Any]:
        """Returns what to save (JSON) in order to go on with the next batch later."""
        return {"position": self._position}

    def close(self) -> None:
        """Ends the workers."""
        close = getattr(self._iterator, "close", None)
        if close is not None:
            close()


def _prepare_worker(_worker: int, _workers: int) -> None:
    """Makes a worker one of as many as there are cores to fill, and one that lives for its parent.

    Ctrl-C reaches the whole group of processes, while the parent still finishes its step; and a
    parent that is killed cannot end its workers.
    """
    cv2.setNumThreads(0)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def batches(
    load: Callable[[int], Arrays],
    *,
    count: int | None,
    batch_size: int,
    start: int = 0,
    workers: int = 0,
    process: int = 0,
    processes: int = 1,
) -> EpisodeIterator:
    """Returns the batches of elements 0, 1, 2, ….

    Args:
      load: from an element's number to its arrays; with workers it must be picklable.
      count: how many elements there are; None: without end.
      batch_size: elements a batch; the last one is filled up with its last element.
      start: number of the batch to begin with.
      workers: processes that load; 0: two threads of this one.
      process: which of the run's processes this is.
      processes: how many they are; each loads an equal piece of every batch.
    """
    # grain imports array_record, which not every system has.
    require_array_record()
    import grain

    piece = batch_size // processes
    total = _ENDLESS if count is None else -(-count // batch_size) * batch_size
    last = total - 1 if count is None else count - 1

    def element(own: int) -> Arrays:
        batch, row = divmod(own, piece)
        number = batch * batch_size + process * piece + row
        return load(min(number, last)) | {"valid": np.bool_(number <= last)}

    elements = grain.MapDataset.range(total // processes).map(element)
    dataset = elements.batch(piece, drop_remainder=True)
    return EpisodeIterator(dataset, start, workers)
