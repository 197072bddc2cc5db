"""Names of VGG-16's weights in torchvision's, timm's and PFENet's files."""

from collections.abc import Iterator, Mapping

import numpy as np

from apanet_jax.models.vgg import DEPTHS
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.mapping import Convolution, Table
from apanet_jax.weights.resnet import PFENET_HEAD

# Torchvision's fully connected layers, and timm's names for them.
CLASSIFIER = ("classifier.*", "pre_logits.*", "head.*")
DROPPED = {"torchvision": CLASSIFIER, "PFENet": PFENET_HEAD}


def vgg16_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the table of the naming that a file of the plain VGG-16's weights follows."""
    return _table("vgg16", False, tensors)


def vgg16_bn_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the table of the naming that a file of VGG-16 with BatchNorm follows."""
    return _table("vgg16_bn", True, tensors)


def _table(name: str, normed: bool, tensors: Mapping[str, np.ndarray]) -> Table:
    """Returns the table of the naming that a file follows.

    Args:
      name: of the backbone, for messages.
      normed: whether a BatchNorm stands behind every convolution.
      tensors: what the file holds; the backbone alone, with a classifier, or a whole PFENet.

    Raises:
      UserError: if the file holds the other variant.
    """
    naming = "PFENet" if "layer0.0.weight" in tensors else "torchvision"
    first = "layer0" if naming == "PFENet" else "features"
    # The second module is a BatchNorm, or a ReLU without parameters.
    found = f"{first}.1.weight" in tensors
    if f"{first}.0.weight" in tensors and found != normed:
        other = "vgg16_bn" if found else "vgg16"
        raise UserError(
            f"these are weights of a VGG-16 {'with' if found else 'without'} BatchNorm, expected "
            f"those of {name}: give other weights, or choose the backbone {other}"
        )
    return Table(
        kind=f"VGG-16 {'with' if normed else 'without'} BatchNorm (named as {naming} does)",
        rows=tuple(_rows(naming, normed)),
        dropped=DROPPED[naming],
        epsilon=1e-5,
        biased=True,
    )


def _rows(naming: str, normed: bool) -> Iterator[Convolution]:
    """Yields the convolutions; the names count all modules: BatchNorm, ReLU and pooling too.

    Torchvision counts them through the whole network, PFENet anew in each of its layers.
    """
    index = 0
    for block, depth in enumerate(DEPTHS):
        if naming == "PFENet":
            index = 0
        prefix = f"layer{block}" if naming == "PFENet" else "features"
        for number in range(1, depth + 1):
            norm = f"{prefix}.{index + 1}" if normed else None
            yield Convolution((f"conv{block + 1}_{number}",), f"{prefix}.{index}", norm)
            index += 3 if normed else 2
        index += 1
