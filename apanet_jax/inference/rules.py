"""Rules that give query positions margins by comparing them with all of the supports' positions.

They need frozen features and no training. A margin is a difference of cosines, roughly: by how much
more a position resembles the supports' foreground than their background.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from apanet_jax.inference.geometry import Grid, Label, label_shares
from apanet_jax.kernels.density_ratio import density_ratio

BANDWIDTHS = (0.05, 0.1, 0.2, 0.4)
"""Of the density ratio. With the smallest, few of the nearest support positions decide; with the
largest, the mean cosine to all of them."""
SCALES = {f"density ratio {h:g}": 0.05 for h in BANDWIDTHS}
"""What a rule's margin is divided by."""
USUAL = "density ratio 0.2"
USUAL_BANDWIDTH = 0.2


class SupportPositions(NamedTuple):
    """The positions of a class's supports, side by side.

    Attributes:
      features: of each position.
      foreground: which share of each position is the class.
      background: which share of each position is background.
    """

    features: Float[Array, "positions channels"]
    foreground: Float[Array, " positions"]
    background: Float[Array, " positions"]


def support_positions(
    features: Sequence[Float[Array, "rows columns channels"]], labels: Sequence[Label], grid: Grid
) -> SupportPositions:
    """Returns the positions of supports.

    Args:
      features: of each support.
      labels: `[size, size]` of each, see `geometry.label_shares`.
      grid: of the squares.
    """
    shares = [label_shares(label, grid) for label in labels]
    foreground, background = (
        np.concatenate([x.ravel() for x in maps]) for maps in zip(*shares, strict=True)
    )
    flat = jnp.concatenate([x.reshape(-1, x.shape[-1]) for x in features])
    return SupportPositions(flat, jnp.asarray(foreground), jnp.asarray(background))


def without(supports: SupportPositions, index: int, images: int) -> SupportPositions:
    """Returns the positions with one image's weights at 0, so that the shapes are the same.

    Args:
      supports: positions of images of equal size, supports and negatives.
      index: of the image that is left out.
      images: number of them.
    """
    others = np.arange(images) != index
    weights = np.repeat(others, len(supports.foreground) // images).astype(np.float32)
    return SupportPositions(
        supports.features, supports.foreground * weights, supports.background * weights
    )


@functools.partial(jax.jit, static_argnames="chosen")
def ratio_margins(
    query: Float[Array, "rows columns channels"],
    supports: SupportPositions,
    chosen: tuple[int, ...] = tuple(range(len(BANDWIDTHS))),
) -> Float[Array, "bandwidths rows columns"]:
    """Returns h times the log density ratio of each position, for some h of `BANDWIDTHS`.

    For h towards 0 that is the difference of the largest cosines to foreground and background, for
    a large h the difference of the mean cosines. See `kernels.density_ratio`.

    Args:
      query: features of an image.
      supports: positions of a class's supports.
      chosen: which of `BANDWIDTHS`, rising: each takes its time.
    """
    widths = jnp.asarray(BANDWIDTHS)[jnp.asarray(chosen)]
    flat = query.reshape(-1, query.shape[-1])
    ratios = density_ratio(flat, *supports, bandwidth=widths) * widths
    ratios = ratios / jnp.asarray([*SCALES.values()])[jnp.asarray(chosen)]
    return jnp.moveaxis(ratios, -1, 0).reshape(-1, *query.shape[:2])


@jax.jit
def foreground_density(
    query: Float[Array, "rows columns channels"], supports: SupportPositions
) -> Float[Array, "rows columns"]:
    """Returns how dense the supports' foreground is around each position, as a margin.

    h log(sum_p f_p exp(cos(q, s_p) / h) / sum_p f_p), with h = `USUAL_BANDWIDTH`, on the scale of
    the margins of the density ratio: the margin by one class's foreground against another's is the
    difference of the two. Unlike margins, densities of different classes compare.
    """
    # A vector of norm 0 has cosine 0 to everything, so that the density of the other side is 1.
    features = jnp.concatenate([supports.features, jnp.zeros_like(supports.features[:1])])
    sides = (jnp.pad(supports.foreground, (0, 1)), jnp.zeros(len(features)).at[-1].set(1.0))
    flat = query.reshape(-1, query.shape[-1])
    density = density_ratio(flat, features, *sides, bandwidth=USUAL_BANDWIDTH)
    return (density * USUAL_BANDWIDTH / SCALES[USUAL]).reshape(query.shape[:2])
