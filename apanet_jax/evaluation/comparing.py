"""Programs that compare queries with supports: what all heads share, and what each one computes.

Every program has a fixed shape: a batch of pairs, of supports, of queries or of episodes, spread
over the devices, each with its own rows (`evaluation.device_rows`).
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Float

from apanet_jax.data.annotations.mask_values import IGNORE
from apanet_jax.evaluation.device_rows import apart, joined, on_each
from apanet_jax.evaluation.protocol import Resizing, score
from apanet_jax.models.apanet import APANet, ImageFeatures
from apanet_jax.models.network import Parameters
from apanet_jax.models.prior import contrast, density_share, shot_prior
from apanet_jax.models.prototypes import allocation, over_shots


class Head(NamedTuple):
    """A head to score.

    Attributes:
      head: its network.
      parameters: on every device.
    """

    head: APANet
    parameters: Parameters


def names_of_pairs(head: APANet) -> tuple[set[str], set[str]]:
    """Returns which arrays of a query and of a support are compared before any head is."""
    others = set(head.priors) - {"high", "contrast", "density_ratio"}
    several = head.foreground_prototypes > 1
    of_query = {"high" if name == "high" else "middle" for name in head.priors}
    of_support = {"middle"} if others else set()
    for name, needed in (
        ("high", ("high",)),
        ("contrast", ("contrast",)),
        ("density_ratio", ("block4", "shares")),
    ):
        if name in head.priors:
            of_support |= set(needed)
    if several:
        of_query, of_support = of_query | {"middle"}, of_support | {"means"}
    return of_query, of_support


def compiled_pairs(head: APANet, mesh: Mesh):
    """Returns the program of pairs of queries and supports: prior masks, and allocations.

    A pair's "prior" is `[1, h, w, p]`. Where a support has several prototypes, "allocation"
    `[1, h, w, m]` says which of them a position of the query is like. The pairs' queries are given
    by their places among a device's.
    """

    def one_pair(queries, place, support):
        query = {name: x[place] for name, x in queries.items()}
        height, width = next(iter(query.values())).shape[:2]
        found = {}
        if head.priors:
            maps = [_prior(head, name, query, support) for name in head.priors]
            found["prior"] = jnp.stack(maps, -1).reshape(height, width, len(maps))
        if head.foreground_prototypes > 1:
            found["allocation"] = allocation(query["middle"], support["means"])
        return found

    def one_by_one(queries, places, supports):
        # On a CPU each product is large enough, and its factors are not copied.
        return jax.lax.map(lambda pair: one_pair(queries, *pair), (places, supports))

    def together(queries, places, supports):
        return jax.vmap(one_pair, (None, 0, 0))(queries, places, supports)

    def pairs(queries, places, supports):
        found = jax.lax.platform_dependent(
            joined(queries), places, joined(supports), cpu=one_by_one, default=together
        )
        return apart(found)

    return on_each(mesh, pairs, 0)


def _prior(
    head: APANet, name: str, query: Mapping[str, Array], support: Mapping[str, Array]
) -> Float[Array, " positions"]:
    """Returns one prior mask of one query by one support.

    Zeros that fill the support up have cosine 0, which is the least that a prior mask takes.
    """
    if name == "high":
        of_query, of_support = query["high"], support["high"]
    else:
        of_query = head.features_of(name, ImageFeatures(query["middle"], None))
    positions = of_query.reshape(-1, of_query.shape[-1])
    if name == "contrast":
        return contrast(positions, support["contrast"])
    if name == "density_ratio":
        shares = support["shares"]
        return density_share(positions, support["block4"], shares[0], shares[1], head.bandwidth)
    if name != "high":
        of_support = head.features_of(name, ImageFeatures(support["middle"], None))
    return shot_prior(positions, of_support, None, stretch=head.stretch_prior)


def compiled_head(head: APANet, mesh: Mesh, resizing: Resizing):
    """Returns the programs of what a head computes of supports, of queries, and of episodes."""

    def pool(parameters, supports):
        rows = joined(supports)
        # A support's positions stand in one column.
        middle, parts = (rows[name][:, None, :, None] for name in ("middle", "parts"))
        return head.apply({"params": parameters}, middle, parts, method="prototypes")[:, 0]

    def encode(parameters, queries):
        middle = joined(queries)["middle"]
        return head.apply({"params": parameters}, middle, method="encode_query")

    def compare(parameters, encoded, label, side, places, classes, prototypes, pairs):
        shots = [joined(rows) for rows in pairs]
        prior = jnp.stack([shot["prior"] for shot in shots]).mean(0)
        allocations = None
        if head.foreground_prototypes > 1:
            allocations = jnp.stack([shot["allocation"] for shot in shots], 1)
        prototypes, assignment = over_shots(prototypes, allocations)
        own = jax.tree.map(lambda x: x[places], encoded)
        logits = head.apply(
            {"params": parameters}, own, prototypes, prior, assignment, method="compare"
        ).logits
        known = label[places]
        is_class = (known == classes[:, None, None]).astype(known.dtype)
        known = jnp.where(known == IGNORE, known, is_class)
        return score(logits[..., 1] - logits[..., 0], known, side[places], resizing)

    return on_each(mesh, pool, 1), on_each(mesh, encode, 1), on_each(mesh, compare, 1)
