"""Matching by a trained head on top of its frozen backbone."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.geometry import Grid, shown
from apanet_jax.inference.presence import Appearance, Decision, nearest_decision
from apanet_jax.inference.whitening import unit
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet, ImageFeatures
from apanet_jax.models.network import Network, Parameters
from apanet_jax.weights.load import fingerprint

UNCALIBRATED = {1: Decision(threshold=0.0, scale=1.0)}
"""A head's decisions where none were calibrated: what training made more likely than not."""


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
        self._compare = _compiled_head(network.head.for_inference)

    def calibrated(self, shots: int) -> Decision:
        """Returns the decision that was calibrated for the nearest number of supports."""
        return nearest_decision(self._decisions, shots)

    def decision(self, learned: tuple[ImageFeatures, UInt8[np.ndarray, "1 shots s s"]]) -> Decision:
        return self.calibrated(learned[1].shape[1])

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> backbones.Features:
        return self._features(self.backbone_parameters, square[None])

    def appearance(self, features: backbones.Features) -> Appearance:
        return unit(np.asarray(features.block4[0], np.float32))

    def learn(
        self, features, labels, chosen=None
    ) -> tuple[ImageFeatures, UInt8[np.ndarray, "1 shots s s"]]:
        """See `Matcher.learn`; a head has no use for negatives."""
        features, labels = shown(features, labels)
        parts = [self._support(x, label) for x, label in zip(features, labels, strict=True)]
        support = jax.tree.map(lambda *x: jnp.concatenate(x)[None], *parts)
        return support, np.stack(labels)[None]

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

    def without(self, learned, index: int) -> tuple[ImageFeatures, np.ndarray]:
        support, labels = learned
        shots = labels.shape[1]
        if index >= shots or shots == 1:
            return learned
        others = np.arange(shots) != index
        return jax.tree.map(lambda x: x[:, others], support), labels[:, others]

    def margins(self, features, learned) -> Float[np.ndarray, "positions positions"]:
        query = self.network.of_images(features)
        return np.asarray(self._compare(self.parameters, query, *learned))

    def densities(self, features, learned) -> None:
        return None

    def log_odds(self, features, learned) -> Float[np.ndarray, "positions positions"]:
        """Returns the log-odds that each position is of the class, if the image shows it."""
        decision = self.decision(learned)
        return (self.margins(features, learned) - decision.threshold) / decision.scale

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

    def _support(self, features, label) -> ImageFeatures:
        support = self.network.of_images(features)
        if support.high is None or not self.network.masked_support:
            return support
        masked = self._last_block(self.backbone_parameters, features.block4, label[None])
        return support._replace(high=masked)


@functools.lru_cache(maxsize=2)
def _compiled_head(head: APANet):
    def margins(parameters, query, support, labels):
        logits = head.apply({"params": parameters}, query, support, labels).logits[0]
        return logits[..., 1] - logits[..., 0]

    return jax.jit(margins)
