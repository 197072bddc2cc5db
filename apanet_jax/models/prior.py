"""The prior mask: where the query looks like the support's foreground, without any learning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

EPSILON = 1e-7
_FEWEST_POSITIONS = 32


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
    map is min-max normalised over the picture, and averaged over the supports.

    Stretched like this, every picture has a best match, even one that shows nothing alike. The
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


def shot_prior(
    query: Float[Array, "*batch positions channels"],
    support: Float[Array, "*batch support_positions channels"],
    foreground: Float[Array, "*batch support_positions"],
    *,
    stretch: bool = True,
) -> Float[Array, "*batch positions"]:
    """Returns the prior mask by one support: see `prior_mask`, whose average it goes into."""
    similarity = largest_cosine(query, support, foreground)
    if not stretch:
        return similarity
    low = similarity.min(-1, keepdims=True)
    high = similarity.max(-1, keepdims=True)
    return (similarity - low) / (high - low + EPSILON)


def largest_cosine(
    query: Float[Array, "*batch positions channels"],
    support: Float[Array, "*batch support_positions channels"],
    foreground: Float[Array, "*batch support_positions"],
) -> Float[Array, "*batch positions"]:
    """Returns each query position's largest cosine to a support position with `foreground` > 0.

    The result is at least 0, and 0 where a support has no foreground.
    """
    query, support, inside = _unit(query), _unit(support), foreground > 0
    return jax.lax.platform_dependent(
        query, support, inside, cpu=_foreground_alone, default=_all_positions
    )


def _all_positions(query, support, inside) -> Float[Array, "*batch positions"]:
    support = support * inside[..., None].astype(support.dtype)
    cosine = jnp.einsum("...pc,...sc->...ps", query, support, preferred_element_type=jnp.float32)
    return jnp.maximum(cosine.max(-1), 0.0)


def _foreground_alone(query, support, inside) -> Float[Array, "*batch positions"]:
    """Returns the same, one pair after the other, and each in a product as small as it may be.

    A thing covers a tenth of most pictures, and this product is most of a small head's work.
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
