"""Whole checkpoints of PFENet (backbone and head), and heads that were saved here in its names."""

import os
from collections.abc import Mapping

import numpy as np

from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.feature_enrichment import PASCAL_BINS
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.head import head_parameters
from apanet_jax.weights.load import TABLES, parameter_shapes
from apanet_jax.weights.mapping import Parameters, convert

BACKBONE_PREFIX = "layer"
"""What the names of the backbone's tensors begin with, and no name of the head."""

CHANNELS = 256


def head(bins: tuple[float, ...] = PASCAL_BINS) -> APANet:
    """Returns the head that computes what PFENet does, without parameters.

    Args:
      bins: of the four pyramid levels. Checkpoints do not say them: 60, 30, 15, 8 were used for
        PASCAL, and 1, 1/2, 1/4, 1/8 of the features' sides for COCO.
    """
    return APANet(
        channels=CHANNELS,
        comparison="fem",
        pyramid_bins=bins,
        num_clusters=0,
        priors=("high",),
        reduction_bias=False,
    )


def load_checkpoint(
    path: str | os.PathLike, backbone: str, head: APANet, *, stem: str = "deep"
) -> tuple[Parameters | None, Parameters]:
    """Returns the backbone's and the head's parameters of a checkpoint.

    Args:
      path: a `.pth` file of PFENet's training program, or its state dict alone, or what
        `apanet_jax.export` wrote, which holds the head only; see `files.read_tensors`.
      backbone: the one it was trained with, of `models.backbones.BACKBONES`.
      head: what it is to be loaded into: `head()`, or one trained here.
      stem: of a ResNet; PFENet's are deep.

    Returns:
      The trees for `backbones.create(backbone, stem=stem)`, or None where the file holds no
      backbone, and for `head`; of float32 NumPy arrays.

    Raises:
      UserError: if there is no such file or backbone, or these are not its weights.
    """
    backbones.spec(backbone)
    tensors = read_tensors(path)
    try:
        return convert_checkpoint(tensors, backbone, head, stem=stem)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def convert_checkpoint(
    tensors: Mapping[str, np.ndarray], backbone: str, head: APANet, *, stem: str = "deep"
) -> tuple[Parameters | None, Parameters]:
    """Returns the backbone's and the head's parameters of named tensors; see `load_checkpoint`.

    Raises:
      UserError: if names are missing or left over in either, or do not fit.
    """
    below, above = {}, {}
    for name, tensor in tensors.items():
        (below if name.startswith(BACKBONE_PREFIX) else above)[name] = tensor
    parameters = head_parameters(above, head, backbone)
    if not below:
        return None, parameters
    table = TABLES[backbone](below, stem)
    return convert(below, table, parameter_shapes(backbone, stem)), parameters
