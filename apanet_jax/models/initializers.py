"""PyTorch's default initialisation, which the paper's new layers start from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

kernel_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""Uniform in +-1/sqrt(fan_in), as `torch.nn.Conv2d` draws its weights."""


def bias_init(fan_in: int):
    """Returns an initialiser that draws biases uniformly in +-1/sqrt(fan_in).

    Args:
      fan_in: the number of inputs of one output, kernel positions times input channels.
    """

    def init(key: PRNGKeyArray, shape: tuple[int, ...], dtype=jnp.float32) -> Float[Array, "..."]:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init
