"""Matching by a trained head on top of its frozen backbone."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.geometry import Grid, Label, label_shares, shown
from apanet_jax.inference.matching.presence import (
    Appearance,
    Decision,
    Prototype,
    masked_mean,
    nearest_decision,
)
from apanet_jax.inference.matching.whitening import unit
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet, EncodedSupport, ImageFeatures
from apanet_jax.models.network import Network, Parameters
from apanet_jax.models.prototypes import over_shots
from apanet_jax.weights.load import fingerprint

UNCALIBRATED = {1: Decision(threshold=0.0, scale=1.0)}
"""A head's decisions where none were calibrated: what training made more likely than not."""


class HeadSupport(NamedTuple):
    """A support as a head knows it; both have axes of a batch and of shots, of length 1.

    Attributes:
      features: of the image, or of the object alone where the head wants them masked.
      encoded: what the head makes of them and the label.
    """

    features: ImageFeatures
    encoded: EncodedSupport


Match = tuple[np.ndarray, np.ndarray | None]
"""What `APANet.match` returns of an image and one support."""


class _Programs(NamedTuple):
    """What a head computes of a support, of a query and a support, and of a query.

    None has an axis over the supports: with one support more, nothing is compiled.
    """

    encode: Callable
    match: Callable
    compare: Callable


class HeadMatcher:
    """Finds a class with a trained head.

    The margin is its logit of the foreground less that of the background.

    Attributes:
      network: backbone and head.
      parameters: of the head.
      backbone_parameters: of the backbone.
    """

    def __init__(
        self,
        network: Network,
        parameters: Parameters,
        backbone_parameters: Parameters,
        grid: Grid,
        decisions: Mapping[int, Decision] | None = None,
    ):
        """Makes a matcher of a network.

        Args:
          network: backbone and head.
          parameters: of the head.
          backbone_parameters: of the backbone.
          grid: see `Matcher`; the head was trained at its run's `image_size`.
          decisions: calibrated, by the number of supports; None: `UNCALIBRATED`.
        """
        self.grid, self._decisions = grid, decisions or UNCALIBRATED
        self.network, self.parameters = network, parameters
        self.backbone_parameters = backbone_parameters
        self._features = jax.jit(self._needed)
        self._last_block = jax.jit(network.masked_last_block)
        self._programs = _compiled_head(network.head.for_inference)

    def calibrated(self, shots: int) -> Decision:
        """Returns the decision that was calibrated for the nearest number of supports."""
        return nearest_decision(self._decisions, shots)

    def decision(self, learned: Sequence[HeadSupport]) -> Decision:
        return self.calibrated(len(learned))

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> backbones.Features:
        return self._features(self.backbone_parameters, square[None])

    def appearance(self, features: backbones.Features) -> Appearance:
        return unit(np.asarray(features.block4[0], np.float32))

    def prototype(self, square, label: Label, features: backbones.Features) -> Prototype:
        """See `Matcher.prototype`; of the support as it is: closer, block 4 tells less."""
        return masked_mean(self.appearance(features), label_shares(label, self.grid)[0])

    def learn(self, features, labels, chosen=None, before=None) -> tuple[HeadSupport, ...]:
        """See `Matcher.learn`; a head has no use for negatives."""
        pairs = zip(*shown(features, labels), strict=True)
        return tuple(self._support(x, label) for x, label in pairs)

    def chosen(self, learned) -> Mapping[str, Any]:
        return {}

    def stored(self, features: backbones.Features) -> dict[str, np.ndarray]:
        arrays = features._asdict()
        if not self.network.head.needs_high:
            del arrays["block5"]
        return {name: np.asarray(x) for name, x in arrays.items()}

    def restored(self, arrays: Mapping[str, np.ndarray]) -> backbones.Features:
        named = {name: jnp.asarray(x) for name, x in arrays.items()}
        return backbones.Features(named["block3"], named["block4"], named.get("block5"))

    def fingerprints(self) -> dict[str, str]:
        parts = {"backbone": self.backbone_parameters, "head": self.parameters}
        return {name: fingerprint(x) for name, x in parts.items()}

    def without(self, learned: Sequence[HeadSupport], index: int) -> tuple[HeadSupport, ...]:
        others = tuple(x for n, x in enumerate(learned) if n != index)
        return others or tuple(learned)

    def match(self, features, support: HeadSupport) -> Match:
        """Returns what an image and one support make up, which `margins` takes."""
        return jax.device_get(self._programs.match(self.network.of_images(features), *support))

    def margins(
        self, features, learned: Sequence[HeadSupport], matches: Sequence[Match] | None = None
    ) -> Float[np.ndarray, "positions positions"]:
        """See `Matcher.margins`; `matches` are those with each support, None: not yet known."""
        if matches is None:
            matches = [self.match(features, support) for support in learned]
        query = self.network.of_images(features)
        priors, allocations = zip(*matches, strict=True)
        side_by_side = None if allocations[0] is None else np.concatenate(allocations, 1)
        prototypes = np.concatenate([np.asarray(x.encoded.prototypes) for x in learned], 1)
        compared = over_shots(prototypes, side_by_side)
        prior = np.mean(priors, 0)
        return np.asarray(self._programs.compare(self.parameters, query.middle, *compared, prior))

    def log_odds(
        self, features, learned: Sequence[HeadSupport], matches: Sequence[Match] | None = None
    ) -> Float[np.ndarray, "positions positions"]:
        """Returns the log-odds that each position is of the class, if the image shows it."""
        decision = self.decision(learned)
        return (self.margins(features, learned, matches) - decision.threshold) / decision.scale

    def high(self, features: backbones.Features) -> Float[np.ndarray, "positions positions c"]:
        """Returns an image's high-level features, which training clusters."""
        if features.block5 is not None:
            return np.asarray(features.block5[0])
        whole = np.ones((1, self.grid.size, self.grid.size), np.uint8)
        return np.asarray(self._last_block(self.backbone_parameters, features.block4, whole)[0])

    @property
    def needs_high(self) -> bool:
        """Whether the head needs block 5 of an image."""
        return self.network.head.needs_high

    def _needed(self, parameters: Parameters, images: UInt8[np.ndarray, "n h w 3"]):
        features = self.network.features(parameters, images)
        skips = hasattr(self.network.backbone, "last_block") and not self.needs_high
        return features._replace(block5=None) if skips else features

    def _support(self, features, label) -> HeadSupport:
        support = self.network.of_images(features)
        if support.high is not None and self.network.masked_support:
            masked = self._last_block(self.backbone_parameters, features.block4, label[None])
            support = support._replace(high=masked)
        support = jax.tree.map(lambda x: x[None], support)
        return HeadSupport(
            support, self._programs.encode(self.parameters, support, label[None, None])
        )


@functools.lru_cache(maxsize=2)
def _compiled_head(head: APANet) -> _Programs:
    def encode(parameters, support, labels):
        return head.apply({"params": parameters}, support, labels, method="encode_support")

    def match(query, support, encoded):
        return head.apply({}, query, support, encoded, method="match")

    def compare(parameters, middle, prototypes, assignment, prior):
        own = {"params": parameters}
        encoded = head.apply(own, middle, method="encode_query")
        compared = head.apply(own, encoded, prototypes, prior, assignment, method="compare")
        logits = compared.logits[0]
        return logits[..., 1] - logits[..., 0]

    return _Programs(*map(jax.jit, (encode, match, compare)))
