"""Whether an image shows a class, adapted to the user's own images that do not show it.

What is known of a class is compared with each support and each negative as if that one had not been
given, and the bias of the presence's log-odds is moved to where these are told apart best.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from scipy.optimize import minimize_scalar

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.inference.matching.geometry import Grid, Label
from apanet_jax.inference.matching.matcher import Matcher
from apanet_jax.inference.matching.presence import (
    Decision,
    Prototype,
    inside,
    likeness,
    peak,
    prototype_of,
)

SPREAD = 1.0
"""Standard deviation of the bias between classes, as log-odds, before anything is known of one."""
LEAST = 4
"""So many images of one side count in full, however few there are of the other."""
MOST_COMPARED = 16
"""Supports, and negatives, that are left out in turn; all of them serve otherwise."""


def negative_label(image_size: tuple[int, int], grid: Grid) -> UInt8[np.ndarray, "size size"]:
    """Returns the label of an image that does not show the class: 0 in it, 255 outside."""
    label = np.full((grid.size, grid.size), IGNORE, np.uint8)
    height, width = grid.fitted(image_size)
    label[:height, :width] = 0
    return label


def calibrated(
    matcher: Matcher,
    learned: Any,
    features: Sequence[Any],
    labels: Sequence[Label],
    prototypes: Sequence[Prototype],
) -> Decision:
    """Returns how a class's margins become an answer.

    Args:
      matcher: by which the class was learned.
      learned: the class.
      features: of its supports, then of its negatives.
      labels: of these, see `Matcher.learn`.
      prototypes: of the supports, see `Matcher.prototype`.

    Returns:
      The matcher's own decision; where there are negatives, with another bias.
    """
    decision = matcher.decision(learned)
    shots = sum(bool((label == 1).any()) for label in labels)
    if shots == len(labels):
        return decision
    shown = range(min(shots, MOST_COMPARED) if shots > 1 else 0)
    absent = range(shots, min(len(labels), shots + MOST_COMPARED))

    def log_odds(index: int) -> float:
        """Returns the log-odds that one of the given images shows the class, by the others."""
        rows, columns = (
            int((axis.max() - matcher.grid.first) // matcher.grid.stride) + 1
            for axis in np.nonzero(labels[index] != IGNORE)
        )
        margins = np.asarray(matcher.margins(features[index], matcher.without(learned, index)))
        margins = margins[:rows, :columns]
        of_class = prototype_of([x for n, x in enumerate(prototypes) if n != index])
        appearance = matcher.appearance(features[index])
        within = inside(appearance, (rows, columns), matcher.grid.positions)
        return decision.log_odds(peak(margins), likeness(of_class, within))

    of_shown, of_absent = ([log_odds(index) for index in indices] for indices in (shown, absent))
    return decision._replace(bias=decision.bias + offset(of_shown, of_absent))


def offset(shown: Sequence[float], absent: Sequence[float]) -> float:
    """Returns what is added to log-odds, so that they tell these images apart.

    It is the most probable offset a of a logistic regression of slope 1, with a normal prior of
    mean 0 and standard deviation `SPREAD`: the least of

        sum over shown of log(1 + exp(-x - a)) + sum over absent of log(1 + exp(x + a))
        + a^2 / (2 SPREAD^2)

    in which the side with more images is weighted down to the other's number, or to `LEAST`.

    Args:
      shown: log-odds of images that show the class.
      absent: of images that do not.
    """
    shown, absent = np.asarray(shown, float), np.asarray(absent, float)
    of_shown, of_absent = (
        min(1.0, max(len(other), LEAST) / max(len(x), 1))
        for x, other in ((shown, absent), (absent, shown))
    )

    def loss(a: float) -> float:
        hits = np.logaddexp(0, -shown - a).sum() * of_shown
        return float(hits + np.logaddexp(0, absent + a).sum() * of_absent + a**2 / (2 * SPREAD**2))

    return float(minimize_scalar(loss).x)
