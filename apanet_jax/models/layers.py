"""Convolutions of the frozen backbones: a kernel and a bias each, BatchNorm already folded in.

Every layer keeps float32 parameters and computes in its `dtype`. Images and features are
`[batch, height, width, channels]`.
"""

import functools
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.models.convolution import conv3x3
from apanet_jax.runtime.errors import UserError

Padding = Literal["same", "symmetric"]
Pads = tuple[tuple[int, int], tuple[int, int]]


class Features(NamedTuple):
    """Features of images: the outputs of the paper's blocks 3, 4 and 5.

    Attributes:
      block3: the middle-level features that keep most detail.
      block4: the deeper middle-level features.
      block5: the last, high-level features.
    """

    block3: Float[Array, "batch height3 width3 channels3"]
    block4: Float[Array, "batch height width channels4"]
    block5: Float[Array, "batch height width channels5"]


class ConvolutionalBackbone(nn.Module):
    """A backbone of convolutions, whose method `outputs` returns the paper's blocks 2 to 5."""

    def __call__(self, images: Float[Array, "batch height width 3"]) -> Features:
        """Returns the features of images (RGB, 0 to 255): blocks 3 to 5 of `outputs`."""
        return Features(*self.outputs(images)[1:])

    def maps(
        self, images: Float[Array, "batch height width 3"], blocks: tuple[int, ...]
    ) -> tuple[Float[Array, "batch height width channels"], ...]:
        """Returns the feature maps of some of the paper's blocks.

        Args:
          images: RGB, 0 to 255.
          blocks: numbers from 2 to 5.

        Raises:
          UserError: there is no such block.
        """
        wrong = [number for number in blocks if not 2 <= number <= 5]
        if wrong or not blocks:
            raise UserError(
                f"there is no block {wrong[0] if wrong else '()'} in a convolutional backbone: "
                "expected the paper's numbers, from 2 to 5"
            )
        outputs = self.outputs(images)
        return tuple(outputs[number - 2] for number in blocks)


class Conv(nn.Module):
    """A dense convolution with parameters `kernel` `[k, k, inputs, features]` and `bias`.

    Attributes:
      features: channels of the output.
      size: k, side of the kernel.
      stride: of the output.
      dilation: distance between the kernel's taps.
      padding: see `pads`.
      dtype: of the computation and the result.
    """

    features: int
    size: int = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = "symmetric"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width features"]:
        kernel, bias = _parameters(self, (self.size, self.size, x.shape[-1], self.features))
        x = x.astype(self.dtype)
        if (self.size, self.stride) == (3, 1):
            return conv3x3(x, kernel, dilation=self.dilation) + bias
        y = jax.lax.conv_general_dilated(
            x,
            kernel,
            (self.stride, self.stride),
            pads(x.shape[1:3], self.size, self.stride, self.dilation, self.padding),
            rhs_dilation=(self.dilation, self.dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + bias


class Pointwise(nn.Module):
    """A 1x1 convolution, as a matrix product: `kernel` `[inputs, features]` and `bias`.

    XLA's gradients of convolutions are several times slower on CPUs than those of products.

    Attributes:
      features: channels of the output.
      stride: only every so manyth row and column is taken.
      dtype: of the computation and the result.
    """

    features: int
    stride: int = 1
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width inputs"]
    ) -> Float[Array, "batch new_height new_width features"]:
        kernel, bias = _parameters(self, (x.shape[-1], self.features))
        x = x[:, :: self.stride, :: self.stride].astype(self.dtype)
        return jnp.einsum("bhwi,io->bhwo", x, kernel) + bias


class Depthwise(nn.Module):
    """A convolution of every channel by itself: `kernel` `[k, k, channels]` and `bias`.

    Attributes: as in `Conv`.
    """

    size: int = 3
    stride: int = 1
    dilation: int = 1
    padding: Padding = "same"
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch new_height new_width channels"]:
        kernel, bias = _parameters(self, (self.size, self.size, x.shape[-1]))
        borders = pads(x.shape[1:3], self.size, self.stride, self.dilation, self.padding)
        y = depthwise_convolution(
            x.astype(self.dtype), kernel, borders, stride=self.stride, dilation=self.dilation
        )
        return y + bias


def depthwise_convolution(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k channels"],
    borders: Pads,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> Float[Array, "batch new_height new_width channels"]:
    """Convolves every channel with its own kernel (cross-correlation, as in every framework).

    On a CPU as a sum of k*k shifted products, which is many times faster there than XLA's grouped
    convolution; the choice is made for each platform within one program.

    Args:
      x: images.
      kernel: one k x k kernel a channel.
      borders: zeros put before and after the rows and the columns.
      stride: of the output.
      dilation: distance between the kernel's taps.
    """
    arrangement = {"borders": borders, "stride": stride, "dilation": dilation}
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=functools.partial(shifted_products, **arrangement),
        default=functools.partial(grouped_convolution, **arrangement),
    )


def shifted_products(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k channels"],
    *,
    borders: Pads,
    stride: int,
    dilation: int,
) -> Float[Array, "batch new_height new_width channels"]:
    """Computes `depthwise_convolution` as a sum of shifted products, always in float32."""
    # Converted once, not tap by tap: half precision compiles twice as fast.
    padded = jnp.pad(x.astype(jnp.float32), ((0, 0), *borders, (0, 0)))
    kernel = kernel.astype(jnp.float32)
    reach = dilation * (kernel.shape[0] - 1)
    # Ends of the rows and columns that the first tap sees.
    bottom, right = (length - reach for length in padded.shape[1:3])
    total = jnp.zeros((), jnp.float32)
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            top, left = row * dilation, column * dilation
            seen = padded[:, top : top + bottom : stride, left : left + right : stride]
            total += seen * kernel[row, column]
    return total.astype(x.dtype)


def grouped_convolution(
    x: Float[Array, "batch height width channels"],
    kernel: Float[Array, "k k channels"],
    *,
    borders: Pads,
    stride: int,
    dilation: int,
) -> Float[Array, "batch new_height new_width channels"]:
    """Computes `depthwise_convolution` as a convolution with a group for each channel."""
    return jax.lax.conv_general_dilated(
        x,
        kernel[:, :, None],
        (stride, stride),
        borders,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def pads(lengths: tuple[int, int], size: int, stride: int, dilation: int, padding: Padding) -> Pads:
    """Returns how many zeros stand before and after the rows and the columns.

    Args:
      lengths: height and width of the input.
      size: side of the (undilated) kernel.
      stride: of the output.
      dilation: of the kernel.
      padding: "symmetric", PyTorch's habit: half the kernel's reach on each side, whatever the
        input's size. "same", TensorFlow's: as little as gives `ceil(length / stride)` outputs, an
        odd zero at the end. They are the same at stride 1.
    """
    reach = dilation * (size - 1)
    if padding == "symmetric":
        return ((reach // 2, reach // 2),) * 2

    def of_length(length):
        total = max((-(-length // stride) - 1) * stride + reach + 1 - length, 0)
        return total // 2, total - total // 2

    return of_length(lengths[0]), of_length(lengths[1])


def _parameters(module: nn.Module, shape: tuple[int, ...]) -> tuple[Array, Array]:
    kernel = module.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
    bias = module.param("bias", nn.initializers.zeros_init(), shape[-1:], jnp.float32)
    return kernel.astype(module.dtype), bias.astype(module.dtype)
