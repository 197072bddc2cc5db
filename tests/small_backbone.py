"""A backbone that compiles in no time, for tests of everything around the network.

Blocks 3, 4 and 5 are one convolution each, the first with a stride of 8. In a process of its own,
`python -m tests.small_backbone` is `python -m apanet_jax` with this backbone.
"""

import contextlib
import sys

import flax.linen as nn
import numpy as np
import pytest

from apanet_jax.models import backbones
from apanet_jax.models.layers import Features
from apanet_jax.models.resnet import DEVIATION, MEAN
from apanet_jax.weights import load
from apanet_jax.weights.mapping import Convolution, Table

NAME = "small"
CHANNELS = (8, 12, 16)
"""Of blocks 3, 4 and 5."""
OPTIONS = (
    f"backbone={NAME},weights=random,min_area=50,image_size=65,longer_side=65,channels=8,"
    "training.batch_size=2,evaluation.batch_size=2,pictures=0,bundled=0,steps=4"
)
"""Of a tiny run. Those that differ in less share more compiled programs; the number of steps is a
constant in the program of a step."""


class ThreeConvolutions(nn.Module):
    dtype: type = np.float32

    def setup(self):
        block3, block4, block5 = CHANNELS
        self.block3 = nn.Conv(block3, (5, 5), 8, padding=2, dtype=self.dtype)
        self.block4 = nn.Conv(block4, (1, 1), dtype=self.dtype)
        self.block5 = nn.Conv(block5, (1, 1), dtype=self.dtype)

    def __call__(self, images):
        block3 = nn.relu(self.block3((images - MEAN) / DEVIATION))
        block4 = nn.relu(self.block4(block3))
        return Features(block3, block4, self.last_block(block4))

    def last_block(self, block4):
        return nn.relu(self.block5(block4))


def _table(_tensors, _stem) -> Table:
    rows = tuple(
        Convolution((f"block{3 + place}",), f"features.{2 * place}", None)
        for place in range(len(CHANNELS))
    )
    return Table("three convolutions", rows, (), 1e-5, biased=True)


@contextlib.contextmanager
def added():
    """Lets settings name the backbone `NAME`, whose weights are random."""
    block3, block4, block5 = CHANNELS
    spec = backbones.BackboneSpec(ThreeConvolutions, (), block4, block3, block5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(backbones.BACKBONES, NAME, spec)
        patch.setitem(load.TABLES, NAME, _table)
        patch.setitem(load.DEFAULT_SOURCES, NAME, "random")
        yield


if __name__ == "__main__":
    # TensorBoard's writer imports PyTorch where it is, which takes longer than a tiny run.
    sys.modules["torch"] = None
    import tensorboardX  # noqa: F401

    del sys.modules["torch"]
    from apanet_jax.__main__ import main

    with added():
        main()
