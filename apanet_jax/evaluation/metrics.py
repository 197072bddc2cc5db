"""Intersections and unions summed over episodes, and the scores made of the sums."""

from collections.abc import Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8


class EpisodeCounts(NamedTuple):
    """Pixels of background (column 0) and foreground (column 1) of each episode.

    Attributes:
      intersection: in prediction and label.
      union: in prediction or label. Ignored pixels count nowhere.
    """

    intersection: Int[Array, "batch 2"]
    union: Int[Array, "batch 2"]


def count_pixels(
    prediction: Bool[Array, "batch height width"], label: UInt8[Array, "batch height width"]
) -> EpisodeCounts:
    """Counts where predictions and labels (1, 0, 255 to ignore) agree."""
    valid = label != 255
    truth = label == 1

    def pixels(mask):
        return jnp.sum(mask & valid, (-2, -1), dtype=jnp.int32)

    return EpisodeCounts(
        jnp.stack([pixels(~prediction & ~truth), pixels(prediction & truth)], -1),
        jnp.stack([pixels(~prediction | ~truth), pixels(prediction | truth)], -1),
    )


class Scores(NamedTuple):
    """Scores in percent.

    Attributes:
      miou: mean over the classes of the foreground's summed intersection over its summed union.
      fb_iou: mean of the foreground's and the background's, summed regardless of class.
      iou_per_class: by class id; classes without any episode are absent.
    """

    miou: float
    fb_iou: float
    iou_per_class: Mapping[int, float]


class SummedCounts:
    """Sums of `EpisodeCounts` per class, exact in 64 bits; sums of parts can be merged."""

    def __init__(self, num_classes: int):
        """Starts at zero, for class ids 1 to `num_classes`."""
        self.episodes = np.zeros(num_classes + 1, np.int64)
        self.intersection = np.zeros((num_classes + 1, 2), np.int64)
        self.union = np.zeros((num_classes + 1, 2), np.int64)

    def add(
        self,
        counts: EpisodeCounts,
        class_id: Int[np.ndarray, " batch"],
        valid: Bool[np.ndarray, " batch"] | None = None,
    ) -> None:
        """Adds a batch of episodes, but for those whose `valid` is false."""
        class_id = np.asarray(class_id)
        keep = np.ones(class_id.shape, bool) if valid is None else np.asarray(valid, bool)
        np.add.at(self.episodes, class_id[keep], 1)
        np.add.at(self.intersection, class_id[keep], np.asarray(counts.intersection)[keep])
        np.add.at(self.union, class_id[keep], np.asarray(counts.union)[keep])

    def merge(self, other: "SummedCounts") -> None:
        """Adds the sums of another part of the episodes."""
        self.episodes += other.episodes
        self.intersection += other.intersection
        self.union += other.union

    def scores(self) -> Scores:
        """Returns the scores of all episodes added so far."""
        seen = np.flatnonzero(self.episodes)
        per_class = {
            int(c): 100.0 * _ratio(self.intersection[c, 1], self.union[c, 1]) for c in seen
        }
        both = [
            _ratio(i, u) for i, u in zip(self.intersection.sum(0), self.union.sum(0), strict=True)
        ]
        miou = float(np.mean(list(per_class.values()))) if per_class else 0.0
        return Scores(miou, 100.0 * float(np.mean(both)), per_class)


def _ratio(intersection: int, union: int) -> float:
    return float(intersection) / float(union) if union else 0.0
