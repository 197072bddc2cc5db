"""APANet: class-specific and, in training, class-agnostic comparison with prototypes.

The head of the network: it takes a frozen backbone's features of an episode and holds every
parameter that is trained. Equation numbers are the paper's. Whoever makes the collection
"intermediates" mutable finds the reduced query features and the prototypes in there.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from apanet_jax.kernels.kmeans import kmeans
from apanet_jax.kernels.pooling import masked_average
from apanet_jax.models.class_agnostic import Regions, expansion, partition, repeated, resembling
from apanet_jax.models.comparison import Compared, ConvComparison
from apanet_jax.models.feature_enrichment import PASCAL_BINS, FeatureEnrichment
from apanet_jax.models.prior import contrast_prior, density_prior, prior_mask
from apanet_jax.models.prototypes import (
    AREA_EPSILON,
    allocation,
    cluster_means,
    foreground_parts,
    over_shots,
    part_means,
    region_prototypes,
)
from apanet_jax.models.reduction import Reduction
from apanet_jax.models.resize import at_size

IGNORE = 255


class ImageFeatures(NamedTuple):
    """What the head needs to know of images.

    Attributes:
      middle: `[..., h, w, c]`, the paper's F: blocks 4 and 3 side by side.
      high: `[..., h, w, d]`, the paper's F-bar: the last block; None where the head does not
        look at it, so that nobody computes it.
    """

    middle: Float[Array, "*batch height width channels"]
    high: Float[Array, "*batch height width high_channels"] | None


class Outputs(NamedTuple):
    """What the head says of an episode.

    Attributes:
      logits: `[B, h, w, 2]` of the class-specific branch: background, foreground.
      prior: `[B, h, w, p]` prior masks in [0, 1].
      agnostic_logits: `[R*B, h, w, 2]` of the class-agnostic branch: other than the assigned
        prototype, the same as it; the whole batch with each of R negatives in turn. None without a
        query label or with no clusters.
      clusters: `[B, h, w]` cluster of each position before the foreground is removed (Eq. 4).
      agnostic_valid: `[B]`, false where an image has no background to take a prototype from.
      resembling: `[B, h, w]`, 1 where background was left out for being like the supports, or None.
      levels: logits of the class-specific branch's pyramid levels, each of its own size. Empty
        without a query label, or where the comparison has no levels.
      agnostic_levels: those of the class-agnostic branch; empty also where they were not asked for.
    """

    logits: Float[Array, "batch height width 2"]
    prior: Float[Array, "batch height width priors"]
    agnostic_logits: Float[Array, "negatives_times_batch height width 2"] | None = None
    clusters: Int[Array, "batch height width"] | None = None
    agnostic_valid: Float[Array, " batch"] | None = None
    levels: tuple[Float[Array, "batch bin_height bin_width 2"], ...] = ()
    agnostic_levels: tuple[Float[Array, "negatives_times_batch bin_height bin_width 2"], ...] = ()
    resembling: Float[Array, "batch height width"] | None = None


class EncodedSupport(NamedTuple):
    """What of a comparison the supports alone make up, beside their features.

    Attributes:
      foreground: `[B, K, h, w]`, which share of each position is the class.
      background: `[B, K, h, w]`, which share of each position is background.
      prototypes: `[B, K, m, r]` of the m parts of the foreground (Eq. 1).
      means: `[B, K, m, c]`, the parts' mean middle features; None where the foreground is one part.
    """

    foreground: Float[Array, "batch shot height width"]
    background: Float[Array, "batch shot height width"]
    prototypes: Float[Array, "batch shot parts reduced"]
    means: Float[Array, "batch shot parts channels"] | None


class EncodedQuery(NamedTuple):
    """What of a comparison the queries' features alone make up.

    Attributes:
      comparison: what the comparison's own `encode_query` returned.
      clusters: `[B, h, w]`, the cluster of each position in which logits are averaged at inference;
        None where they are not.
    """

    comparison: Any
    clusters: Int[Array, "batch height width"] | None


class APANet(nn.Module):
    """The trained part of APANet.

    Attributes:
      channels: of the reduced features.
      comparison: the paper's g: "conv", a 3x3 and a 1x1 convolution as in its text, or "fem",
        PFENet's feature enrichment, which its tables were made with.
      pyramid_bins: cells a side of the levels of "fem"; up to 1 a fraction of the features' sides.
      agnostic_levels: whether those levels have logits of their own, and so losses, in the
        class-agnostic branch too.
      num_clusters: the paper's n; 0 is the baseline without a class-agnostic branch.
      regions: what gives the class-agnostic branch its prototypes: "kmeans", the query's clusters;
        "grid", the cells of a square grid over the query, of which there must be n (4, 9, 16, ...),
        as in spatial pyramid pooling; "support", the supports' background, one prototype (n = 1).
      priors: what gives a prior mask, a channel each, any of: the features "high" and "middle", of
        the middle ones "block4" or "block3" alone; and two that look at the supports' background
        too, "contrast" by the middle ones and "density_ratio" by block 4.
      bandwidth: of "density_ratio", see `kernels.density_ratio`.
      block4_channels: how many of the middle features' channels are block 4's, which come first;
        the rest are block 3's. It is the backbone's, see `backbones.spec`.
      foreground_prototypes: how many a support has, each of a cluster of its foreground by the
        middle features, see `models.prototypes`; 1 is the paper's. A position is compared with the
        one whose cluster it is most like, and with several supports with the mean of those.
      negatives: how many clusters' prototypes the foreground is compared with, in one comparison
        each, instead of the paper's one drawn at random.
      resemblance_limit: background clusters whose mean has a larger cosine than this to the
        supports' foreground, by the features that are clustered, are left out of both losses: they
        may show the class, unlabelled. 1: none is, as in the paper.
      agnostic_prior: what stands in those channels in the class-agnostic branch: the complement
        of the prior, the prior itself, or zeros.
      unit_features: scale each position's middle features to a mean square of 1 before they are
        reduced: for backbones whose features have no scale of their own, beside which a prior mask
        in [0, 1] would not be seen.
      query_clusters: clusters of the query, by block 4, within which half of the logits is averaged
        at inference; 0: none are, as in the paper, which clusters in training alone.
      prior_scale: factor of the prior masks, in both branches, before they are compared: beside
        many feature channels a mask in [0, 1] is hardly seen.
      stretch_prior: min-max normalise each prior mask over its image, as PFENet does.
      shared_reduction: one reduction for queries and supports instead of one each.
      reduction_bias: whether the reductions have a bias; PFENet's have none.
      comparison_dtype: "float32" or "bfloat16": of the reduced features, and of the factors of the
        comparison's products. Sums, prototypes, prior masks and logits are in float32.
      reduction_dropout: share of the reduced channels dropped in training.
      comparison_dropout: share of the comparison's hidden channels dropped in training.
      cluster_features: what is clustered; the paper's is "high".
      kmeans_rounds: rounds of the clustering; the paper's 10.
      kmeans_init: where the clustering starts, see `kernels.kmeans`.
      centred: whether the features' positions are the centres of equal squares, as a vision
        transformer's patches are; otherwise the first is the first pixel, the last the last.
    """

    channels: int = 256
    comparison: Literal["conv", "fem"] = "conv"
    pyramid_bins: tuple[float, ...] = PASCAL_BINS
    agnostic_levels: bool = True
    num_clusters: int = 3
    regions: Regions = "kmeans"
    foreground_prototypes: int = 1
    negatives: int = 1
    resemblance_limit: float = 1.0
    priors: tuple[str, ...] = ("high",)
    bandwidth: float = 0.05
    block4_channels: int = 1024
    agnostic_prior: Literal["complement", "same", "zeros"] = "complement"
    query_clusters: int = 0
    unit_features: bool = False
    prior_scale: float = 1.0
    stretch_prior: bool = True
    shared_reduction: bool = False
    reduction_bias: bool = True
    comparison_dtype: str = "float32"
    reduction_dropout: float = 0.5
    comparison_dropout: float = 0.1
    cluster_features: Literal["high", "middle"] = "high"
    kmeans_rounds: int = 10
    kmeans_init: str = "farthest"
    centred: bool = False

    @property
    def needs_high(self) -> bool:
        """Whether the head looks at high-level features at all."""
        return "high" in (*self.priors, self.cluster_features)

    @property
    def for_inference(self) -> "APANet":
        """The same head without what only training looks at: all heads' inference is one program.

        It has the same parameters.
        """
        return self.clone(num_clusters=0, regions="kmeans", negatives=1, resemblance_limit=1.0)

    @nn.nowrap
    def features_of(self, name: str, features: ImageFeatures) -> Float[Array, "*batch channels"]:
        """Returns the features that the prior mask of a name looks at."""
        middle = features.middle
        return {
            "high": features.high,
            "middle": middle,
            "block4": middle[..., : self.block4_channels],
            "block3": middle[..., self.block4_channels :],
            "contrast": middle,
            "density_ratio": middle[..., : self.block4_channels],
        }[name]

    def setup(self):
        reduction = (
            *(self.channels, self.reduction_bias, self.unit_features),
            self.comparison_dtype,
        )
        self.reduce_support = Reduction(*reduction)
        if not self.shared_reduction:
            self.reduce_query = Reduction(*reduction)
        shared = (self.channels, len(self.priors), self.comparison_dropout)
        self.comparison_module = (
            FeatureEnrichment(*shared, self.pyramid_bins, self.comparison_dtype, name="comparison")
            if self.comparison == "fem"
            else ConvComparison(*shared, name="comparison")
        )
        self.drop = nn.Dropout(self.reduction_dropout, broadcast_dims=(-3, -2))

    def __call__(
        self,
        query: ImageFeatures,
        support: ImageFeatures,
        support_labels: UInt8[Array, "batch shot H W"],
        query_label: UInt8[Array, "batch H W"] | None = None,
        *,
        train: bool = False,
    ) -> Outputs:
        """Compares queries with their supports (Eq. 1 to 3) and with themselves (Eq. 4 to 8).

        Args:
          query: features `[B, h, w, ...]` of the queries.
          support: features `[B, K, h, w, ...]` of the supports.
          support_labels: 1 where the class is, 0 elsewhere, 255 to ignore.
          query_label: the same of the queries; the class-agnostic branch runs only where it is
            given and `num_clusters` is above 0, and pyramid levels have logits only where it is.
          train: whether channels are dropped. Training needs the keys "dropout" and "cluster".
        """
        of_support = self.encode_support(support, support_labels, train=train)
        prior, allocations = self.match(query, support, of_support)
        prototypes, assignment = over_shots(of_support.prototypes, allocations)
        encoded = self.encode_query(query.middle, train=train)
        self.sow("intermediates", "prototypes", prototypes)
        labelled = query_label is not None
        specific = self.compare(
            encoded, prototypes, prior, assignment, levels=labelled, train=train
        )
        outputs = Outputs(specific.logits, prior, levels=specific.levels)
        if not labelled or not self.num_clusters:
            return outputs
        return self._with_class_agnostic(
            outputs, query, support, of_support, encoded, query_label, train=train
        )

    def encode_support(
        self,
        support: ImageFeatures,
        support_labels: UInt8[Array, "batch shot H W"],
        *,
        train: bool = False,
    ) -> EncodedSupport:
        """Returns the part of the comparison that the supports alone make up."""
        size = support.middle.shape[2:4]
        foreground, background = (self._at_size(support_labels == x, size) for x in (1, 0))
        parts = foreground_parts(support.middle, foreground, self.foreground_prototypes)
        means = part_means(support.middle, parts) if self.foreground_prototypes > 1 else None
        prototypes = self.prototypes(support.middle, parts, train=train)
        return EncodedSupport(foreground, background, prototypes, means)

    def match(
        self, query: ImageFeatures, support: ImageFeatures, encoded: EncodedSupport
    ) -> tuple[
        Float[Array, "batch height width priors"],
        Float[Array, "batch shot height width parts"] | None,
    ]:
        """Returns the prior masks of queries by their supports, and the `allocation` to each.

        Both are means over the supports, or an axis over them: with one support at a time they can
        be put together from those of the pairs. The allocations are None where a support has one
        prototype.
        """
        allocations = None
        if encoded.means is not None:
            allocations = allocation(query.middle[:, None], encoded.means)
        prior = self._prior_masks(query, support, encoded.foreground, encoded.background)
        return prior, allocations

    def prototypes(
        self,
        middle: Float[Array, "batch shot height width channels"],
        parts: Float[Array, "batch shot height width parts"],
        *,
        train: bool = False,
    ) -> Float[Array, "batch shot parts reduced"]:
        """Returns the prototypes of each support (Eq. 1): the averages of its foreground's parts.

        Args:
          middle: features of the supports.
          parts: where the class is, at the features' size; see `foreground_parts`.
          train: whether channels are dropped.
        """
        batch, shot, height, width, _ = middle.shape
        features = self.drop(self.reduce_support(middle), deterministic=not train)
        pooled, _ = masked_average(
            features.reshape(batch, shot, height * width, self.channels),
            parts.reshape(batch, shot, height * width, parts.shape[-1]),
            epsilon=AREA_EPSILON,
        )
        return pooled

    def encode_query(
        self, middle: Float[Array, "batch height width channels"], *, train: bool = False
    ) -> EncodedQuery:
        """Returns the part of the comparison that the queries' features alone make up."""
        reduce = self.reduce_support if self.shared_reduction else self.reduce_query
        reduced = self.drop(reduce(middle), deterministic=not train)
        self.sow("intermediates", "reduced_query", reduced)
        clusters = None
        if self.query_clusters and not train:
            batch, height, width, _ = middle.shape
            block4 = middle[..., : self.block4_channels].reshape(batch, height * width, -1)
            found = kmeans(block4, self.query_clusters, rounds=self.kmeans_rounds)
            clusters = found.assignment.reshape(batch, height, width)
        return EncodedQuery(self.comparison_module.encode_query(reduced), clusters)

    def compare(
        self,
        encoded: EncodedQuery,
        prototypes: Float[Array, "batch compared reduced"],
        prior: Float[Array, "batch height width priors"],
        assignment: Float[Array, "batch height width compared"] | None = None,
        *,
        levels: bool = False,
        train: bool = False,
    ) -> Compared:
        """Compares queries with their prototypes (Eq. 2, 3), as inference does.

        Args:
          encoded: what `encode_query` returned.
          prototypes: of all shots, see `over_shots`.
          prior: the prior masks, the mean over the shots.
          assignment: the prototypes' weights at each position; None: there is one, everywhere.
          levels: whether a pyramid's levels give logits too.
          train: whether channels are dropped.
        """
        if assignment is None:
            assignment = jnp.ones((*prior.shape[:3], 1))
        compared = self.comparison_module(
            encoded.comparison,
            prototypes,
            assignment,
            self.prior_scale * prior,
            levels=levels,
            train=train,
        )
        if encoded.clusters is None:
            return compared
        means = cluster_means(compared.logits, encoded.clusters, self.query_clusters)
        return compared._replace(logits=(compared.logits + means) / 2)

    def _with_class_agnostic(
        self,
        outputs: Outputs,
        query: ImageFeatures,
        support: ImageFeatures,
        of_support: EncodedSupport,
        encoded: EncodedQuery,
        query_label: UInt8[Array, "batch H W"],
        *,
        train: bool,
    ) -> Outputs:
        """Compares queries with the clusters of their own background (Eq. 4 to 8)."""
        size, number = query.middle.shape[1:3], self.num_clusters
        known, background, foreground = (
            self._at_size(mask, size)
            for mask in (query_label != IGNORE, query_label == 0, query_label == 1)
        )

        # Eq. 4: clusters of the query.
        features, of_shots = (getattr(x, self.cluster_features) for x in (query, support))
        key = self.make_rng("cluster") if self.regions == "kmeans" else None
        clusters = partition(
            features,
            known,
            number,
            regions=self.regions,
            rounds=self.kmeans_rounds,
            init=self.kmeans_init,
            key=key,
        )
        left_out = None
        if self.resemblance_limit < 1:
            left_out = background * resembling(
                *(features, of_shots, of_support.foreground, clusters, background, number),
                limit=self.resemblance_limit,
            )
            background -= left_out

        # Eq. 5, 6: a prototype of each cluster without the foreground.
        if self.regions == "support":
            behind = of_support.background
            prototypes = self.prototypes(support.middle, behind[..., None], train=train).mean(1)
            areas = behind.sum((1, 2, 3))[:, None]
        else:
            reduced = self.drop(self.reduce_support(query.middle), deterministic=not train)
            prototypes, areas = region_prototypes(reduced, clusters, background, number)

        # Eq. 7: which of them each position is compared with.
        key = self.make_rng("cluster")
        assignment = expansion(clusters, areas, foreground, key, self.negatives)

        # Eq. 8: the comparison, by the same parameters as that with the supports.
        scaled = self.prior_scale * outputs.prior
        prior = {
            "complement": self.prior_scale - scaled,
            "same": scaled,
            "zeros": jnp.zeros_like(scaled),
        }[self.agnostic_prior]
        encoded_query, prototypes, prior = jax.tree.map(
            lambda x: repeated(x, self.negatives), (encoded.comparison, prototypes, prior)
        )
        compared = self.comparison_module(
            encoded_query, prototypes, assignment, prior, levels=self.agnostic_levels, train=train
        )
        return outputs._replace(
            agnostic_logits=compared.logits,
            clusters=clusters,
            agnostic_valid=(areas > 0).any(-1).astype(jnp.float32),
            agnostic_levels=compared.levels,
            resembling=left_out,
        )

    def _at_size(self, mask, size: tuple[int, int]) -> Float[Array, "*batch height width"]:
        return at_size(mask, size, centred=self.centred)

    def _prior_masks(
        self, query, support, foreground, background
    ) -> Float[Array, "batch height width priors"]:
        if not self.priors:
            return jnp.zeros((*query.middle.shape[:3], 0))

        def mask(name):
            if name == "contrast":
                return contrast_prior(query.middle, support.middle, foreground, background)
            of_name = (self.features_of(name, features) for features in (query, support))
            if name == "density_ratio":
                return density_prior(*of_name, foreground, background, self.bandwidth)
            return prior_mask(*of_name, foreground, stretch=self.stretch_prior)

        return jax.lax.stop_gradient(jnp.stack([mask(name) for name in self.priors], -1))
