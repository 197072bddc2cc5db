"""The loss of a batch: Eq. 9."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from apanet_jax.models.apanet import IGNORE, Outputs
from apanet_jax.models.resize import resize_bilinear


class Losses(NamedTuple):
    """The loss of a batch.

    Attributes:
      total: Eq. 9.
      specific: its first term, cross-entropy of the class-specific branch; where the comparison has
        pyramid levels, plus their weight times the mean of their own cross-entropies.
      agnostic: its second term, the same of the class-agnostic branch.
    """

    total: Float[Array, ""]
    specific: Float[Array, ""]
    agnostic: Float[Array, ""]


def cross_entropy(
    logits: Float[Array, "batch height width 2"],
    label: UInt8[Array, "batch H W"],
    *,
    centred: bool = False,
) -> Float[Array, ""]:
    """Returns the mean cross-entropy over the pixels of a batch whose label is not 255.

    The logits are resized to the label's size first, bilinearly; `centred` says how, see
    `models.resize.bilinear_matrix`. With two classes only their difference matters, so that alone
    is resized.
    """
    difference = (logits[..., 1] - logits[..., 0])[..., None]
    difference = resize_bilinear(difference, label.shape[1:3], centred=centred)[..., 0]
    pixel_loss = jax.nn.softplus(difference) - (label == 1) * difference
    valid = (label != IGNORE).astype(jnp.float32)
    return jnp.sum(pixel_loss * valid) / jnp.maximum(jnp.sum(valid), 1.0)


def complement(
    label: UInt8[Array, "batch H W"], valid: Float[Array, " batch"]
) -> UInt8[Array, "batch H W"]:
    """Returns 1 - M, the class-agnostic branch's target (Eq. 9).

    255 stays, and fills the whole image where it had no background to learn from.
    """
    flipped = jnp.where(label == IGNORE, IGNORE, 1 - label).astype(jnp.uint8)
    return jnp.where(valid[:, None, None] > 0, flipped, jnp.uint8(IGNORE))


def losses(
    outputs: Outputs,
    label: UInt8[Array, "batch H W"],
    agnostic_weight: float,
    level_weight: float = 1.0,
    *,
    centred: bool = False,
) -> Losses:
    """Returns Eq. 9: (1 - lambda) L1 + lambda L2, or L1 alone without a class-agnostic branch.

    Args:
      outputs: of the head, in training.
      label: 1 where the class is, 0 elsewhere, 255 to ignore.
      agnostic_weight: lambda.
      level_weight: of the pyramid levels' mean beside the main term, within L1 and within L2.
      centred: whether positions of the feature map are the centres of patches.
    """
    if outputs.resembling is not None:
        resembling = resize_bilinear(
            outputs.resembling[..., None], label.shape[1:3], centred=centred
        )[..., 0]
        label = jnp.where((resembling >= 0.5) & (label == 0), jnp.uint8(IGNORE), label)
    specific = _with_levels(outputs.logits, outputs.levels, label, level_weight, centred)
    if outputs.agnostic_logits is None:
        return Losses(specific, specific, jnp.zeros(()))
    target = complement(label, outputs.agnostic_valid)
    target = jnp.tile(target, (len(outputs.agnostic_logits) // len(target), 1, 1))
    agnostic = _with_levels(
        outputs.agnostic_logits, outputs.agnostic_levels, target, level_weight, centred
    )
    total = (1 - agnostic_weight) * specific + agnostic_weight * agnostic
    return Losses(total, specific, agnostic)


def _with_levels(logits, levels, label, level_weight, centred) -> Float[Array, ""]:
    loss = cross_entropy(logits, label, centred=centred)
    if not levels:
        return loss
    return loss + level_weight * sum(
        cross_entropy(x, label, centred=centred) for x in levels
    ) / len(levels)
