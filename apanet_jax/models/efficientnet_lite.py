"""EfficientNet-Lite0 and Lite2 with their strides cut to 8.

EfficientNet without squeeze-and-excitation, with ReLU6, and a stem and last block of fixed width
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite). Images are
normalised as (x - 127) / 128. The outputs of its blocks are linear: nothing stands between a
block's projection and the next block's expansion but the addition.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.models.layers import Conv, ConvolutionalBackbone, Depthwise, Pointwise

MEAN, SCALE = 127.0, 128.0
OUTPUT_STRIDE = 8


class Stage(NamedTuple):
    """Blocks of one width.

    Attributes:
      blocks: how many.
      channels: of their outputs.
      size: side of their depthwise kernels.
      expansion: how many times wider than its input a block is inside.
      stride: of the first block, before strides are cut.
    """

    blocks: int
    channels: int
    size: int
    expansion: int
    stride: int


LITE0 = (
    Stage(1, 16, 3, 1, 1),
    Stage(2, 24, 3, 6, 2),
    Stage(2, 40, 5, 6, 2),
    Stage(3, 80, 3, 6, 2),
    Stage(3, 112, 5, 6, 1),
    Stage(4, 192, 5, 6, 2),
    Stage(1, 320, 3, 6, 1),
)
LITE2 = (
    Stage(1, 16, 3, 1, 1),
    Stage(3, 24, 3, 6, 2),
    Stage(3, 48, 5, 6, 2),
    Stage(4, 88, 3, 6, 2),
    Stage(4, 120, 5, 6, 1),
    Stage(5, 208, 5, 6, 2),
    Stage(1, 352, 3, 6, 1),
)
"""1.1 times as wide, in multiples of 8, and 1.2 times as deep but for the first and last stage."""

BLOCK2_STAGES, BLOCK3_STAGES, BLOCK4_STAGES = 2, 3, 5
"""How many stages lie before the ends of the paper's blocks 2, 3 and 4; block 5 ends with all."""
TOP_CHANNELS = 1280


class InvertedResidual(nn.Module):
    """A block: 1x1 expansion, depthwise convolution, linear 1x1 projection.

    Attributes:
      channels: of the output.
      size: side of the depthwise kernel.
      expansion: how many times wider than the input the inside is.
      stride: of the output.
      dilation: of the depthwise kernel.
      dtype: of the computation.
    """

    channels: int
    size: int
    expansion: int
    stride: int = 1
    dilation: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width channels"]:
        inputs = x.shape[-1]
        y = x
        if self.expansion > 1:
            wide = self.expansion * inputs
            y = nn.relu6(Pointwise(wide, dtype=self.dtype, name="expand")(y))
        depthwise = Depthwise(
            self.size, self.stride, self.dilation, "same", self.dtype, name="depthwise"
        )
        y = nn.relu6(depthwise(y))
        y = Pointwise(self.channels, dtype=self.dtype, name="project")(y)
        return x + y if self.stride == 1 and inputs == self.channels else y


def _blocks(
    index: int,
    stage: Stage,
    stride: int,
    dilations: tuple[int, int] = (1, 1),
    dtype: jnp.dtype = jnp.float32,
) -> list[InvertedResidual]:
    """Returns a stage's blocks; the first has the stride, and the first of the dilations."""
    return [
        InvertedResidual(
            stage.channels,
            stage.size,
            stage.expansion,
            stride if block == 0 else 1,
            dilations[0 if block == 0 else 1],
            dtype,
            name=f"stage{index}_{block}",
        )
        for block in range(stage.blocks)
    ]


class EfficientNetLite(ConvolutionalBackbone):
    """An EfficientNet-Lite as a backbone of stride 8.

    Where a stage would go beyond that stride, its own stride is left out and every depthwise
    kernel behind the one that had it is dilated twice as much. So every second or fourth position
    has what the network with its strides computes (exactly where sides are 32 n + 1 pixels), and
    the others have the same of places between.

    The parameters' names are part of their fingerprint (`weights.load`): they were `stages_…` while
    the kernel that had the stride was dilated too, and what was trained on those features is
    refused.

    Attributes:
      stages: `LITE0` or `LITE2`.
      dtype: of the computation: float32 or bfloat16. Parameters are float32.
    """

    stages: tuple[Stage, ...]
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.stem = Conv(32, 3, stride=2, padding="same", dtype=self.dtype)
        blocks, reached, dilation = [], 2, 1
        for index, stage in enumerate(self.stages):
            stride, before = stage.stride, dilation
            if reached * stride > OUTPUT_STRIDE:
                stride, dilation = 1, dilation * stride
            reached *= stride
            blocks.append(_blocks(index, stage, stride, (before, dilation), self.dtype))
        self.blocks = blocks

    def outputs(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch height width channels"], ...]:
        """Returns the feature maps of the paper's blocks 2 to 5.

        Args:
          images: RGB, 0 to 255.

        Returns:
          24 channels at a quarter of the images' size, then at an eighth (rounded up) 40, 112 and
          320 (Lite0) or 48, 120 and 352 (Lite2).
        """
        x = (images.astype(jnp.float32) - MEAN) / SCALE
        x = nn.relu6(self.stem(x))
        block2 = self._run(x, 0, BLOCK2_STAGES)
        block3 = self._run(block2, BLOCK2_STAGES, BLOCK3_STAGES)
        block4 = self._run(block3, BLOCK3_STAGES, BLOCK4_STAGES)
        return block2, block3, block4, self.last_block(block4)

    def last_block(
        self, block4: Float[Array, "batch height width 112"]
    ) -> Float[Array, "batch height width 320"]:
        """Returns block 5 of block 4's features, which may have been masked."""
        return self._run(block4, BLOCK4_STAGES, len(self.stages))

    def _run(self, x, first: int, end: int):
        for stage in self.blocks[first:end]:
            for block in stage:
                x = block(x)
        return x


class EfficientNetLiteTop(nn.Module):
    """The end of an EfficientNet-Lite as it was trained, which tells what an image shows.

    Every second row and column of block 4 is what the network with its strides has there, see
    `EfficientNetLite`. They go through the last stages, with their stride, and through the 1x1
    convolution on whose mean the classifier stands.

    Attributes:
      stages: `LITE0` or `LITE2`.
    """

    stages: tuple[Stage, ...]

    @nn.compact
    def __call__(
        self, block4: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch rows columns 1280"]:
        x = block4[:, ::2, ::2]
        for index, stage in enumerate(self.stages[BLOCK4_STAGES:], BLOCK4_STAGES):
            for block in _blocks(index, stage, stage.stride):
                x = block(x)
        return nn.relu6(Pointwise(TOP_CHANNELS, name="head")(x))
