"""The reduction of a backbone's features to those that prototypes and comparison are made of."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.kernels.precision import as_features
from apanet_jax.models.initializers import bias_init, kernel_init

_SQUARE_EPSILON = 1e-6


class Reduction(nn.Module):
    """A 1x1 convolution and ReLU.

    Attributes:
      channels: that come out.
      bias: whether there is one.
      unit_features: see `APANet`.
      dtype: of the result. The factors have the features' own type, the sums are in float32.
    """

    channels: int
    bias: bool
    unit_features: bool
    dtype: str = "float32"

    @nn.compact
    def __call__(
        self, features: Float[Array, "*batch height width channels"]
    ) -> Float[Array, "*batch height width reduced"]:
        # Of bfloat16 the factors stay so, and the sums are in float32.
        features = as_features(features)
        if self.unit_features:
            squares = jnp.square(features.astype(jnp.float32))
            mean_square = jnp.mean(squares, -1, keepdims=True)
            scaled = features * jax.lax.rsqrt(mean_square + _SQUARE_EPSILON)
            features = scaled.astype(features.dtype)
        inputs = features.shape[-1]
        kernel = self.param("kernel", kernel_init, (inputs, self.channels))
        reduced = jnp.matmul(
            features, kernel.astype(features.dtype), preferred_element_type=jnp.float32
        )
        if self.bias:
            reduced += self.param("bias", bias_init(inputs), (self.channels,))
        return nn.relu(reduced).astype(self.dtype)
