"""Rules that give query positions margins by comparing them with all of the supports' positions.

They need frozen features and no training. A margin is a difference of cosines, roughly: by how much
more a position resembles the supports' foreground than their background.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from apanet_jax.inference.matching.geometry import Grid, Label, label_shares
from apanet_jax.kernels.density_ratio import density_ratio, log_densities
from apanet_jax.kernels.kmeans import kmeans

BANDWIDTHS = (0.05, 0.1, 0.2, 0.4)
"""Of the density ratio. With the smallest, few of the nearest support positions decide; with the
largest, the mean cosine to all of them."""
SCALES = {f"density ratio {h:g}": 0.05 for h in BANDWIDTHS}
"""What a rule's margin is divided by."""
USUAL = "density ratio 0.2"


CENTRES = 128
"""Of each side of a support: where there are more positions, so many centres stand for them."""
_KMEANS_ROUNDS = 3


class SupportPositions(NamedTuple):
    """The positions of a class's supports, side by side.

    Positions without a weight may follow them, so that a program serves several numbers of supports
    and one support more does not compile another one.

    Attributes:
      features: of each position, or of each centre of alike positions.
      foreground: which share of each position is the class; of a centre, the sum over positions.
      background: which share of each position is background, likewise.
    """

    features: Float[Array, "positions channels"]
    foreground: Float[Array, " positions"]
    background: Float[Array, " positions"]


def condensed(
    features: Float[Array, "rows columns channels"], label: Label, grid: Grid
) -> SupportPositions:
    """Returns the positions of one support, or fewer that stand for them.

    Where there are more than twice `CENTRES`, the foreground and the background are each replaced
    by the centres of cosine k-means, with the weights of their clusters: a query is compared with
    them in a fraction of the time, and densities are nearly the same.

    Args:
      features: of the support.
      label: `[size, size]`, see `geometry.label_shares`.
      grid: of the square.
    """
    flat = np.asarray(features, np.float32).reshape(-1, features.shape[-1])
    sides = np.stack([x.ravel() for x in label_shares(label, grid)])
    if len(flat) == kept_positions(grid):
        return SupportPositions(flat, *sides)
    found = kmeans(
        np.broadcast_to(flat, (2, *flat.shape)),
        CENTRES,
        rounds=_KMEANS_ROUNDS,
        weights=sides,
        init=np.stack([flat[_evenly(np.flatnonzero(x))] for x in sides]),
    )
    centres = np.asarray(found.centres)
    pairs = zip(np.asarray(found.assignment), sides, strict=True)
    foreground, background = (np.bincount(*x, CENTRES).astype(np.float32) for x in pairs)
    none = np.zeros(CENTRES, np.float32)
    return SupportPositions(
        np.concatenate(centres),
        np.concatenate([foreground, none]),
        np.concatenate([none, background]),
    )


def kept_positions(grid: Grid) -> int:
    """Returns how many positions `condensed` gives of a support."""
    return min(grid.positions**2, 2 * CENTRES)


def _evenly(positions: np.ndarray) -> np.ndarray:
    """Returns `CENTRES` of some positions, as far from each other in their order as possible."""
    if not len(positions):
        return np.zeros(CENTRES, int)
    return positions[np.linspace(0, len(positions) - 1, CENTRES).round().astype(int)]


def support_positions(supports: Sequence[SupportPositions]) -> SupportPositions:
    """Returns the positions of several supports side by side.

    Args:
      supports: each as `condensed` returns it.
    """
    missing = _rounded_up(len(supports)) - len(supports)
    # By NumPy: `jnp.concatenate` would be compiled for every number of supports.
    parts = ([*x] + [np.zeros_like(x[0])] * missing for x in zip(*supports, strict=True))
    return SupportPositions(*(jnp.asarray(np.concatenate(x)) for x in parts))


def _rounded_up(images: int) -> int:
    """Returns the next of 1, 2, 3, 4, 6, 8, 12, 16, 24, …"""
    power = 1 << (images - 1).bit_length()
    return power * 3 // 4 if 4 * images <= 3 * power and power >= 4 else power


def without(supports: SupportPositions, index: int, images: int) -> SupportPositions:
    """Returns the positions with one image's weights at 0, so that the shapes are the same.

    Args:
      supports: positions of images of equal size, supports and negatives.
      index: of the image that is left out.
      images: number of them.
    """
    others = np.arange(images) != index
    weights = np.repeat(others, len(supports.foreground) // images).astype(np.float32)
    foreground, background = (np.asarray(x) * weights for x in supports[1:])
    return SupportPositions(supports.features, foreground, background)


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
    widths, scales = (
        np.asarray(x, np.float32)[[*chosen]] for x in (BANDWIDTHS, [*SCALES.values()])
    )
    return _ratio_margins(query, supports, widths, scales)


@jax.jit
def _ratio_margins(query, supports, widths, scales) -> Float[Array, "bandwidths rows columns"]:
    flat = query.reshape(-1, query.shape[-1])
    ratios = density_ratio(flat, *supports, bandwidth=widths) * widths / scales
    return jnp.moveaxis(ratios, -1, 0).reshape(-1, *query.shape[:2])


class PairDensities(NamedTuple):
    """The densities of one support's two sides around the positions of an image.

    Attributes:
      logarithms: of foreground and background, for each of `BANDWIDTHS`.
      weights: of foreground and background in the densities of several supports.
    """

    logarithms: Float[np.ndarray, "2 rows columns bandwidths"]
    weights: Float[np.ndarray, " 2"]


def pair_densities(
    query: Float[Array, "rows columns channels"], support: SupportPositions
) -> PairDensities:
    """Returns the densities of one support around the positions of an image.

    Args:
      query: features of the image.
      support: see `condensed`.
    """
    flat = query.reshape(-1, query.shape[-1])
    found = np.asarray(_log_densities(flat, *support, np.asarray(BANDWIDTHS, np.float32)))
    return PairDensities(found.reshape(2, *query.shape[:2], -1), side_weights(support))


def side_weights(support: SupportPositions) -> Float[np.ndarray, " 2"]:
    """Returns the weights of a support's foreground and background, see `PairDensities`."""
    return np.array([x.sum(dtype=np.float64) for x in (support.foreground, support.background)])


_log_densities = jax.jit(log_densities)


def margins_of_pairs(
    pairs: Sequence[PairDensities],
) -> Float[np.ndarray, "bandwidths rows columns"]:
    """Returns the `ratio_margins` of an image by all of these supports together."""
    weights = np.stack([x.weights for x in pairs])
    total = weights.sum(0)
    # A support without foreground, or without background, has no say in that side.
    with np.errstate(divide="ignore"):
        log_weights = np.log(weights / np.maximum(total, 1e-30))[..., None, None, None]
    parts = log_weights + np.stack([x.logarithms for x in pairs])
    widths = np.asarray(BANDWIDTHS, np.float32)
    means = np.where(
        total[:, None, None, None] > 0, np.logaddexp.reduce(parts, axis=0), -1.0 / widths
    )
    ratios = (means[0] - means[1]) * widths / [*SCALES.values()]
    return np.moveaxis(ratios, -1, 0).astype(np.float32)
