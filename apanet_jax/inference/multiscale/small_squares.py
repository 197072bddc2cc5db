"""What many small squares of an image show, by a light frozen backbone: see `close_ups`.

It is EfficientNet-Lite0 whichever head is used: a large image has more than a hundred small
squares, and in so few pixels Lite0 tells places with an object from others better than DINOv2-S, in
a fraction of the time (experiments/results/own_photographs.md).
"""

import functools
from collections.abc import Sequence

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float, UInt8

from apanet_jax.inference.matching.geometry import Grid, grid_of
from apanet_jax.inference.matching.whitening import Whitening, load_whitening
from apanet_jax.models import backbones
from apanet_jax.models.network import Parameters
from apanet_jax.weights.load import default_source, load_backbone

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

    def __init__(
        self, backbone: nn.Module, parameters: Parameters, whitening: Whitening, grid: Grid
    ):
        """Makes it of a backbone, whose block 4 is compared."""
        self.grid, self._whitening = grid, whitening
        self._parameters = jax.device_put(parameters)
        self._block4 = jax.jit(lambda p, squares: backbone.apply({"params": p}, squares).block4)

    def appearances(
        self, squares: Sequence[Square]
    ) -> Float[np.ndarray, "squares rows columns channels"]:
        """Returns whitened unit features of the squares (RGB, 0 to 255)."""
        found = []
        for first in range(0, len(squares), _BATCH):
            batch = np.stack(squares[first : first + _BATCH])
            # All batches are of one size, so that one program is compiled.
            missing = _BATCH - len(batch)
            padded = np.pad(batch, ((0, missing), (0, 0), (0, 0), (0, 0)))
            features = np.asarray(self._block4(self._parameters, padded))[: len(batch)]
            found.append(self._whitening(features))
        return np.concatenate(found)


@functools.cache
def load_small_squares() -> SmallSquares:
    """Returns what embeds small squares by the weights that come with the installation.

    Raises:
      UserError: they are missing.
    """
    parameters = load_backbone(BACKBONE, default_source(BACKBONE))
    grid = grid_of(BACKBONE, SIDE)
    return SmallSquares(backbones.create(BACKBONE), parameters, load_whitening(BACKBONE), grid)
