"""The prior mask: where the query looks like the support's foreground, without any learning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.kernels.density_ratio import density_ratio
from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.kernels.pooling import cluster_average, masked_average
from apanet_jax.kernels.precision import einsum

EPSILON = 1e-7
_FEWEST_POSITIONS = 32
_BACKGROUND_CLUSTERS = 3
CONTRAST_GAIN = 2.0


def prior_mask(
    query: Float[Array, "batch height width channels"],
    support: Float[Array, "batch shot height width channels"],
    foreground: Float[Array, "batch shot height width"],
    *,
    stretch: bool = True,
) -> Float[Array, "batch height width"]:
    """Returns the prior mask of each query, in [0, 1].

    Every query position takes its largest cosine similarity to the positions of a support's
    foreground, at least 0 (PFENet zeroes the background's features, whose cosine is then 0). The
    map is min-max normalised over the image, and averaged over the supports.

    Stretched like this, every image has a best match, even one that shows nothing alike. The
    cosines themselves tell how alike it is.

    Args:
      query: high-level features of the queries.
      support: high-level features of the supports.
      foreground: the supports' masks at the features' size; positions above 0 count.
      stretch: whether to normalise; otherwise the mask is the mean cosine over the supports.

    Source: Tian et al., Prior Guided Feature Enrichment Network, Eq. 3 to 6.
    """
    batch, height, width, channels = query.shape
    positions = query.reshape(batch, height * width, channels)

    def one_shot(shot):
        features, mask = shot
        flat = features.reshape(batch, -1, channels), mask.reshape(batch, -1)
        return shot_prior(positions, *flat, stretch=stretch)

    shots = jax.lax.map(one_shot, (jnp.swapaxes(support, 0, 1), jnp.swapaxes(foreground, 0, 1)))
    return shots.mean(0).reshape(batch, height, width)


def contrast_prior(
    query: Float[Array, "batch height width channels"],
    support: Float[Array, "batch shot height width channels"],
    foreground: Float[Array, "batch shot height width"],
    background: Float[Array, "batch shot height width"],
) -> Float[Array, "batch height width"]:
    """Returns whether each position is nearer to the foreground than to what surrounds it.

    For each support: the cosine to the mean of its foreground, above the largest cosine to a mean
    of its background's clusters. Where both are equal the map is 0.5; it is in [0, 1], and the
    mean over the supports.

    Args:
      query: features of the queries.
      support: features of the supports.
      foreground: shares of the supports' foreground at the features' size.
      background: the same of the background.
    """
    batch, height, width, channels = query.shape
    prototypes = contrast_prototypes(
        support.reshape(*support.shape[:2], -1, channels),
        foreground.reshape(*foreground.shape[:2], -1),
        background.reshape(*background.shape[:2], -1),
    )
    positions = query.reshape(batch, 1, height * width, channels)
    return contrast(positions, prototypes).mean(1).reshape(batch, height, width)


def contrast_prototypes(
    support: Float[Array, "*batch positions channels"],
    foreground: Float[Array, "*batch positions"],
    background: Float[Array, "*batch positions"],
) -> Float[Array, "*batch prototypes channels"]:
    """Returns the mean of each support's foreground, then those of its background's clusters.

    In place of an empty cluster stands the mean of the largest one again.
    """
    *batch, positions, channels = support.shape
    features = support.reshape(-1, positions, channels).astype(jnp.float32)
    weights = background.reshape(-1, positions)
    clusters = kmeans(
        features,
        _BACKGROUND_CLUSTERS,
        weights=(weights >= 0.5).astype(jnp.float32),
        # Without a key the start is the features' own, and not that of a place in the batch.
        init="farthest",
    ).assignment
    behind, areas = cluster_average(features, clusters, weights, _BACKGROUND_CLUSTERS)
    largest = jnp.take_along_axis(behind, areas.argmax(-1)[:, None, None], 1)
    behind = jnp.where(areas[..., None] > 0, behind, largest)
    before, _ = masked_average(features, foreground.reshape(-1, positions, 1))
    found = jnp.concatenate([before, behind], 1)
    return jax.lax.stop_gradient(found.reshape(*batch, *found.shape[1:]))


def contrast(
    query: Float[Array, "*batch positions channels"],
    prototypes: Float[Array, "*batch prototypes channels"],
) -> Float[Array, "*batch positions"]:
    """Returns the contrast of each position by one support: see `contrast_prior`."""
    return jnp.clip(0.5 + CONTRAST_GAIN * contrast_margin(query, prototypes), 0.0, 1.0)


def contrast_margin(
    query: Float[Array, "*batch positions channels"],
    prototypes: Float[Array, "*batch prototypes channels"],
) -> Float[Array, "*batch positions"]:
    """Returns each position's cosine to the first prototype above the largest to the others.

    In [-2, 2]: the contrast before it is stretched and cut off.
    """
    cosine = einsum("...pc,...nc->...pn", _unit(query.astype(jnp.float32)), _unit(prototypes))
    return cosine[..., 0] - cosine[..., 1:].max(-1)


def density_prior(
    query: Float[Array, "batch height width channels"],
    support: Float[Array, "batch shot height width channels"],
    foreground: Float[Array, "batch shot height width"],
    background: Float[Array, "batch shot height width"],
    bandwidth: float = 0.05,
) -> Float[Array, "batch height width"]:
    """Returns how likely each query position is to come from the supports' foreground.

    For each support: the density of its foreground's features at the position, as a share of the
    densities of foreground and background together, so the complement of the mask is the share of
    the background. Where both are equal it is 0.5; it is in [0, 1], and the mean over the supports.

    Args:
      query: features of the queries.
      support: features of the supports.
      foreground: shares of the supports' foreground at the features' size.
      background: the same of the background.
      bandwidth: of the densities, see `kernels.density_ratio`.
    """
    batch, height, width, channels = query.shape
    found = density_share(
        query.reshape(batch, 1, height * width, channels),
        support.reshape(*support.shape[:2], -1, channels),
        foreground.reshape(*foreground.shape[:2], -1),
        background.reshape(*background.shape[:2], -1),
        bandwidth,
    )
    return found.mean(1).reshape(batch, height, width)


def density_share(
    query: Float[Array, "*batch positions channels"],
    support: Float[Array, "*batch support_positions channels"],
    foreground: Float[Array, "*batch support_positions"],
    background: Float[Array, "*batch support_positions"],
    bandwidth: float,
) -> Float[Array, "*batch positions"]:
    """Returns the share of each position by one support: see `density_prior`."""
    ratio = density_ratio(query, support, foreground, background, bandwidth)
    return jax.lax.stop_gradient(jax.nn.sigmoid(ratio))


def shot_prior(
    query: Float[Array, "*batch positions channels"],
    support: Float[Array, "*batch support_positions channels"],
    foreground: Float[Array, "*batch support_positions"] | None,
    *,
    stretch: bool = True,
) -> Float[Array, "*batch positions"]:
    """Returns the prior mask by one support: see `prior_mask`, whose average it goes into.

    Without a `foreground` all positions of the support are its foreground, or zeros.
    """
    similarity = largest_cosine(query, support, foreground)
    if not stretch:
        return similarity
    low = similarity.min(-1, keepdims=True)
    high = similarity.max(-1, keepdims=True)
    return (similarity - low) / (high - low + EPSILON)


def largest_cosine(
    query: Float[Array, "*batch positions channels"],
    support: Float[Array, "*batch support_positions channels"],
    foreground: Float[Array, "*batch support_positions"] | None,
) -> Float[Array, "*batch positions"]:
    """Returns each query position's largest cosine to a support position with `foreground` > 0.

    The result is at least 0, and 0 where a support has no foreground. Products of float32 features
    are in float32 on every device, as a mask is stretched afterwards; of bfloat16 their sums are.
    """
    query, support = _unit(query), _unit(support)
    if foreground is None:
        return _largest(query, support)
    inside = foreground > 0
    return jax.lax.platform_dependent(
        query, support, inside, cpu=_foreground_alone, default=_all_positions
    )


def _all_positions(query, support, inside) -> Float[Array, "*batch positions"]:
    return _largest(query, support * inside[..., None].astype(support.dtype))


def _largest(query, support) -> Float[Array, "*batch positions"]:
    cosine = einsum("...pc,...sc->...ps", query, support)
    return jnp.maximum(cosine.max(-1), 0.0)


def _foreground_alone(query, support, inside) -> Float[Array, "*batch positions"]:
    """Returns the same, one pair after the other, and each in a product as small as it may be.

    An object covers a tenth of most images, and this product is most of a small head's work.
    """
    *batch, positions, channels = query.shape
    count = support.shape[-2]
    sizes = sorted({min(count, _FEWEST_POSITIONS * 2**i) for i in range(count.bit_length())})

    def one_pair(pair):
        query, support, inside = pair
        first = jnp.argsort(~inside, stable=True)

        def product(size):
            return lambda: _all_positions(query, support[first[:size]], inside[first[:size]])

        enough = jnp.searchsorted(jnp.array(sizes), inside.sum())
        return jax.lax.switch(enough, [product(size) for size in sizes])

    flat = (
        query.reshape(-1, positions, channels),
        support.reshape(-1, count, channels),
        inside.reshape(-1, count),
    )
    return jax.lax.map(one_pair, flat).reshape(*batch, positions)


def _unit(x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
    squares = jnp.sum(jnp.square(x.astype(jnp.float32)), -1, keepdims=True)
    return (x * jax.lax.rsqrt(squares + EPSILON)).astype(x.dtype)
