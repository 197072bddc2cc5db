"""Which rules find a class best, and at which threshold, by its own supports.

Each support in turn is compared with the others.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from apanet_jax.inference.matching.geometry import PositionMap

THRESHOLDS = np.round(np.arange(-2.0, 2.01, 0.25), 2)
"""That are tried, as log-odds."""
GAIN, SLACK = 0.01, 0.02
"""Differences of IoU that count for little on a few supports."""


class HeldOut(NamedTuple):
    """An image that was compared with supports, and where the class is in it.

    Attributes:
      margins: of each rule.
      foreground: which share of each position is the class, see `geometry.label_shares`.
      background: which share of each position is background.
    """

    margins: Float[np.ndarray, "rules rows columns"]
    foreground: PositionMap
    background: PositionMap


class Fit(NamedTuple):
    """How the margins of a class are made.

    Attributes:
      name: of the mixture of rules.
      weights: of each rule; the margin is the weighted sum.
      threshold: above it a position is marked.
      ious: of each mixture on what was held out; empty where nothing was.
    """

    name: str
    weights: Float[np.ndarray, " rules"]
    threshold: float
    ious: dict[str, float]


def fit(
    held_out: Sequence[HeldOut], mixtures: Mapping[str, Float[np.ndarray, " rules"]], usual: str
) -> Fit:
    """Returns which mixture of rules finds the class best, and at which threshold.

    Another one than the usual is taken where its IoU is higher by `GAIN` or more, and of the
    thresholds whose IoU is within `SLACK` of the best, the one nearest to 0: few images choose.

    Args:
      held_out: see `HeldOut`; where there is none, the usual mixture is taken with threshold 0.
      mixtures: weights of the rules, by name.
      usual: one of them.
    """
    if not held_out:
        return Fit(usual, mixtures[usual], 0.0, {})
    of_each = dict(zip(mixtures, mean_ious(held_out, np.stack([*mixtures.values()])), strict=True))
    best = {name: float(ious.max()) for name, ious in of_each.items()}
    name = max(best, key=best.__getitem__)
    if best[name] < best[usual] + GAIN:
        name = usual
    near = THRESHOLDS[of_each[name] >= best[name] - SLACK]
    threshold = float(near[np.abs(near).argmin()])
    return Fit(name, mixtures[name], threshold, {n: round(x, 4) for n, x in best.items()})


def mean_ious(
    held_out: Sequence[HeldOut], weights: Float[np.ndarray, "mixtures rules"]
) -> Float[np.ndarray, "mixtures thresholds"]:
    """Returns the IoU of the class, the mean over images, at each of `THRESHOLDS`.

    Args:
      held_out: the images; each shows the class.
      weights: of the rules in each mixture.
    """
    found = []
    for margins, foreground, background in held_out:
        mixed = np.tensordot(weights, margins, 1)
        above = mixed[:, None] > THRESHOLDS[:, None, None]
        hits = (above * foreground).sum((2, 3))
        false = (above * background).sum((2, 3))
        found.append(hits / (foreground.sum() + false))
    return np.mean(found, 0)
