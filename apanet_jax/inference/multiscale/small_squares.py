"""What many small squares of an image show, by a light frozen backbone: see `close_ups`.

It is EfficientNet-Lite0 whichever head is used: a large image has more than a hundred small
squares, and in so few pixels Lite0 tells places with an object from others better than DINOv2-S, in
a fraction of the time (experiments/results/own_photographs.md).
"""

import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.geometry import grid_of
from apanet_jax.inference.matching.whitening import Whitening, load_whitening
from apanet_jax.weights.features import Backbone, load_backbone

BACKBONE = "efficientnet_lite0"
SIDE = 193
"""Of a small square, in pixels."""
_BATCH = 10

Square = UInt8[np.ndarray, "size size 3"]


class SmallSquares:
    """Embeds small squares, batch by batch.

    Attributes:
      grid: of a square.
    """

    def __init__(self, backbone: Backbone, whitening: Whitening):
        """Makes it of a backbone, whose block 4 is compared."""
        self.grid = grid_of(backbone.name, SIDE)
        self._backbone, self._whitening = backbone, whitening

    def appearances(
        self, squares: Sequence[Square]
    ) -> Float[np.ndarray, "squares rows columns channels"]:
        """Returns whitened unit features of the squares (RGB, 0 to 255)."""
        (block4,) = self._backbone.features(np.stack(squares), (4,))
        return self._whitening(np.asarray(block4))


@functools.cache
def load_small_squares() -> SmallSquares:
    """Returns what embeds small squares by the weights that come with the installation.

    Raises:
      UserError: they are missing.
    """
    return SmallSquares(load_backbone(BACKBONE, batch=_BATCH), load_whitening(BACKBONE))
