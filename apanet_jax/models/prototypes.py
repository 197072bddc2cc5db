"""What prototypes are averaged over: regions of a query, parts of a support's foreground.

One average of a whole thing may look like none of its parts. So a support's foreground can be split
into clusters of positions that look alike, each with a prototype of its own, and every position of
the query is given the prototype of the part that it looks most like.

Source: the idea of several prototypes that are allocated by likeness is that of Li et al., Adaptive
Prototype Learning and Allocation for Few-Shot Segmentation (CVPR 2021). They grow superpixels, more
of them in larger things; here it is cosine k-means, and their number is given.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.kernels.pooling import cluster_average, masked_average
from apanet_jax.kernels.precision import as_features, einsum, joined, split
from apanet_jax.kernels.unit_vectors import unit

AREA_EPSILON = 0.0005


def foreground_parts(
    middle: Float[Array, "*batch height width channels"],
    foreground: Float[Array, "*batch height width"],
    count: int,
) -> Float[Array, "*batch height width parts"]:
    """Splits the foreground of supports into parts that look alike: its shares in each of them.

    The start of the clustering has no key, so that a support's parts depend on it alone. In place
    of an empty part stands the largest one again.

    Args:
      middle: features of the supports.
      foreground: shares of the supports' foreground at the features' size.
      count: how many parts; 1 is the foreground itself.
    """
    if count == 1:
        return foreground[..., None]
    *batch, height, width, channels = middle.shape
    shares = foreground.reshape(*batch, height * width)
    positions = middle.reshape(*batch, height * width, channels)
    clusters = kmeans(positions, count, weights=shares, init="farthest").assignment
    parts = shares[..., None] * jax.nn.one_hot(clusters, count)
    areas = parts.sum(-2, keepdims=True)
    largest = jnp.take_along_axis(parts, areas.argmax(-1, keepdims=True), -1)
    parts = jnp.where(areas > 0, parts, largest)
    return jax.lax.stop_gradient(parts.reshape(*batch, height, width, count))


def part_means(
    middle: Float[Array, "*batch height width channels"],
    parts: Float[Array, "*batch height width parts"],
) -> Float[Array, "*batch parts channels"]:
    """Returns the mean of the features of each part; zeros where there is no foreground."""
    *batch, height, width, channels = middle.shape
    means, _ = masked_average(
        middle.reshape(*batch, height * width, channels),
        parts.reshape(*batch, height * width, parts.shape[-1]),
    )
    return means


def allocation(
    middle: Float[Array, "*batch height width channels"],
    means: Float[Array, "*batch parts channels"],
) -> Float[Array, "*batch height width parts"]:
    """Returns 1 at the part with the largest cosine to a query's position (of equals the first).

    Args:
      middle: features of the queries.
      means: of a support's parts.
    """
    # The length of a position's own features is a factor of all its cosines.
    middle, count = as_features(middle), means.shape[-2]
    alike = einsum("...hwc,...mc->...hwm", middle, split(unit(means), middle.dtype, -2))
    return jax.lax.stop_gradient(jax.nn.one_hot(joined(alike, count, -1).argmax(-1), count))


def over_shots(
    prototypes: Float[Array, "batch shot parts reduced"],
    allocations: Float[Array, "batch shot height width parts"] | None,
) -> tuple[
    Float[Array, "batch compared reduced"], Float[Array, "batch height width compared"] | None
]:
    """Returns the prototypes that queries are compared with, and the weights of each position.

    The weights are those of the mean over the supports of the prototypes that a position was given.

    Args:
      prototypes: of each support.
      allocations: what `allocation` returned for each; None where each has one prototype, whose
        mean is then the only one, and the weights None.
    """
    if allocations is None:
        return prototypes.mean(1), None
    batch, shot, height, width, count = allocations.shape
    weights = jnp.moveaxis(allocations, 1, 3).reshape(batch, height, width, shot * count)
    return prototypes.reshape(batch, shot * count, -1), weights / shot


def region_prototypes(
    features: Float[Array, "batch height width channels"],
    regions: Int[Array, "batch height width"],
    background: Float[Array, "batch height width"],
    count: int,
) -> tuple[Float[Array, "batch regions channels"], Float[Array, "batch regions"]]:
    """Returns the prototype of each region's background, and how large that is (Eq. 5, 6)."""
    batch, height, width, channels = features.shape
    return cluster_average(
        features.reshape(batch, height * width, channels),
        regions.reshape(batch, height * width),
        background.reshape(batch, height * width),
        count,
        epsilon=AREA_EPSILON,
    )


def cluster_means(
    values: Float[Array, "batch height width channels"],
    clusters: Int[Array, "batch height width"],
    count: int,
) -> Float[Array, "batch height width channels"]:
    """Returns at each position the mean of the values in its cluster."""
    member = jax.nn.one_hot(clusters, count)
    sums = jnp.einsum("bhwn,bhwc->bnc", member, values, precision="highest")
    means = sums / jnp.maximum(member.sum((1, 2)), 1.0)[..., None]
    return jnp.einsum("bhwn,bnc->bhwc", member, means, precision="highest")


def grid_regions(height: int, width: int, side: int) -> Int[Array, "height width"]:
    """Numbers the cells of a grid of `side` x `side` over a map, row by row from 0."""
    rows, columns = (jnp.arange(size) * side // size for size in (height, width))
    return rows[:, None] * side + columns
