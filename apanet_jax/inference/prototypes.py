"""General prototypes: what the positions of many photographs look like to a frozen backbone.

They are the paper's class-agnostic prototypes, found once on many images instead of in each: what
was found in an image may resemble a class, and many other things as much. The files in
`general_prototypes/` were made by experiments/own_pictures/prototypes.py.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

DIRECTORY = Path(__file__).parent / "general_prototypes"


class Prototypes(NamedTuple):
    """The prototypes of a backbone.

    Attributes:
      mean: the mean unit feature vector over the positions of many images.
      centres: unit vectors, the centres of cosine k-means of centred features.
    """

    mean: Float[np.ndarray, " channels"]
    centres: Float[np.ndarray, "prototypes channels"]

    def centred(
        self, features: Float[np.ndarray, "*positions channels"]
    ) -> Float[np.ndarray, "*positions channels"]:
        """Returns unit vectors of what is left of unit features when the mean is taken away."""
        return _unit(_unit(np.asarray(features, np.float32)) - self.mean)


def load_prototypes(backbone: str) -> Prototypes:
    """Returns the prototypes that come with the package for a backbone.

    Args:
      backbone: "dinov2_vits14".
    """
    with np.load(DIRECTORY / f"{backbone}.npz") as arrays:
        mean, centres = (np.asarray(arrays[name], np.float32) for name in ("mean", "centres"))
    return Prototypes(mean, _unit(centres))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
