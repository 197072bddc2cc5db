"""VGG-16, cut where PFENet cuts it: stride 8 at the paper's block 3, and 16 at blocks 4 and 5.

Configuration D of Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image
Recognition. With BatchNorm folded into the convolutions, the plain network and the one with
BatchNorm are the same module.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.models.layers import Conv, ConvolutionalBackbone
from apanet_jax.models.resnet import DEVIATION, MEAN

CHANNELS = (64, 128, 256, 512, 512)
"""Outputs of the convolutions of each block."""

DEPTHS = (2, 2, 3, 3, 3)
"""Convolutions of each block; a ReLU follows each of them."""


class VGG16(ConvolutionalBackbone):
    """VGG-16 without its fully connected layers, as a backbone of stride 16.

    The paper's blocks 3 and 4 end with their max-pooling, block 5 goes without one. Pooling rounds
    sizes up, as in PFENet (torchvision's rounds them down).

    Attributes:
      dtype: of the computation: float32 or bfloat16. Parameters are float32.
    """

    dtype: jnp.dtype = jnp.float32

    def setup(self):
        self.blocks = [
            [
                Conv(channels, dtype=self.dtype, name=f"conv{block}_{number}")
                for number in range(1, depth + 1)
            ]
            for block, (channels, depth) in enumerate(zip(CHANNELS, DEPTHS, strict=True), start=1)
        ]

    def outputs(
        self, images: Float[Array, "batch height width 3"]
    ) -> tuple[Float[Array, "batch height width channels"], ...]:
        """Returns the feature maps of the paper's blocks 2 to 5.

        Args:
          images: RGB, 0 to 255.

        Returns:
          128 channels at a quarter of the images' size, 256 at an eighth, and twice 512 at a
          sixteenth (rounded up): 60x60 and 30x30 of 473x473.
        """
        x = (images.astype(jnp.float32) - MEAN) / DEVIATION
        outputs = []
        for block in self.blocks[:4]:
            x = pool(_run(block, x))
            outputs.append(x)
        return *outputs[1:], self.last_block(x)

    def last_block(
        self, block4: Float[Array, "batch height width 512"]
    ) -> Float[Array, "batch height width 512"]:
        """Returns block 5 of block 4's features, which may have been masked."""
        return _run(self.blocks[4], block4)


def pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch half_height half_width channels"]:
    """Takes the maximum of every 2x2 positions; a last odd row or column is taken by itself.

    The same as PyTorch's `max_pool2d(x, 2, 2, ceil_mode=True)`: "SAME" puts the one missing row or
    column, of minus infinity, behind the last.
    """
    return nn.max_pool(x, (2, 2), (2, 2), "SAME")


def _run(convolutions, x):
    for convolution in convolutions:
        x = nn.relu(convolution(x))
    return x
