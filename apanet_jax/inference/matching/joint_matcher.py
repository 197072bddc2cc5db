"""Two matchers with different backbones as one: the margin is the mean of their log-odds.

No backbone is best for all images: on animals DINOv2-S is far ahead of EfficientNet-Lite0, on
streets behind it. Their mean is near the better one or above it, and a choice between them by a few
supports is not as good; see experiments/results/own_photographs.md.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.frozen_matcher import FrozenClass, FrozenFeatures, FrozenMatcher
from apanet_jax.inference.matching.geometry import (
    Label,
    PositionMap,
    fitted_square,
    interpolation_weights,
    square_label,
)
from apanet_jax.inference.matching.presence import Appearance, Decision, Prototype

FIRST, SECOND = "first", "second"


class JointFeatures(NamedTuple):
    """What two matchers know of an image."""

    first: FrozenFeatures
    second: FrozenFeatures


class JointClass(NamedTuple):
    """What was learned of a class.

    Attributes:
      first: by the first matcher.
      second: by the second one.
      labels: supports' labels as they were given and in the second matcher's square, by the ids of
        the former: the second matcher knows its pairs again by the ids of the latter.
    """

    first: FrozenClass
    second: FrozenClass
    labels: Mapping[int, tuple[Label, Label]]


class JointMatcher:
    """Finds a class by two matchers: the margin is the mean of their log-odds.

    Positions are those of the first; the log-odds of the second are interpolated at them. What an
    object is tells the second.

    Attributes:
      grid: see `Matcher`.
    """

    def __init__(self, first: FrozenMatcher, second: FrozenMatcher):
        """Makes a matcher of two.

        Args:
          first: whose square is the joint one.
          second: sees that square in the size of its own.
        """
        self.grid, self._first, self._second = first.grid, first, second
        self._matchers = {FIRST: first, SECOND: second}
        near, far = first.grid, second.grid
        centres = near.first + near.stride * np.arange(near.positions)
        fitted = far.fitted((near.size, near.size))[0]
        pixels = (centres + 0.5) * (fitted / near.size) - 0.5
        self._between = interpolation_weights(far.positions, (pixels - far.first) / far.stride)

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> JointFeatures:
        """See `Matcher.embed`."""
        in_second = fitted_square(square, self._second.grid)
        return JointFeatures(self._first.embed(square), self._second.embed(in_second))

    def appearance(self, features: JointFeatures) -> Appearance:
        """See `Matcher.appearance`."""
        return self._second.appearance(features.second)

    def prototype(
        self, square: UInt8[np.ndarray, "size size 3"], label: Label, features: JointFeatures
    ) -> Prototype:
        """See `Matcher.prototype`."""
        return self._second.prototype(square, label, features.second)

    def learn(
        self,
        features: Sequence[JointFeatures],
        labels: Sequence[Label],
        chosen: Mapping[str, Any] | None = None,
        before: JointClass | None = None,
    ) -> JointClass:
        """See `Matcher.learn`."""
        known = {} if before is None else before.labels
        pairs = {id(x): known.get(id(x)) or (x, square_label(x, self._second.grid)) for x in labels}
        of_both = [
            matcher.learn(
                [x[number] for x in features],
                [pairs[id(x)][number] for x in labels],
                chosen and _beginning(chosen, name),
                before and before[number],
            )
            for number, (name, matcher) in enumerate(self._matchers.items())
        ]
        return JointClass(*of_both, pairs)

    def without(self, learned: JointClass, index: int) -> JointClass:
        """See `Matcher.without`."""
        return learned._replace(
            first=self._first.without(learned.first, index),
            second=self._second.without(learned.second, index),
        )

    def decision(self, learned: JointClass) -> Decision:
        """See `Matcher.decision`: the margins are log-odds."""
        return self._first.decision(learned.first)._replace(threshold=0.0, scale=1.0)

    def margins(self, features: JointFeatures, learned: JointClass) -> PositionMap:
        """See `Matcher.margins`."""
        log_odds = []
        for number, matcher in enumerate(self._matchers.values()):
            decision = matcher.decision(learned[number])
            margins = matcher.margins(features[number], learned[number])
            log_odds.append((margins - decision.threshold) / decision.scale)
        return (log_odds[0] + self._between @ log_odds[1] @ self._between.T) / 2

    def chosen(self, learned: JointClass) -> dict[str, Any]:
        """See `Matcher.chosen`."""
        return {
            f"{name}.{k}": x
            for number, (name, matcher) in enumerate(self._matchers.items())
            for k, x in matcher.chosen(learned[number]).items()
        }

    def stored(self, features: JointFeatures) -> dict[str, np.ndarray]:
        """See `Matcher.stored`."""
        return {
            f"{name}.{k}": x
            for number, (name, matcher) in enumerate(self._matchers.items())
            for k, x in matcher.stored(features[number]).items()
        }

    def restored(self, arrays: Mapping[str, np.ndarray]) -> JointFeatures:
        """See `Matcher.restored`."""
        of_both = (x.restored(_beginning(arrays, name)) for name, x in self._matchers.items())
        return JointFeatures(*of_both)

    def fingerprints(self) -> dict[str, str]:
        """See `Matcher.fingerprints`."""
        of_second = {f"second {k}": x for k, x in self._second.fingerprints().items()}
        return self._first.fingerprints() | of_second

    def high(self, features: JointFeatures) -> Float[np.ndarray, "rows columns channels"]:
        """Returns an image's high-level features, see `Segmenter.clusters`."""
        return self._first.high(features.first)


def _beginning(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns what belongs to a matcher, by the rest of its names."""
    start = f"{name}."
    return {k.removeprefix(start): x for k, x in given.items() if k.startswith(start)}
