"""What is asked of a segmenter in labelled images: supports and queries of each class."""

import argparse
import hashlib
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import jax
import numpy as np
from jaxtyping import UInt8

import apanet_jax
from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.data.sources.source import Source
from apanet_jax.data.transforms import binary_label
from apanet_jax.inference.matching.presence import PRESENT
from apanet_jax.inference.segmenter import Segmenter
from apanet_jax.runtime.atomic_files import write_bytes
from apanet_jax.runtime.errors import UserError

_UNTRAINED = "-untrained"
METHODS = ("drawn", "small", "small-untrained", "dinov2", "dinov2-untrained")
Labelled = tuple[UInt8[np.ndarray, "height width 3"], UInt8[np.ndarray, "height width"]]
"""An image and its label map."""


class Task(NamedTuple):
    """A class to find, as numbers of images.

    Attributes:
      class_id: 1 for the first.
      supports: as many as the largest number of supports, or all that there are.
      shown: queries that show the class.
      absent: queries without a pixel of it.
      negatives: images without a pixel of it that are given beside the supports.
    """

    class_id: int
    supports: list[int]
    shown: list[int]
    absent: list[int]
    negatives: list[int]


class Prediction(NamedTuple):
    """What a segmenter predicts of a query.

    Attributes:
      image: number of the query.
      shown: whether the query shows the class.
      score: how likely that is, see `segmenter.Answer`.
      peak: likewise.
      likeness: likewise.
      area: pixels of the class.
      common: pixels of it in the mask.
      either: pixels of the class or in the mask; ignored ones count nowhere.
    """

    image: int
    shown: bool
    score: float
    peak: float
    likeness: float
    area: int
    common: int
    either: int

    @property
    def found(self) -> bool:
        """Whether the segmenter says that the query shows the class."""
        return self.score > PRESENT


def class_ids(source: Source, names: str) -> list[int]:
    """Returns the ids of classes by their names, separated by commas; of all where there are none.

    Raises:
      UserError: the source has no class of a name.
    """
    wanted = names.split(",") if names else source.class_names
    if unknown := set(wanted) - set(source.class_names):
        raise UserError(
            f"--classes: {source.name} has no {', '.join(sorted(unknown))}: expected some of "
            f"{', '.join(source.class_names)}"
        )
    return [source.class_names.index(name) + 1 for name in wanted]


def read(source: Source, split: str) -> list[Labelled]:
    """Returns the images of a split with their label maps."""

    def one(name: str) -> Labelled:
        sample = source.read(split, name)
        image = cv2.imdecode(np.frombuffer(sample.image, np.uint8), cv2.IMREAD_COLOR)
        return np.ascontiguousarray(image[..., ::-1]), sample.label

    return [one(name) for name in sorted(source.names(split))]


def tasks_of(
    images: Sequence[Labelled], class_ids: Sequence[int], given: argparse.Namespace
) -> list[Task]:
    """Draws supports and queries of each class that has the fewest supports asked for and a query.

    All classes go through the images in one random order, so that few images are predicted.
    """
    half = (len(images) - given.gap) // 2
    rng = np.random.default_rng(0)
    first = rng.permutation(half)
    second = half + given.gap + rng.permutation(len(images) - half - given.gap)
    most, tasks = max(given.shot), []
    for class_id in class_ids:
        area = [np.count_nonzero(label == class_id) for _, label in images]
        supports = [int(i) for i in first if area[i] >= given.min_area][:most]
        shown = [int(i) for i in second if area[i] >= given.min_area][: given.queries]
        absent = [int(i) for i in second if area[i] == 0][: given.queries]
        if len(supports) >= min(given.shot) and shown:
            negatives = [int(i) for i in first if area[i] == 0][: given.negatives]
            tasks.append(Task(class_id, supports, shown, absent, negatives))
    return tasks


def opened(method: str, size: int, folder: Path | None) -> Segmenter:
    """Returns the segmenter of a method; see `embedding_once`."""
    head, trained = method.removesuffix(_UNTRAINED), not method.endswith(_UNTRAINED)
    segmenter = apanet_jax.load(head=head, size=size or None, trained=trained)
    return embedding_once(segmenter, folder and folder / head)


def embedding_once(segmenter: Segmenter, folder: Path | None = None) -> Segmenter:
    """Makes a segmenter embed every image once, however often it is given.

    Args:
      segmenter: whose images these are.
      folder: keeps the features for later runs; None: they are kept while this one lasts.
    """
    embed, kept = segmenter.matcher.embed, {}

    def embed_once(square):
        key = hashlib.sha256(square.tobytes()).hexdigest()
        path = folder and folder / f"{key}.pickle"
        if key not in kept and path and path.exists():
            kept[key] = pickle.loads(path.read_bytes())
        if key not in kept:
            kept[key] = jax.device_get(embed(square))
            if path:
                path.parent.mkdir(parents=True, exist_ok=True)
                write_bytes(path, pickle.dumps(kept[key]))
        return kept[key]

    segmenter.matcher.embed = embed_once
    return segmenter


def predictions(
    segmenter: Segmenter,
    images: Sequence[Labelled],
    task: Task,
    shot: int,
    keep: Callable = lambda margin, truth: None,
) -> list[Prediction]:
    """Gives a segmenter `shot` supports, and returns its prediction of each query.

    Args:
      segmenter: it is fitted to the class.
      images: of the data set.
      task: the class.
      shot: number of supports.
      keep: is called with the margins and the binary label map of each query that shows the class.
    """
    supports = [images[i] for i in task.supports[:shot]]
    masks = [binary_label(label, task.class_id) for _, label in supports]
    negatives = [images[i][0] for i in task.negatives]
    segmenter.fit([image for image, _ in supports], masks, negatives=negatives)
    found = []
    for number in task.shown + task.absent:
        image, label = images[number]
        (answer,) = segmenter.answers([image])
        mask, truth = answer.mask(0), binary_label(label, task.class_id)
        counted, shown = truth != IGNORE, number in task.shown
        if shown:
            keep(answer.margin(0), truth)
        area = int(np.count_nonzero(truth == 1))
        common = int(np.count_nonzero(mask & (truth == 1)))
        either = int(np.count_nonzero((mask & counted) | (truth == 1)))
        signs = (float(x[0]) for x in (answer.scores, answer.peaks, answer.likenesses))
        found.append(Prediction(number, shown, *signs, area, common, either))
    return found
