"""Whether a picture shows a thing at all: what was found is held against the supports.

A segmenter always marks what looks most like the thing. Two signs tell whether that is it: by how
much it stands out (`peak`), and whether it looks like the supports' foreground as much as these
look like each other (`likeness`). `Decision` turns them into a probability.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

PEAK_QUANTILE = 0.99
_LEAST_SPREAD = 0.5

Cells = Float[np.ndarray, "height width"]
Appearance = Float[np.ndarray, "height width channels"]
"""Features of a picture whose means over a thing tell what it is; for a head those of block 4."""


class Decision(NamedTuple):
    """How margins become an answer.

    Attributes:
      threshold: above it a pixel is of the class.
      scale: of the margins: (margin - threshold) / scale is the log-odds that a pixel is of the
        class, in a picture that shows it.
      bias: the log-odds that a picture shows the class are bias + peak_weight (peak - threshold)
        + likeness_weight likeness.
      peak_weight: see `bias`.
      likeness_weight: see `bias`.
    """

    threshold: float
    scale: float
    bias: float = 0.0
    peak_weight: float = 1.0
    likeness_weight: float = 0.0

    def presence(self, peak: float, likeness: float) -> float:
        """Returns the probability that a picture shows the class, if half of the pictures do."""
        log_odds = self.bias + self.peak_weight * (peak - self.threshold)
        return float(_sigmoid(log_odds + self.likeness_weight * likeness))

    def probability(self, margin: np.ndarray) -> np.ndarray:
        """Returns how likely pixels are of the class, if their picture shows it."""
        return _sigmoid((margin - self.threshold) / self.scale)


class Look(NamedTuple):
    """How a class looks.

    Attributes:
      foregrounds: the unit mean features of each support's foreground.
      alike: the mean cosine of two supports' foregrounds; with one support, that of its foreground
        to its background.
    """

    foregrounds: Float[np.ndarray, "shots channels"]
    alike: float


def look_of(
    appearances: Sequence[Appearance], foregrounds: Sequence[Cells], backgrounds: Sequence[Cells]
) -> Look:
    """Returns how a class looks in its supports.

    Args:
      appearances: of each support.
      foregrounds: how much of each cell is the class.
      backgrounds: how much of it is something else.
    """
    before = np.stack([_mean(*pair) for pair in zip(appearances, foregrounds, strict=True)])
    if len(before) == 1:
        return Look(before, float(before[0] @ _mean(appearances[0], backgrounds[0])))
    cosines = before @ before.T
    return Look(before, float(cosines[np.triu_indices(len(before), 1)].mean()))


def peak(margins: Cells) -> float:
    """Returns the margin that a hundredth of a picture exceeds."""
    return float(np.quantile(margins, PEAK_QUANTILE))


def likeness(look: Look, appearance: Appearance, margins: Cells, threshold: float) -> float:
    """Returns how much what was found looks like the class.

    The mean features of the cells above the threshold (or of the highest hundredth, where that is
    below it) have a mean cosine c to the supports' foregrounds; the likeness is (c - a) / (1 - a)
    with a = `look.alike`, but no more than twice c - a, where the supports are hardly different. So
    0 is as alike as the supports are, and 1 the same again.
    """
    marked = margins > min(threshold, peak(margins))
    found = _mean(appearance, marked | (margins == margins.max()))
    cosine = float((look.foregrounds @ found).mean())
    return (cosine - look.alike) / max(1 - look.alike, _LEAST_SPREAD)


def _mean(appearance: Appearance, weights: Cells) -> Float[np.ndarray, " channels"]:
    total = np.tensordot(weights.astype(np.float32), appearance.astype(np.float32), 2)
    return total / max(float(np.linalg.norm(total)), 1e-6)


def _sigmoid(log_odds):
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
