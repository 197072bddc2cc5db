"""Whole checkpoints of PFENet: the backbone and the head that was trained on it."""

import os
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.errors import UserError
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet, PictureFeatures
from apanet_jax.models.feature_enrichment import PASCAL_BINS
from apanet_jax.weights.files import read_tensors
from apanet_jax.weights.load import TABLES, parameter_shapes
from apanet_jax.weights.mapping import Convolution, Parameters, Table, convert

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


def load_checkpoint(path: str | os.PathLike, backbone: str) -> tuple[Parameters, Parameters]:
    """Returns the backbone's and the head's parameters of a PFENet checkpoint.

    Args:
      path: a `.pth` file of PFENet's training program, or its state dict alone; see
        `files.read_tensors`.
      backbone: the one it was trained with, of `models.backbones.BACKBONES`; a ResNet's stem is
        deep.

    Returns:
      The trees for `backbones.create(backbone)` and for `head()`, of float32 NumPy arrays.

    Raises:
      UserError: if there is no such file or backbone, or these are not its weights.
    """
    backbones.spec(backbone)
    tensors = read_tensors(path)
    try:
        return convert_checkpoint(tensors, backbone)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def convert_checkpoint(
    tensors: Mapping[str, np.ndarray], backbone: str
) -> tuple[Parameters, Parameters]:
    """Returns the backbone's and the head's parameters of PFENet's named tensors.

    Raises:
      UserError: if names are missing or left over in either, or do not fit.
    """
    below, above = {}, {}
    for name, tensor in tensors.items():
        (below if name.startswith(BACKBONE_PREFIX) else above)[name] = tensor
    return (
        convert(below, TABLES[backbone](below, "deep"), parameter_shapes(backbone)),
        convert(above, head_table(), head_shapes(backbone)),
    )


def head_table() -> Table:
    """Returns the table of the names that PFENet's head has, all of them."""
    return Table(kind="PFENet's head", rows=tuple(_rows()), dropped=(), epsilon=0.0)


def head_shapes(backbone: str) -> Parameters:
    """Returns the head's tree of parameters with `jax.ShapeDtypeStruct`s as leaves."""
    row = backbones.spec(backbone)

    def features(*leading):
        return PictureFeatures(
            jnp.zeros((*leading, 4, 4, row.middle_channels)),
            jnp.zeros((*leading, 4, 4, row.high_channels)),
        )

    def init(key):
        return head().init(key, features(1), features(1, 1), jnp.zeros((1, 1, 4, 4), jnp.uint8))

    return jax.eval_shape(init, jax.random.key(0))["params"]


def _rows() -> Iterator[Convolution]:
    yield Convolution(("reduce_query",), "down_query.0", None)
    yield Convolution(("reduce_support",), "down_supp.0", None)
    for level in range(len(PASCAL_BINS)):
        yield _row(f"merge_{level}", f"init_merge.{level}.0")
        if level:
            # PFENet counts these from the second level on.
            yield _row(f"alpha_{level}", f"alpha_conv.{level - 1}.0")
        yield from _refinement(f"beta_{level}", f"beta_conv.{level}")
        yield from _classifier(f"level_{level}", f"inner_cls.{level}")
    yield _row("join", "res1.0")
    yield from _refinement("refine", "res2")
    yield from _classifier("output", "cls")


def _row(ours: str, theirs: str, *inner: str, biased: bool = False) -> Convolution:
    return Convolution(("comparison", ours, *inner), theirs, None, biased)


def _refinement(ours: str, theirs: str) -> Iterator[Convolution]:
    yield _row(ours, f"{theirs}.0", "first")
    yield _row(ours, f"{theirs}.2", "second")


def _classifier(ours: str, theirs: str) -> Iterator[Convolution]:
    yield _row(ours, f"{theirs}.0", "hidden")
    yield _row(ours, f"{theirs}.3", "output", biased=True)
