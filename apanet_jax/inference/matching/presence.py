"""Whether an image shows a class at all: what was found is compared with the supports.

A segmenter always marks what resembles the class most. Two measures tell whether that is the class:
by how much it stands out (`peak`), and how much the image resembles the supports' foreground
(`likeness`). `Decision` turns them into a probability.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from apanet_jax.inference.matching.geometry import PositionMap
from apanet_jax.inference.matching.whitening import unit

PRESENT = 0.5
"""A class whose presence is above this is found."""
PEAK_QUANTILE = 0.99
ALIKE_QUANTILE = 0.97
"""Of an image's cosines to a class: they are exceeded by few positions, but not by single ones."""
FOREGROUND_SHARE = 0.5
"""A position of a support is compared where the class has more than this share of it."""
DENSITY_BANDWIDTH = 0.2
LIKENESS_SHARE = 2.0
"""How much of an image's likeness counts in the rank of each of its positions."""
_LEAST_POSITIONS, _MOST_POSITIONS = 3, 4096
"""Of all supports. Where fewer are compared, or more, it is those with the most of the class, or
some of all of them."""

Appearance = Float[np.ndarray, "rows columns channels"]
"""Unit features that tell what an object is; see `Matcher.appearance`."""


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
      positions: unit features of the foreground's positions.
      weights: of these, with the sum 1; every support has the same.
      means: the unit mean features of each support's foreground.
    """

    positions: Float[np.ndarray, "positions channels"]
    weights: Float[np.ndarray, " positions"]
    means: Float[np.ndarray, "shots channels"]


def support_appearance(
    appearances: Sequence[Appearance], foregrounds: Sequence[PositionMap]
) -> SupportAppearance:
    """Returns how a class appears in its supports.

    Args:
      appearances: features of each support.
      foregrounds: which share of each position is the class, see `geometry.label_shares`.
    """
    most = max(_MOST_POSITIONS // len(appearances), _LEAST_POSITIONS)
    positions, weights, means = [], [], []
    for appearance, foreground in zip(appearances, foregrounds, strict=True):
        flat, shares = appearance.reshape(-1, appearance.shape[-1]), foreground.ravel()
        chosen = np.flatnonzero(shares > FOREGROUND_SHARE)
        if len(chosen) < _LEAST_POSITIONS:
            chosen = np.argsort(-shares, kind="stable")[:_LEAST_POSITIONS]
        chosen = chosen[:: -(-len(chosen) // most)]
        positions.append(flat[chosen].astype(np.float32))
        weights.append(np.full(len(chosen), 1 / len(chosen) / len(appearances), np.float32))
        means.append(_mean(appearance, foreground))
    return SupportAppearance(np.concatenate(positions), np.concatenate(weights), np.stack(means))


def peak(margins: PositionMap) -> float:
    """Returns the margin that a hundredth of an image's positions exceed."""
    return float(np.quantile(margins, PEAK_QUANTILE))


def likeness(
    supports: SupportAppearance, appearance: Appearance, margins: PositionMap, threshold: float
) -> float:
    """Returns how much an image resembles the class: the mean of three cosines.

    With unit features s_p of the supports' foreground, their weights w_p, the supports' means m_i,
    and unit features q_x of the image, they are

        sum_p w_p max_x cos(s_p, q_x)    how well what the supports show is found in the image,
        quantile_x cos(mean_i m_i, q_x)  how much few of its positions resemble all of it, and
        mean_i cos(m_i, mean_marked q_x) how much what was found does,

    where the positions above the threshold are marked (or the highest hundredth, where that is
    below it).

    Args:
      supports: how the class appears.
      appearance: features of the image.
      margins: of the image, at the same positions.
      threshold: above it a position is marked.
    """
    marked = margins > min(threshold, peak(margins))
    found = _mean(appearance, marked | (margins == margins.max()))
    flat = appearance.reshape(-1, appearance.shape[-1]).astype(np.float32)
    covered = supports.weights @ (supports.positions @ flat.T).max(1)
    alike = np.quantile(flat @ unit(supports.means.mean(0)), ALIKE_QUANTILE)
    return float((covered + alike + (supports.means @ found).mean()) / 3)


def ranks(supports: SupportAppearance, appearance: Appearance, likeness: float) -> PositionMap:
    """Returns how well each position of an image goes with a class, on one scale for all classes.

    With the supports' positions s_p, their weights w_p and h = `DENSITY_BANDWIDTH` it is

        h log(sum_p w_p exp(cos(s_p, q_x) / h)) + `LIKENESS_SHARE` likeness,

    how dense the class's supports are around the position, and what the whole image says. Margins
    of different classes do not compare: each is against the background of its own supports.

    Args:
      supports: how the class appears.
      appearance: features of the image.
      likeness: of the image.
    """
    flat = appearance.reshape(-1, appearance.shape[-1]).astype(np.float32)
    kernel = np.exp(flat @ supports.positions.T / DENSITY_BANDWIDTH) @ supports.weights
    found = DENSITY_BANDWIDTH * np.log(kernel) + LIKENESS_SHARE * likeness
    return found.reshape(appearance.shape[:2])


def _mean(appearance: Appearance, weights: PositionMap) -> Float[np.ndarray, " channels"]:
    return unit(np.tensordot(weights.astype(np.float32), appearance.astype(np.float32), 2))


def _sigmoid(log_odds):
    return 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
