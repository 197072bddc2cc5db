"""Matching by all positions of the supports in frozen features, which needs no training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from apanet_jax.inference.matching.geometry import (
    Grid,
    Label,
    PositionMap,
    around,
    label_shares,
    shown,
)
from apanet_jax.inference.matching.head_matcher import HeadMatcher, Match
from apanet_jax.inference.matching.leave_one_out import Fit, HeldOut, fit
from apanet_jax.inference.matching.object_features import ObjectFeatures
from apanet_jax.inference.matching.presence import (
    MARGIN,
    Appearance,
    Decision,
    Prototype,
    masked_mean,
    nearest_decision,
)
from apanet_jax.inference.matching.regions import Regions, regions, smoothed
from apanet_jax.inference.matching.rules import (
    SCALES,
    USUAL,
    PairDensities,
    SupportPositions,
    condensed,
    kept_positions,
    margins_of_pairs,
    pair_densities,
    ratio_margins,
    side_weights,
    support_positions,
    without,
)
from apanet_jax.inference.matching.whitening import unit
from apanet_jax.models.backbones import Features
from apanet_jax.models.network import Parameters
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import fingerprint

SMOOTHING = 0.5
"""Share of its region's mean in a position's margin."""
MOST_HELD_OUT = 8
"""Supports that are left out in turn; all serve as supports."""

HEAD = "head"
MIXED = {0.5: f"{USUAL} and {HEAD}", 0.75: f"{USUAL} and three times {HEAD}"}
"""Mixtures of the usual rule with a head, by the head's share."""
USUAL_SHARE = 0.5
"""Of the head where nothing is chosen: more is better for objects like those that it was trained
on, and worse for others, see experiments/results/own_photographs.md."""


class FrozenFeatures(NamedTuple):
    """What is known of an image.

    Attributes:
      positions: which rules compare.
      regions: of alike positions.
      all: what the backbone gives, for a head; without block 5 where nothing needs it, as that is
        most of a convolutional backbone's time.
      appearance: see `FrozenMatcher.appearance`; None: it is made where it is asked for.
    """

    positions: Float[Array, "rows columns channels"]
    regions: Regions
    all: Features
    appearance: Appearance | None = None


class Pair(NamedTuple):
    """A support, compared with another one or with a negative.

    Attributes:
      compared: positions of the one, positions of the other and its label. They are kept, so that
        no other object can have their ids, by which pairs are found.
      densities: see `rules.pair_densities`.
      match: what a head makes of the two; None without one, and with a negative.
    """

    compared: tuple[Any, Any, Label]
    densities: PairDensities
    match: Match | None


Pairs = Mapping[tuple[int, ...], Pair]


class Condensed(NamedTuple):
    """A support, see `rules.condensed`.

    Attributes:
      of: positions of the image and its label, kept as those of a `Pair` are.
      positions: that stand for them.
    """

    of: tuple[Any, Label]
    positions: SupportPositions


class FrozenClass(NamedTuple):
    """What was learned of a class.

    Attributes:
      supports: their positions.
      of_head: what a head learned; None without a head.
      fit: which rules the margin is made of, and its threshold.
      shots: how many supports there are; negatives follow them.
      pairs: of these, as they were compared to choose the fit.
      condensed: supports and negatives, by the ids of what they are `of`.
    """

    supports: SupportPositions
    of_head: Any
    fit: Fit
    shots: int
    pairs: Pairs
    condensed: Mapping[tuple[int, ...], Condensed]


class FrozenMatcher:
    """Finds a class by rules that compare a query's positions with those of the supports.

    Each rule's margin is divided by its scale, and a part of it is the mean over the position's
    region. Which rules make the margin of a class, and its threshold, are chosen on its supports:
    see `leave_one_out.fit`. A trained head is one of the rules where there is one.

    Attributes:
      grid: see `Matcher`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        parameters: Parameters,
        grid: Grid,
        decisions: Mapping[int, Decision],
        head: HeadMatcher | None = None,
        objects: ObjectFeatures | None = None,
    ):
        """Makes a matcher of a backbone with its parameters.

        Args:
          backbone: of `models.backbones`.
          parameters: of the backbone.
          grid: see `Matcher`.
          decisions: calibrated, by the number of supports.
          head: for the same backbone and grid; None: no head.
          objects: tells what an object is, of block 4; None: block 4 itself does.
        """
        self.grid, self._decisions = grid, decisions
        self._head, self._objects = head, objects
        rules = (*SCALES, *[HEAD] * (head is not None))
        self._mixtures = dict(zip(rules, np.eye(len(rules)), strict=True))
        self._usual = USUAL
        if head is not None:
            for share, name in MIXED.items():
                rest = (1 - share) * self._mixtures[USUAL]
                self._mixtures[name] = share * self._mixtures[HEAD] + rest
            self._usual = MIXED[USUAL_SHARE]
        self._parameters = jax.device_put(parameters)
        last_block = getattr(backbone, "last_block", None)
        skips = last_block is not None and not (head is not None and head.needs_high)

        def apply(parameters, images):
            features = backbone.apply({"params": parameters}, images)
            return features._replace(block5=None) if skips else features

        self._apply = jax.jit(apply)
        self._last_block = jax.jit(
            lambda parameters, block4: backbone.apply(
                {"params": parameters}, block4, method=last_block
            )
        )

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> FrozenFeatures:
        """See `Matcher.embed`."""
        features = self._apply(self._parameters, square[None])
        return self._known(features, regions(np.asarray(features.block4[0])))

    def appearance(self, features: FrozenFeatures) -> Appearance:
        """See `Matcher.appearance`."""
        if features.appearance is not None:
            return features.appearance
        return self._appearance(features.positions)

    def prototype(
        self, square: UInt8[np.ndarray, "size size 3"], label: Label, features: FrozenFeatures
    ) -> Prototype:
        """See `Matcher.prototype`."""
        closer, label = around(square, label, self.grid, MARGIN)
        (block4,) = self._apply(self._parameters, closer[None]).block4
        return masked_mean(self._appearance(block4), label_shares(label, self.grid)[0])

    def decision(self, learned: FrozenClass) -> Decision:
        """See `Matcher.decision`."""
        decision = nearest_decision(self._decisions, learned.shots)
        return decision._replace(threshold=learned.fit.threshold)

    def learn(
        self,
        features: Sequence[FrozenFeatures],
        labels: Sequence[Label],
        chosen: Mapping[str, Any] | None = None,
        before: FrozenClass | None = None,
    ) -> FrozenClass:
        """See `Matcher.learn`; all positions of negatives are background."""
        shots = len(shown(features, labels)[0])
        given = self._condensed(features, labels, {} if before is None else before.condensed)
        supports = support_positions([x.positions for x in given])
        by_key = {_key(x.of): x for x in given}
        of_head = self._head and self._head.learn([x.all for x in features], labels)
        if chosen is not None:
            pairs = self._pairs_of(chosen, features, labels, given)
            return FrozenClass(supports, of_head, self._fit_of(chosen), shots, pairs, by_key)
        known = {} if before is None else before.pairs
        compared: list[list[Pair]] = [[] for _ in _left_out(shots)]
        for left_out, other in _compared(features, labels):
            of_other = None if of_head is None else of_head[other : other + 1]
            pair = self._pair(features[left_out], given[other], of_other, known)
            compared[left_out].append(pair)
        held_out = [
            self._held_out(features[n], labels[n], of_head, n, pairs)
            for n, pairs in enumerate(compared)
        ]
        pairs = {_key(x.compared): x for of_support in compared for x in of_support}
        chosen_fit = fit(held_out, self._mixtures, self._usual)
        return FrozenClass(supports, of_head, chosen_fit, shots, pairs, by_key)

    def without(self, learned: FrozenClass, index: int) -> FrozenClass:
        """See `Matcher.without`."""
        rest = without(learned.supports, index, self._images(learned.supports))
        of_head = self._head and self._head.without(learned.of_head, index)
        return learned._replace(supports=rest, of_head=of_head)

    def chosen(self, learned: FrozenClass) -> dict[str, Any]:
        """See `Matcher.chosen`: the fit without its weights, which its name says, and the pairs."""
        pairs = learned.pairs.values()
        arrays = {"densities": [x.densities.logarithms for x in pairs]}
        matches = [x.match for x in pairs if x.match is not None]
        for number, name in enumerate(_MATCH):
            arrays[name] = [x[number] for x in matches if x[number] is not None]
        stacked = {name: np.stack(x) for name, x in arrays.items() if x}
        return {k: x for k, x in learned.fit._asdict().items() if k != "weights"} | stacked

    def stored(self, features: FrozenFeatures) -> dict[str, np.ndarray]:
        """See `Matcher.stored`."""
        if self._head is None:
            arrays = {"block4": np.asarray(features.all.block4)}
        else:
            arrays = self._head.stored(features.all)
        return arrays | {"regions": features.regions.astype(np.int32)}

    def restored(self, arrays: Mapping[str, np.ndarray]) -> FrozenFeatures:
        """See `Matcher.restored`."""
        blocks = Features(*(arrays.get(name) for name in Features._fields))
        # Where `embed` has them: elsewhere the same programs would be traced and compiled again.
        place = jax.tree.leaves(self._parameters)[0].sharding
        return self._known(jax.device_put(blocks, place), arrays["regions"])

    def fingerprints(self) -> dict[str, str]:
        """See `Matcher.fingerprints`."""
        of_objects = {} if self._objects is None else {"object features": self._objects.fingerprint}
        if self._head is not None:
            return self._head.fingerprints() | of_objects
        return {"backbone": fingerprint(self._parameters)} | of_objects

    def margins(self, features: FrozenFeatures, learned: FrozenClass) -> PositionMap:
        """See `Matcher.margins`."""
        # Rules without a say are not computed: they would take most of the time.
        chosen = tuple(int(n) for n in np.flatnonzero(learned.fit.weights))
        margins = self._margins(features, learned.supports, learned.of_head, chosen)
        return np.tensordot(learned.fit.weights[list(chosen)], margins, 1)

    def high(self, features: FrozenFeatures) -> Float[np.ndarray, "rows columns channels"]:
        """Returns an image's high-level features, see `Segmenter.clusters`."""
        if features.all.block5 is not None:
            return np.asarray(features.all.block5[0])
        return np.asarray(self._last_block(self._parameters, features.all.block4)[0])

    def _known(self, features: Features, of_alike: Regions) -> FrozenFeatures:
        """Returns what is known of an image, from what the backbone gives and its regions."""
        positions = features.block4[0]
        appearance = None if self._objects is None else self._appearance(positions)
        return FrozenFeatures(positions, of_alike, features, appearance)

    def _appearance(self, block4: Float[Array, "rows columns channels"]) -> Appearance:
        return unit(np.asarray(block4)) if self._objects is None else self._objects(block4)

    def _held_out(self, query, label, of_head, left_out: int, pairs: Sequence[Pair]) -> HeldOut:
        """Returns a support with its margins by the others and the negatives."""
        margins = margins_of_pairs([x.densities for x in pairs])
        if self._head is not None:
            rest = self._head.without(of_head, left_out)
            matches = [x.match for x in pairs[: len(rest)]]
            of_query = self._head.log_odds(query.all, rest, matches)
            margins = np.concatenate([margins, of_query[None]])
        margins = smoothed(margins, query.regions, SMOOTHING)
        return HeldOut(margins, *label_shares(label, self.grid))

    def _condensed(
        self,
        features: Sequence[FrozenFeatures],
        labels: Sequence[Label],
        known: Mapping[tuple[int, ...], Condensed],
    ) -> list[Condensed]:
        """Returns each support and negative condensed; those that were before are known."""
        pairs = [(x.positions, label) for x, label in zip(features, labels, strict=True)]
        return [
            known.get(_key(pair)) or Condensed(pair, condensed(*pair, self.grid)) for pair in pairs
        ]

    def _pair(self, query: FrozenFeatures, support: Condensed, of_head: Any, known: Pairs) -> Pair:
        """Returns a support, compared with another one.

        Args:
          query: the one.
          support: the other.
          of_head: what a head learned of the other alone; empty of a negative, None without a head.
          known: those that were compared before.
        """
        compared = query.positions, *support.of
        if _key(compared) in known:
            return known[_key(compared)]
        match = self._head.match(query.all, *of_head) if of_head else None
        return Pair(compared, pair_densities(query.positions, support.positions), match)

    def _pairs_of(
        self,
        chosen: Mapping[str, Any],
        features: Sequence[FrozenFeatures],
        labels: Sequence[Label],
        given: Sequence[Condensed],
    ) -> Pairs:
        """Returns the pairs that `chosen` holds; none where it is of an earlier version."""
        expected, densities = list(_compared(features, labels)), chosen.get("densities", ())
        if len(densities) != len(expected):
            return {}
        pairs, matches = {}, 0
        for logarithms, (one, other) in zip(densities, expected, strict=True):
            compared = features[one].positions, *given[other].of
            match = None
            if self._head is not None and (labels[other] == 1).any():
                of_match = (chosen[x][matches] if x in chosen else None for x in _MATCH)
                match, matches = tuple(of_match), matches + 1
            of_pair = PairDensities(logarithms, side_weights(given[other].positions))
            pairs[_key(compared)] = Pair(compared, of_pair, match)
        return pairs

    def _fit_of(self, chosen: Mapping[str, Any]) -> Fit:
        """Returns the fit that `chosen` describes."""
        name = chosen.get("name")
        if name not in self._mixtures:
            raise UserError(
                f"the rule {name!r} was chosen by another version of apanet_jax, this one has "
                f"{', '.join(self._mixtures)}: fit the supports again"
            )
        return Fit(name, self._mixtures[name], chosen["threshold"], chosen["ious"])

    def _images(self, supports: SupportPositions) -> int:
        return len(supports.features) // kept_positions(self.grid)

    def _margins(
        self,
        features: FrozenFeatures,
        supports: SupportPositions,
        of_head: Any,
        chosen: tuple[int, ...] | None = None,
    ) -> Float[np.ndarray, "rules rows columns"]:
        """Returns the margins of the chosen rules; None: of all."""
        rules = len(SCALES) + (self._head is not None)
        chosen = tuple(range(rules)) if chosen is None else chosen
        margins = []
        if ratios := tuple(n for n in chosen if n < len(SCALES)):
            margins.append(np.asarray(ratio_margins(features.positions, supports, ratios)))
        if self._head is not None and len(SCALES) in chosen:
            margins.append(self._head.log_odds(features.all, of_head)[None])
        return smoothed(np.concatenate(margins), features.regions, SMOOTHING)


_MATCH = ("priors", "allocations")
"""The parts of a `Match`, as `FrozenMatcher.chosen` names them."""


def _left_out(shots: int) -> range:
    """Returns which supports are compared with the others."""
    return range(min(shots, MOST_HELD_OUT) if shots > 1 else 0)


def _compared(features: Sequence[Any], labels: Sequence[Label]) -> Iterator[tuple[int, int]]:
    """Yields each support that is left out with each other one, and with each negative."""
    for one in _left_out(len(shown(features, labels)[0])):
        yield from ((one, other) for other in range(len(features)) if other != one)


def _key(compared: tuple[Any, ...]) -> tuple[int, ...]:
    return tuple(map(id, compared))
