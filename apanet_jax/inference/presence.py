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
ALIKE_PROTOTYPES = 0.02, 0.1
"""Which share of the general prototypes, from the most alike on, what was found is compared with.

The very first may be of the class itself."""
SIMILARITY_SHARE = 0.5
"""Of the supports' similarity: that much more alike to them is expected."""

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
        return float(_sigmoid(self.log_odds(peak, likeness)))

    def log_odds(self, peak: float, likeness: float) -> float:
        """Returns the log-odds of `presence`."""
        log_odds = self.bias + self.peak_weight * (peak - self.threshold)
        return log_odds + self.likeness_weight * likeness

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
      prototypes: unit vectors of what else there is, see `prototypes`; None: none are known.
    """

    foregrounds: Float[np.ndarray, "shots channels"]
    similarity: float
    prototypes: Float[np.ndarray, "prototypes channels"] | None = None


def support_appearance(
    appearances: Sequence[Appearance],
    foregrounds: Sequence[PositionMap],
    backgrounds: Sequence[PositionMap],
    prototypes: Float[np.ndarray, "prototypes channels"] | None = None,
) -> SupportAppearance:
    """Returns how a class appears in its supports.

    Args:
      appearances: features of each support.
      foregrounds: which share of each position is the class, see `geometry.label_shares`.
      backgrounds: which share of each position is background.
      prototypes: see `SupportAppearance`.
    """
    means = np.stack([_mean(*pair) for pair in zip(appearances, foregrounds, strict=True)])
    if len(means) == 1:
        similarity = float(means[0] @ _mean(appearances[0], backgrounds[0]))
    else:
        similarity = float((means @ means.T)[np.triu_indices(len(means), 1)].mean())
    return SupportAppearance(means, similarity, prototypes)


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

    With general prototypes it is c - p - `SIMILARITY_SHARE` s instead, where p is the mean cosine
    to the prototypes that are most like what was found (`ALIKE_PROTOTYPES`), and s counts where
    there are several supports: what resembles the supports no more than many other things is no
    sign of the class. Speaker verification knows this as normalisation by a cohort.

    Args:
      supports: how the class appears.
      appearance: features of the image.
      margins: of the image, at the same positions.
      threshold: above it a position is marked.
    """
    marked = margins > min(threshold, peak(margins))
    found = _mean(appearance, marked | (margins == margins.max()))
    cosine = float((supports.foregrounds @ found).mean())
    if supports.prototypes is not None:
        cosines = np.sort(supports.prototypes @ found)[::-1]
        first, last = (int(share * len(cosines)) for share in ALIKE_PROTOTYPES)
        expected = SIMILARITY_SHARE * supports.similarity if len(supports.foregrounds) > 1 else 0.0
        return cosine - float(cosines[first : max(last, first + 1)].mean()) - expected
    return (cosine - supports.similarity) / max(1 - supports.similarity, _LEAST_SPREAD)


def _mean(appearance: Appearance, weights: PositionMap) -> Float[np.ndarray, " channels"]:
    total = np.tensordot(weights.astype(np.float32), appearance.astype(np.float32), 2)
    return total / max(float(np.linalg.norm(total)), 1e-6)


def _sigmoid(log_odds):
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
