"""The comparison g as PFENet's feature enrichment: at four scales, from fine to coarse.

At every level of a pyramid the query's features are pooled to a small square and merged with the
prototype and the prior mask; what a level found passes to the next, coarser one; all levels
together give the answer, and in training each also gives one of its own. The paper's baseline has
this network's numbers. The module is called as `comparison.ConvComparison` is.

Pooling and the merging convolution are linear, so a prototype map is never made: the prototypes
are merged as the few vectors that they are, and spread by the pooled assignment, a mean over the
positions that a cell of the level covers. That equals pooling the expanded prototypes (Eq. 2, 7)
as the query's features are pooled.

Source: Tian et al., Prior Guided Feature Enrichment Network, section 4.2, and its published code.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.kernels.pooling import expand
from apanet_jax.models.comparison import Compared
from apanet_jax.models.convolution import conv3x3
from apanet_jax.models.initializers import bias_init, kernel_init
from apanet_jax.models.resize import adaptive_average_pool, resize_bilinear

PASCAL_BINS = (60, 30, 15, 8)


def level_size(bins: float, size: tuple[int, int]) -> tuple[int, int]:
    """Returns height and width of a pyramid level.

    Args:
      bins: cells a side; up to 1 a fraction of the features' sides instead, rounded down.
      size: height and width of the features.
    """
    if bins > 1:
        return int(bins), int(bins)
    return max(int(size[0] * bins), 1), max(int(size[1] * bins), 1)


class FeatureEnrichment(nn.Module):
    """PFENet's pyramid over query, prototype and prior.

    Attributes:
      channels: of the features, and of every hidden layer.
      prior_channels: how many prior masks stand beside them (0: none).
      dropout: share of the channels dropped before the outputs in training.
      bins: cells a side of each level, see `level_size`.
      dtype: of the levels' features, and of the factors of products; sums are in float32.
    """

    channels: int
    prior_channels: int = 1
    dropout: float = 0.1
    bins: tuple[float, ...] = PASCAL_BINS
    dtype: str = "float32"

    def setup(self):
        levels = range(len(self.bins))
        self.merge = [Merge(self.channels, self.prior_channels) for _ in levels]
        # The first level has no finer one before it.
        self.alpha = [self._pointwise(f"alpha_{level}") for level in levels[1:]]
        self.beta = [Refinement() for _ in levels]
        self.level = [Classifier(self.dropout) for _ in levels]
        self.join = self._pointwise("join")
        self.refine = Refinement()
        self.output = Classifier(self.dropout)

    def _pointwise(self, name: str) -> nn.Dense:
        return nn.Dense(
            self.channels, use_bias=False, kernel_init=kernel_init, dtype=self.dtype, name=name
        )

    def encode_query(
        self, query: Float[Array, "batch height width channels"]
    ) -> tuple[Float[Array, "batch bin_height bin_width channels"], ...]:
        """Returns each level's part of the merging that depends on the query's features alone."""
        return tuple(
            merge.encode_query(adaptive_average_pool(query, level_size(bins, query.shape[1:3])))
            for merge, bins in zip(self.merge, self.bins, strict=True)
        )

    def __call__(
        self,
        encoded: tuple[Float[Array, "batch bin_height bin_width channels"], ...],
        prototypes: Float[Array, "batch clusters channels"],
        assignment: Float[Array, "batch height width clusters"],
        prior: Float[Array, "batch height width priors"],
        *,
        levels: bool = False,
        train: bool = False,
    ) -> Compared:
        """Returns the logits of "another thing" and "the same thing" at each position.

        Args:
          encoded: what `encode_query` returned.
          prototypes: what to compare with.
          assignment: the weights of the prototypes whose sum a position is compared with.
          prior: the prior masks, in [0, 1].
          levels: whether to compute the levels' own logits too, for their losses.
          train: whether channels are dropped (needs a "dropout" key).
        """
        size = assignment.shape[1:3]
        found, level_logits = [], []
        for number, seen in enumerate(encoded):
            cells = seen.shape[1:3]
            x = self.merge[number](
                seen,
                prototypes,
                adaptive_average_pool(assignment, cells),
                resize_bilinear(prior, cells),
            ).astype(self.dtype)
            if number:
                finer = resize_bilinear(found[-1], cells)
                x += nn.relu(self.alpha[number - 1](jnp.concatenate([x, finer], -1)))
            x = self.beta[number](x)
            # A level's own parameters are drawn though inference needs none of its logits.
            if levels or self.is_initializing():
                level_logits.append(self.level[number](x, train=train))
            found.append(resize_bilinear(x, size))
        joined = self.refine(nn.relu(self.join(jnp.concatenate(found, -1))))
        return Compared(self.output(joined, train=train), tuple(level_logits) if levels else ())


class Merge(nn.Module):
    """A 1x1 convolution of query, prototype and prior, in this order, and ReLU.

    Attributes: as in `FeatureEnrichment`.
    """

    channels: int
    prior_channels: int

    def setup(self):
        inputs = 2 * self.channels + self.prior_channels
        self.kernel = self.param("kernel", kernel_init, (inputs, self.channels))

    def encode_query(
        self, query: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        """Returns the query's part of the sum, in float32."""
        kernel = self.kernel[: self.channels].astype(query.dtype)
        return jnp.matmul(query, kernel, preferred_element_type=jnp.float32)

    def __call__(
        self,
        encoded: Float[Array, "batch height width channels"],
        prototypes: Float[Array, "batch clusters channels"],
        assignment: Float[Array, "batch height width clusters"],
        prior: Float[Array, "batch height width priors"],
    ) -> Float[Array, "batch height width channels"]:
        batch, height, width, clusters = assignment.shape
        of_prototypes = self.kernel[self.channels : 2 * self.channels]
        of_prior = self.kernel[2 * self.channels :]
        spread = expand(
            prototypes @ of_prototypes, assignment.reshape(batch, height * width, clusters)
        )
        x = encoded + spread.reshape(batch, height, width, self.channels)
        if self.prior_channels:
            x += prior @ of_prior
        return nn.relu(x)


class Conv3x3(nn.Module):
    """A 3x3 convolution without a bias, as many channels out as in: `kernel` `[3, 3, c, c]`.

    It computes in the type of what it is given.
    """

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        kernel = self.param("kernel", kernel_init, (3, 3, x.shape[-1], x.shape[-1]))
        return conv3x3(x, kernel.astype(x.dtype))


class Refinement(nn.Module):
    """Two 3x3 convolutions with ReLU, added to their input."""

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        hidden = nn.relu(Conv3x3(name="first")(x))
        return x + nn.relu(Conv3x3(name="second")(hidden))


class Classifier(nn.Module):
    """A 3x3 convolution, ReLU, channel dropout, and a 1x1 convolution to two logits.

    Attributes:
      dropout: share of the hidden layer's channels dropped in training.
    """

    dropout: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch height width 2"]:
        hidden = nn.relu(Conv3x3(name="hidden")(x))
        drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2), deterministic=not train)
        output = nn.Dense(
            2, kernel_init=kernel_init, bias_init=bias_init(x.shape[-1]), name="output"
        )
        return output(drop(hidden).astype(jnp.float32))
