"""Whether an image shows a class at all: what was found is compared with the supports.

A segmenter always marks what resembles the class most. Two measures tell whether that is the class:
by how much it stands out (`peak`), and whether it resembles the supports' foreground as much as
these resemble each other (`likeness`). `Decision` turns them into a probability.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from apanet_jax.inference.geometry import PositionMap

PEAK_QUANTILE = 0.99
_LEAST_SPREAD = 0.5

Appearance = Float[np.ndarray, "rows columns channels"]
"""Features whose mean over an object tells its class; those of block 4 for a head."""


class Decision(NamedTuple):
    """How margins become an answer.

    Attributes:
      threshold: above it a pixel is of the class.
      scale: of the margins: (margin - threshold) / scale is the log-odds that a pixel is of the
        class, in an image that shows it.
      bias: the log-odds that an image shows the class are bias + peak_weight (peak - threshold)
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
        """Returns the probability that an image shows the class, if half of the images do."""
        log_odds = self.bias + self.peak_weight * (peak - self.threshold)
        return float(_sigmoid(log_odds + self.likeness_weight * likeness))

    def probability(self, margin: np.ndarray) -> np.ndarray:
        """Returns the probability that pixels are of the class, if their image shows it."""
        return _sigmoid((margin - self.threshold) / self.scale)


def nearest_decision(decisions: Mapping[int, Decision], shots: int) -> Decision:
    """Returns the decision for the number of supports that is nearest to `shots`."""
    return decisions[min(decisions, key=lambda calibrated: abs(calibrated - shots))]


class SupportAppearance(NamedTuple):
    """How a class appears in its supports.

    Attributes:
      foregrounds: the unit mean features of each support's foreground.
      similarity: the mean cosine of two supports' foregrounds; with one support, the cosine of its
        foreground to its background.
    """

    foregrounds: Float[np.ndarray, "shots channels"]
    similarity: float


def support_appearance(
    appearances: Sequence[Appearance],
    foregrounds: Sequence[PositionMap],
    backgrounds: Sequence[PositionMap],
) -> SupportAppearance:
    """Returns how a class appears in its supports.

    Args:
      appearances: features of each support.
      foregrounds: which share of each position is the class, see `geometry.label_shares`.
      backgrounds: which share of each position is background.
    """
    means = np.stack([_mean(*pair) for pair in zip(appearances, foregrounds, strict=True)])
    if len(means) == 1:
        return SupportAppearance(means, float(means[0] @ _mean(appearances[0], backgrounds[0])))
    cosines = means @ means.T
    return SupportAppearance(means, float(cosines[np.triu_indices(len(means), 1)].mean()))


def peak(margins: PositionMap) -> float:
    """Returns the margin that a hundredth of an image's positions exceed."""
    return float(np.quantile(margins, PEAK_QUANTILE))


def likeness(
    supports: SupportAppearance, appearance: Appearance, margins: PositionMap, threshold: float
) -> float:
    """Returns how much what was found resembles the class.

    The mean features of the positions above the threshold (or of the highest hundredth, where that
    is below it) have a mean cosine c to the supports' foregrounds. With s = `supports.similarity`
    the likeness is (c - s) / (1 - s), but no more than twice c - s, where the supports hardly
    differ. So 0 is as similar as the supports are to each other, and 1 is equal to them.

    Args:
      supports: how the class appears.
      appearance: features of the image.
      margins: of the image, at the same positions.
      threshold: above it a position is marked.
    """
    marked = margins > min(threshold, peak(margins))
    found = _mean(appearance, marked | (margins == margins.max()))
    cosine = float((supports.foregrounds @ found).mean())
    return (cosine - supports.similarity) / max(1 - supports.similarity, _LEAST_SPREAD)


def _mean(appearance: Appearance, weights: PositionMap) -> Float[np.ndarray, " channels"]:
    total = np.tensordot(weights.astype(np.float32), appearance.astype(np.float32), 2)
    return total / max(float(np.linalg.norm(total)), 1e-6)


def _sigmoid(log_odds):
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
