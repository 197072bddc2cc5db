"""The trained head's tensors in PyTorch's names and layouts, both ways.

With the comparison `fem` the names are those of PFENet's published network, whose modules can load
them: it is the same network, whether it was trained with the class-agnostic branch or without.
`conv` has names of the same kind, `compare.0` (3x3) and `compare.3` (1x1).
"""

from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet, ImageFeatures
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.mapping import Convolution, Parameters, Table, convert, foreign


def head_table(head: APANet) -> Table:
    """Returns the table of a head's names, all of them."""
    rows = list(_fem_rows(len(head.pyramid_bins)) if head.comparison == "fem" else _conv_rows())
    reductions = {"reduce_query": "down_query.0", "reduce_support": "down_supp.0"}
    if head.shared_reduction:
        del reductions["reduce_query"]
    rows += [
        Convolution((ours,), theirs, None, head.reduction_bias)
        for ours, theirs in reductions.items()
    ]
    kind = f"a head that compares by {head.comparison}"
    return Table(kind=kind, rows=rows, dropped=(), epsilon=0)


def head_shapes(head: APANet, backbone: str) -> Parameters:
    """Returns a head's tree of parameters with `jax.ShapeDtypeStruct`s as leaves.

    Args:
      head: the module.
      backbone: whose features it takes, a name of `models.backbones.BACKBONES`.
    """
    row = backbones.spec(backbone)
    # Neither has parameters, and each may be more than the few positions below.
    head = head.clone(query_clusters=0, foreground_prototypes=1)

    def features(*leading):
        return ImageFeatures(
            jnp.zeros((*leading, 4, 4, row.middle_channels)),
            jnp.zeros((*leading, 4, 4, row.high_channels)),
        )

    def init(key):
        return head.init(key, features(1), features(1, 1), jnp.zeros((1, 1, 4, 4), jnp.uint8))

    return jax.eval_shape(init, jax.random.key(0))["params"]


def head_parameters(
    tensors: Mapping[str, np.ndarray], head: APANet, backbone: str
) -> dict[str, Any]:
    """Returns a head's parameters made of named tensors.

    Raises:
      UserError: if names are missing or left over, or shapes are of other settings.
    """
    try:
        return convert(tensors, head_table(head), head_shapes(head, backbone))
    except UserError as error:
        raise UserError(
            f"{error}; the settings must be those of the training: backbone, model.comparison, "
            "model.channels, model.priors, model.pyramid_bins, model.shared_reduction"
        ) from None


def head_tensors(parameters: Parameters, head: APANet) -> dict[str, np.ndarray]:
    """Returns a head's named tensors, kernels as `[out, in, k, k]`, in float32."""
    return foreign(parameters, head_table(head))


def _conv_rows() -> Iterator[Convolution]:
    yield Convolution(("comparison",), "compare.0", None, True)
    yield Convolution(("comparison", "output"), "compare.3", None, True)


def _fem_rows(levels: int) -> Iterator[Convolution]:
    for level in range(levels):
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
