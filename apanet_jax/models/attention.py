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

_LOGIT_BYTES = 4 << 20
"""Of a block of logits on a CPU. All heads' together would leave the cache between two uses."""


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
      implementation: "xla", JAX's own; "cudnn", NVIDIA's fused attention, which takes bfloat16
        alone; or "auto": `head_by_head` on a CPU, "cudnn" where there is a GPU that has it and the
        arrays are bfloat16, and "xla" elsewhere. A machine without such a GPU cannot make a
        program that uses "cudnn".
    """
    attend = functools.partial(jax.nn.dot_product_attention, implementation="xla")
    fused = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    if implementation != "auto":
        return {"xla": attend, "cudnn": fused}[implementation](query, key, value)
    # The program may be meant for another platform than the one that makes it.
    platforms = {"cpu": head_by_head}
    if query.dtype == jnp.bfloat16 and _has_fused_attention():
        platforms["cuda"] = fused
    return jax.lax.platform_dependent(query, key, value, default=attend, **platforms)


def head_by_head(
    query: Float[Array, "batch tokens heads channels"],
    key: Float[Array, "batch tokens heads channels"],
    value: Float[Array, "batch tokens heads channels"],
) -> Float[Array, "batch tokens heads channels"]:
    """Computes `attention` in float32, a head and a block of its queries at a time."""
    batch, tokens, heads, channels = query.shape
    blocks = -(-4 * tokens * tokens // _LOGIT_BYTES)
    length = -(-tokens // blocks)

    def by_head(x):
        return x.astype(jnp.float32).swapaxes(1, 2).reshape(batch * heads, tokens, channels)

    # The last block may be shorter than the others.
    padding = ((0, 0), (0, blocks * length - tokens), (0, 0))
    queries = jnp.pad(by_head(query) * channels**-0.5, padding)

    def one_head(inputs):
        queries, keys, values = inputs

        def one_block(block):
            logits = block @ keys.T
            weights = jnp.exp(logits - logits.max(-1, keepdims=True))
            # Dividing the result costs less than dividing the weights.
            return (weights @ values) / weights.sum(-1, keepdims=True)

        return jax.lax.map(one_block, queries)

    found = jax.lax.map(
        one_head, (queries.reshape(-1, blocks, length, channels), by_head(key), by_head(value))
    )
    found = found.reshape(batch, heads, -1, channels)[:, :, :tokens].swapaxes(1, 2)
    return found.astype(value.dtype)


@functools.cache
def _has_fused_attention() -> bool:
    if "cuda" not in get_backend().platform_version:
        return False
    capabilities = [float(device.compute_capability) for device in jax.local_devices()]
    return min(capabilities) >= _FLASH_CAPABILITY
