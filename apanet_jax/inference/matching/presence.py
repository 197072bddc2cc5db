"""Whether an image shows a class at all: what it shows is compared with the supports.

A segmenter always marks what resembles the class most. Two measures tell whether that is the class:
by how much it stands out (`peak`), and how much of the image is alike what the supports show
(`likeness`). `Decision` turns them into a probability.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Float

from apanet_jax.inference.matching.geometry import PositionMap
from apanet_jax.inference.matching.whitening import unit

PRESENT = 0.5
"""A class whose presence is above this is found."""
PEAK_QUANTILE = 0.99
ALIKE_SHARE = 0.1
"""Of an image's positions, in those that are compared with a class."""
MARGIN = 1.3
"""Longer side of what is seen of a support for its prototype, in longer sides of the object."""
FOREGROUND_SHARE = 0.5
"""Of the largest share of the class in a position of a support: those with as much count."""
LIKENESS_SHARE = 2.0
"""How much of an image's likeness counts in the rank of each of its positions."""

Appearance = Float[np.ndarray, "rows columns channels"]
"""Unit features that tell what an object is, of a whole square; see `Matcher.appearance`."""
Prototype = Float[np.ndarray, " channels"]
"""The unit mean feature of a class."""


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


def masked_mean(appearance: Appearance, foreground: PositionMap) -> Prototype:
    """Returns how a class appears in one support: masked average pooling.

    Args:
      appearance: of the support.
      foreground: which share of each position is the class, see `geometry.label_shares`, at any
        number of positions.
    """
    rows, columns = appearance.shape[:2]
    shares = cv2.resize(
        foreground.astype(np.float32), (columns, rows), interpolation=cv2.INTER_AREA
    )
    shares = np.where(shares >= FOREGROUND_SHARE * shares.max(), shares, 0)
    return unit(np.tensordot(shares, appearance, 2))


def prototype_of(supports: Sequence[Prototype]) -> Prototype:
    """Returns how a class appears, from how it does in each of its supports: all count alike."""
    return unit(np.mean(supports, 0))


def inside(
    appearance: Appearance, window: tuple[int, int], positions: int
) -> Float[np.ndarray, "rows columns channels"]:
    """Returns the features of the part of a square that an image fills, rounded up.

    Args:
      appearance: of the square.
      window: rows and columns of margins that are centred on the image.
      positions: of margins, along each side of the square.
    """
    rows, columns = (
        math.ceil(count * length / positions)
        for count, length in zip(window, appearance.shape[:2], strict=True)
    )
    return appearance[:rows, :columns]


def peak(margins: PositionMap) -> float:
    """Returns the margin that a hundredth of an image's positions exceed."""
    return float(np.quantile(margins, PEAK_QUANTILE))


def likeness(of_class: Prototype, appearance: Float[np.ndarray, "rows columns channels"]) -> float:
    """Returns how much an image resembles a class: cos(p, mean of q_x over the x most alike).

    With the class's prototype p and the image's features q_x, these are the positions x with the
    highest cos(p, q_x), `ALIKE_SHARE` of all.

    Args:
      of_class: its prototype.
      appearance: of the image, without what is beyond it.
    """
    flat = appearance.reshape(-1, appearance.shape[-1])
    most = max(round(ALIKE_SHARE * len(flat)), 1)
    alike = np.argpartition(-(flat @ of_class), most - 1)[:most]
    return float(unit(flat[alike].mean(0)) @ of_class)


def ranks(
    of_class: Prototype, appearance: Appearance, likeness: float, positions: int
) -> PositionMap:
    """Returns how well each position of an image goes with a class, on one scale for all classes.

    It is cos(p, q_x) + `LIKENESS_SHARE` likeness: what is there, and what the whole image says.
    Margins of different classes do not compare: each is against the background of its own supports.

    Args:
      of_class: its prototype p.
      appearance: features q_x of the whole square, between which the cosine is interpolated.
      likeness: of the image.
      positions: along each side of the square.
    """
    cosines = (appearance @ of_class).astype(np.float32)
    found = cv2.resize(cosines, (positions, positions), interpolation=cv2.INTER_LINEAR)
    return found + LIKENESS_SHARE * likeness


def _sigmoid(log_odds):
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
