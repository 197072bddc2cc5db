"""ResNet-50 and ResNet-101, dilated to stride 8 as in PSPNet and PFENet.

Torchvision's variant of He et al., Deep Residual Learning (a block's stride stands in its 3x3
convolution). `layer3` and `layer4`, the paper's blocks 4 and 5, keep their input's size; all their
3x3 convolutions are dilated, by 2 and by 4, the first one of a layer included.
"""

from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from apanet_jax.models.layers import Conv, ConvolutionalBackbone, Pointwise

MEAN = 255 * np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = 255 * np.array([0.229, 0.224, 0.225], np.float32)

RESNET50 = (3, 4, 6, 3)
RESNET101 = (3, 4, 23, 3)
EXPANSION = 4


class Bottleneck(nn.Module):
    """A residual block: 1x1, 3x3 and 1x1 convolution beside the identity or a 1x1 convolution.

    Attributes:
      width: channels inside; the output has four times as many.
      stride: of the output.
      dilation: of the 3x3 convolution.
      projects: whether a 1x1 convolution stands in the shortcut.
      dtype: of the computation.
    """

    width: int
    stride: int = 1
    dilation: int = 1
    projects: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width outputs"]:
        outputs = EXPANSION * self.width
        conv2 = Conv(
            self.width, 3, self.stride, self.dilation, "symmetric", self.dtype, name="conv2"
        )
        y = nn.relu(Pointwise(self.width, dtype=self.dtype, name="conv1")(x))
        y = nn.relu(conv2(y))
        y = Pointwise(outputs, dtype=self.dtype, name="conv3")(y)
        if self.projects:
            x = Pointwise(outputs, self.stride, self.dtype, name="downsample")(x)
        return nn.relu(x + y)


class ResNet(ConvolutionalBackbone):
    """A dilated ResNet as a backbone of stride 8.

    Attributes:
      depths: blocks of the four layers, `RESNET50` or `RESNET101`.
      stem: "deep", three 3x3 convolutions to 64, 64 and 128 channels (PSPNet, PFENet), or "plain",
        one 7x7 convolution to 64 (torchvision). A 3x3 max-pooling of stride 2 follows either.
      dtype: of the computation: float32 or bfloat16. Parameters are float32.
    """

    depths: tuple[int, int, int, int]
    stem: Literal["deep", "plain"] = "deep"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        if self.stem == "deep":
            self.convolutions = [
                Conv(64, 3, stride=2, dtype=self.dtype, name="stem_0"),
                Conv(64, 3, dtype=self.dtype, name="stem_1"),
                Conv(128, 3, dtype=self.dtype, name="stem_2"),
            ]
        else:
            self.convolutions = [Conv(64, 7, stride=2, dtype=self.dtype, name="stem_0")]
        self.layer1 = self._layer(self.depths[0], 64)
        self.layer2 = self._layer(self.depths[1], 128, stride=2)
        self.layer3 = self._layer(self.depths[2], 256, dilation=2)
        self.layer4 = self._layer(self.depths[3], 512, dilation=4)

    def outputs(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch height width channels"], ...]:
        """Returns the feature maps of the paper's blocks 2 to 5.

        Args:
          images: RGB, 0 to 255.

        Returns:
          256 channels at a quarter of the images' size, then 512, 1024 and 2048 at an eighth
          (rounded up).
        """
        x = (images.astype(jnp.float32) - MEAN) / DEVIATION
        for convolution in self.convolutions:
            x = nn.relu(convolution(x))
        x = nn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))
        block2 = _run(self.layer1, x)
        block3 = _run(self.layer2, block2)
        block4 = _run(self.layer3, block3)
        return block2, block3, block4, self.last_block(block4)

    def last_block(
        self, block4: Float[Array, "batch height width 1024"]
    ) -> Float[Array, "batch height width 2048"]:
        """Returns block 5 of block 4's features, which may have been masked."""
        return _run(self.layer4, block4)

    def _layer(self, blocks: int, width: int, stride: int = 1, dilation: int = 1):
        return [
            Bottleneck(width, stride if first else 1, dilation, projects=first, dtype=self.dtype)
            for first in [True] + [False] * (blocks - 1)
        ]


def _run(blocks, x):
    for block in blocks:
        x = block(x)
    return x
