"""Attention of all tokens to all, by whatever computes it best where it is compiled."""

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jax.extend.backend import get_backend
from jaxtyping import Array, Float

Implementation = Literal["auto", "xla", "cudnn"]

_FLASH_CAPABILITY = 8.0
"""Of NVIDIA's GPUs: from Ampere on cuDNN has a fused attention in bfloat16."""


def attention(
    query: Float[Array, "batch tokens heads channels"],
    key: Float[Array, "batch tokens heads channels"],
    value: Float[Array, "batch tokens heads channels"],
    implementation: Implementation = "auto",
) -> Float[Array, "batch tokens heads channels"]:
    """Returns softmax(query key^T / sqrt(channels)) value of every head.

    Args:
      query: one vector a token and head.
      key: the same.
      value: the same.
      implementation: "xla"; "cudnn", NVIDIA's fused attention, which takes bfloat16 alone; or
        "auto", "cudnn" where there is a GPU that has it and the arrays are bfloat16. A machine
        without such a GPU cannot make a program that uses it.
    """
    attend = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    if implementation == "cudnn":
        attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    elif implementation == "auto" and query.dtype == jnp.bfloat16 and _has_fused_attention():
        fused = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
        # The program may still be meant for another platform.
        return jax.lax.platform_dependent(query, key, value, cuda=fused, default=attend)
    return attend(query, key, value)


@functools.cache
def _has_fused_attention() -> bool:
    if "cuda" not in get_backend().platform_version:
        return False
    capabilities = [float(device.compute_capability) for device in jax.local_devices()]
    return min(capabilities) >= _FLASH_CAPABILITY
