"""Whitened features of a frozen backbone, whose cosines tell better what an object is.

Few directions of frozen features hold most of what varies between positions, and much of that, as
the place in the image or the light, says nothing of what is seen. The files in `whitenings/` were
made of many photographs by experiments/own_pictures/whitening.py.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

DIRECTORY = Path(__file__).parent / "whitenings"


class Whitening(NamedTuple):
    """What whitens the features of one block of a backbone.

    Attributes:
      mean: the mean unit feature vector over the positions of many images.
      matrix: (C + r mean(eigenvalues of C) I)^(-1/2), with the covariance C of unit features and a
        shrinkage r.
    """

    mean: Float[np.ndarray, " channels"]
    matrix: Float[np.ndarray, "channels channels"]

    def __call__(
        self, features: Float[np.ndarray, "*positions channels"]
    ) -> Float[np.ndarray, "*positions channels"]:
        """Returns unit vectors of what is left of unit features without the mean, whitened."""
        return unit((unit(np.asarray(features, np.float32)) - self.mean) @ self.matrix)


def load_whitening(backbone: str) -> Whitening:
    """Returns the whitening that comes with the package for a backbone.

    Args:
      backbone: "dinov2_vits14", for its block 3, or "efficientnet_lite0", for block 4.
    """
    with np.load(DIRECTORY / f"{backbone}.npz") as arrays:
        return Whitening(*(np.asarray(arrays[name], np.float32) for name in Whitening._fields))


def unit(x: Float[np.ndarray, "*batch channels"]) -> Float[np.ndarray, "*batch channels"]:
    """Returns unit vectors; one that is hardly longer than 0 stays so."""
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
