"""Names of ResNets' weights in torchvision's and timm's, PSPNet's and PFENet's files."""

from collections.abc import Mapping

import numpy as np

from apanet_jax.models.resnet import RESNET50, RESNET101
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.mapping import Convolution, Table

# Per naming: the stem's convolutions and their BatchNorms, and what else such files hold.
STEMS = {
    "torchvision": (("conv1", "bn1"),),
    "PSPNet": (("conv1", "bn1"), ("conv2", "bn2"), ("conv3", "bn3")),
    "PFENet": (("layer0.0", "layer0.1"), ("layer0.3", "layer0.4"), ("layer0.6", "layer0.7")),
}
CLASSIFIER = ("fc.weight", "fc.bias")
PFENET_HEAD = (
    "cls.*",
    "down_query.*",
    "down_supp.*",
    "init_merge.*",
    "alpha_conv.*",
    "beta_conv.*",
    "inner_cls.*",
    "res1.*",
    "res2.*",
)
DROPPED = {"torchvision": CLASSIFIER, "PSPNet": CLASSIFIER, "PFENet": PFENET_HEAD}


def resnet50_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the table of the naming that a file of ResNet-50's weights follows; see `_table`."""
    return _table("ResNet-50", RESNET50, tensors, stem)


def resnet101_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the table of the naming that a file of ResNet-101's weights follows."""
    return _table("ResNet-101", RESNET101, tensors, stem)


def _table(
    name: str, depths: tuple[int, ...], tensors: Mapping[str, np.ndarray], stem: str
) -> Table:
    """Returns the table of the naming that a file follows.

    Args:
      name: of the network, for messages.
      depths: blocks of its four layers.
      tensors: what the file holds; the backbone alone, with a classifier, or a whole PFENet.
      stem: which stem is wanted, "deep" or "plain".

    Raises:
      UserError: if the file has the other stem.
    """
    naming = _naming(tensors, stem)
    found = "plain" if naming == "torchvision" else "deep"
    if found != stem:
        raise UserError(
            f"these are weights of a {name} with a {found} stem ({naming}'s), "
            f"expected a {stem} one: give other weights, or choose stem={found}"
        )
    rows = [
        Convolution((f"stem_{index}",), convolution, norm)
        for index, (convolution, norm) in enumerate(STEMS[naming])
    ]
    for layer, blocks in enumerate(depths, start=1):
        for block in range(blocks):
            ours, theirs = f"layer{layer}_{block}", f"layer{layer}.{block}"
            for number in (1, 2, 3):
                conv, norm = f"{theirs}.conv{number}", f"{theirs}.bn{number}"
                rows.append(Convolution((ours, f"conv{number}"), conv, norm))
            if block == 0:
                shortcut = f"{theirs}.downsample"
                rows.append(Convolution((ours, "downsample"), f"{shortcut}.0", f"{shortcut}.1"))
    return Table(
        kind=f"{name} with a {stem} stem (named as {naming} does)",
        rows=tuple(rows),
        dropped=DROPPED[naming],
        epsilon=1e-5,
    )


def _naming(tensors: Mapping[str, np.ndarray], stem: str) -> str:
    if "layer0.0.weight" in tensors:
        return "PFENet"
    if "conv3.weight" in tensors:
        return "PSPNet"
    if "conv1.weight" in tensors:
        return "torchvision"
    return "torchvision" if stem == "plain" else "PSPNet"
