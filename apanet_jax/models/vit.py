"""Vision transformers as frozen backbones: DINOv2 and DINOv3.

Oquab et al., DINOv2: Learning Robust Visual Features without Supervision; Darcet et al., Vision
Transformers Need Registers; Siméoni et al., DINOv3. Tokens are the class token, then the registers,
then the patches row by row. A block is x + s1 attention(norm1(x)), then x + s2 mlp(norm2(x)), with
a factor s for each channel. The class token's own position is part of the token.

Blocks are counted from 1. Their outputs are compared after the network's final norm, as the
originals' own intermediate layers are.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from apanet_jax.models.attention import Implementation, attention
from apanet_jax.models.layers import Features
from apanet_jax.models.resize import resize_bicubic
from apanet_jax.models.resnet import DEVIATION, MEAN
from apanet_jax.models.rotary import Rotation, rotate, rotations
from apanet_jax.runtime.errors import UserError


class Variant(NamedTuple):
    """What tells one vision transformer from another.

    Attributes:
      name: for messages.
      width: channels of a token.
      depth: number of blocks.
      heads: of the attention.
      hidden: channels inside a block's MLP.
      gated: whether that MLP is a SwiGLU, silu(gate) * up; otherwise it has a GELU.
      patch: side of a patch in pixels.
      registers: tokens beside the class token that stand for no patch.
      table_side: patches a side of the learned table of positions; 0: positions are rotary.
      smooth_table: whether the table is smoothed where it is made smaller (antialiased).
      epsilon: of the layer norms.
    """

    name: str
    width: int
    depth: int
    heads: int
    hidden: int
    gated: bool = False
    patch: int = 14
    registers: int = 0
    table_side: int = 37
    smooth_table: bool = False
    epsilon: float = 1e-6


class Tokens(NamedTuple):
    """The output of one block.

    Attributes:
      patches: one vector a patch, in the image's arrangement.
      class_token: the vector of the whole image.
      registers: those of the registers, perhaps none.
    """

    patches: Float[Array, "batch height width channels"]
    class_token: Float[Array, "batch channels"]
    registers: Float[Array, "batch registers channels"]


class ViT(nn.Module):
    """A vision transformer without a classifier.

    Attributes:
      variant: which one.
      blocks: the blocks, from 1 to the variant's depth, that stand for the paper's blocks 3, 4 and
        5 in `__call__`.
      attention: see `models.attention.attention`.
      dtype: of the computation: float32 or bfloat16. Parameters are float32.
    """

    variant: Variant
    blocks: tuple[int, int, int]
    attention: Implementation = "auto"
    dtype: jnp.dtype = jnp.float32

    def setup(self):
        variant = self.variant
        self.patch = nn.Dense(variant.width, dtype=self.dtype)
        tokens = nn.initializers.normal(0.02)
        self.class_token = self.param("class_token", tokens, (variant.width,))
        if variant.registers:
            shape = (variant.registers, variant.width)
            self.registers = self.param("registers", tokens, shape)
        if variant.table_side:
            shape = (variant.table_side, variant.table_side, variant.width)
            self.positions = self.param("positions", tokens, shape)
        self.layers = [
            Block(variant, self.attention, self.dtype, name=f"block_{number}")
            for number in range(1, variant.depth + 1)
        ]
        self.norm = layer_norm(variant, self.dtype)

    def __call__(self, images: Float[Array, "batch height width 3"]) -> Features:
        """Returns the patches' vectors after `blocks`, as a backbone of the harness.

        Args:
          images: RGB, 0 to 255; sides that `variant.patch` divides.

        Returns:
          `variant.width` channels three times, all a patch apart, after the final norm.

        Raises:
          UserError: the patch does not divide the images.
        """
        return Features(*self.maps(images, self.blocks))

    def maps(
        self, images: Float[Array, "batch height width 3"], blocks: tuple[int, ...]
    ) -> tuple[Float[Array, "batch rows columns channels"], ...]:
        """Returns the patches' vectors after any blocks, after the final norm; see `tokens`."""
        return tuple(tokens.patches for tokens in self.tokens(images, blocks))

    def tokens(
        self,
        images: Float[Array, "batch height width 3"],
        blocks: tuple[int, ...],
        *,
        final_norm: bool = True,
    ) -> tuple[Tokens, ...]:
        """Returns the outputs of blocks, in the order in which they are given.

        Args:
          images: see `__call__`.
          blocks: numbers from 1 to the variant's depth.
          final_norm: whether the network's last layer norm is applied to them.

        Raises:
          UserError: there is no such block, or the patch does not divide the images.
        """
        variant = self.variant
        check_blocks(variant, blocks)
        check_divides(variant.name, variant.patch, images.shape[1:3])
        height, width = (length // variant.patch for length in images.shape[1:3])
        x, rotation = self._embedded(images, height, width)
        wanted = {}
        # All of them have parameters, whichever are asked for.
        last = variant.depth if self.is_initializing() else max(blocks)
        for number, layer in enumerate(self.layers[:last], start=1):
            x = layer(x, rotation)
            if number in blocks:
                wanted[number] = self.norm(x) if final_norm or self.is_initializing() else x
        return tuple(_arranged(wanted[number], variant, height, width) for number in blocks)

    def _embedded(
        self, images: Float[Array, "batch height width 3"], rows: int, columns: int
    ) -> tuple[Float[Array, "batch tokens channels"], Rotation | None]:
        """Returns the first block's input, and the rotations of its tokens."""
        variant, side, batch = self.variant, self.variant.patch, images.shape[0]
        pixels = (images.astype(jnp.float32) - MEAN) / DEVIATION
        pixels = pixels.reshape(batch, rows, side, columns, side, 3).swapaxes(2, 3)
        x = self.patch(pixels.reshape(batch, rows * columns, side * side * 3))
        if variant.table_side:
            table = resize_bicubic(self.positions, (rows, columns), smooth=variant.smooth_table)
            x += table.reshape(rows * columns, -1).astype(self.dtype)
        first = self.class_token[None]
        if variant.registers:
            first = jnp.concatenate([first, self.registers])
        first = jnp.broadcast_to(first.astype(self.dtype), (batch, *first.shape))
        rotation = None
        if not variant.table_side:
            before = 1 + variant.registers
            rotation = rotations(rows, columns, variant.width // variant.heads, before)
        return jnp.concatenate([first, x], 1), rotation


class Block(nn.Module):
    """Attention and MLP, each behind a norm, before a factor for each channel, and beside a bypass.

    Attributes: as in `ViT`.
    """

    variant: Variant
    attention: Implementation
    dtype: jnp.dtype

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch tokens channels"], rotation: Rotation | None
    ) -> Float[Array, "batch tokens channels"]:
        variant = self.variant

        def dense(name, outputs):
            return nn.Dense(outputs, dtype=self.dtype, name=name)

        def scaled(name, y):
            factor = self.param(name, nn.initializers.ones_init(), (variant.width,))
            return y * factor.astype(self.dtype)

        y = layer_norm(variant, self.dtype, "norm1")(x)
        qkv = dense("qkv", 3 * variant.width)(y)
        qkv = qkv.reshape(*x.shape[:2], 3, variant.heads, variant.width // variant.heads)
        query, key, value = (qkv[:, :, index] for index in range(3))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        y = attention(query, key, value, self.attention).reshape(x.shape)
        x += scaled("scale1", dense("output", variant.width)(y))

        y = layer_norm(variant, self.dtype, "norm2")(x)
        if variant.gated:
            gate, up = jnp.split(dense("mlp_in", 2 * variant.hidden)(y), 2, -1)
            y = nn.silu(gate) * up
        else:
            y = gelu(dense("mlp_in", variant.hidden)(y))
        return x + scaled("scale2", dense("mlp_out", variant.width)(y))


def layer_norm(variant: Variant, dtype: jnp.dtype, name: str | None = None) -> nn.LayerNorm:
    """Returns a layer norm; its statistics are float32, in two passes, whatever the dtype."""
    return nn.LayerNorm(variant.epsilon, dtype=dtype, use_fast_variance=False, name=name)


def gelu(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns x Phi(x), with the normal distribution's Phi; computed in float32.

    `jax.nn.gelu` takes erfc, which on a CPU costs several times what erf does, for a relative
    precision that no sum behind it keeps.
    """
    wide = x.astype(jnp.float32)
    return (wide * (0.5 + 0.5 * lax.erf(wide * 0.5**0.5))).astype(x.dtype)


def check_blocks(variant: Variant, blocks: tuple[int, ...]) -> None:
    """Raises UserError unless all `blocks` are numbers of the variant's blocks."""
    wrong = [number for number in blocks if not 1 <= number <= variant.depth]
    if wrong or not blocks:
        raise UserError(
            f"{variant.name} has no block {wrong[0] if wrong else '()'}: expected numbers from 1 "
            f"to {variant.depth}"
        )


def check_divides(name: str, patch: int, sides: tuple[int, ...]) -> None:
    """Raises UserError, with the nearest sizes that fit, unless `patch` divides all `sides`."""
    if any(side % patch or not side for side in sides):
        smaller = [max(side // patch, 1) * patch for side in sides]
        larger = [-(-max(side, 1) // patch) * patch for side in sides]
        given, smaller, larger = ("x".join(map(str, size)) for size in (sides, smaller, larger))
        nearest = smaller if smaller == larger else f"{smaller} or {larger}"
        raise UserError(
            f"{name} takes images whose sides are multiples of {patch}, not {given}: the nearest "
            f"are {nearest}"
        )


def _arranged(
    x: Float[Array, "batch tokens channels"], variant: Variant, height: int, width: int
) -> Tokens:
    before = 1 + variant.registers
    patches = x[:, before:].reshape(x.shape[0], height, width, x.shape[-1])
    return Tokens(patches, x[:, 0], x[:, 1:before])
