"""The comparison g (Eq. 3 and 8): does a query position show what its prototype shows?

Both branches of the network call the same module with the same parameters. A branch says what
each position is compared with by a small set of prototypes and an assignment of positions to
them (the expansion E of Eq. 2 and 7): one prototype everywhere in the class-specific branch, a
cluster's prototype in its region in the class-agnostic one. The first convolution is linear in
the concatenated channels, so it is computed as a sum: one part of the query's features, which
both branches share, and one of the few prototypes, which costs next to nothing.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.models.convolution import conv3x3
from apanet_jax.models.initializers import bias_init, kernel_init


class Compared(NamedTuple):
    """What a comparison says.

    Attributes:
      logits: of "another thing" and "the same thing" at each position.
      levels: the same of every pyramid level, each of its own size; empty where there are none or
        none were asked for.
    """

    logits: Float[Array, "batch height width 2"]
    levels: tuple[Float[Array, "batch bin_height bin_width 2"], ...] = ()


class ConvComparison(nn.Module):
    """A 3x3 and a 1x1 convolution over query, prototype and prior, as in the paper's text.

    Attributes:
      channels: of the features, and of the hidden layer.
      prior_channels: how many prior masks stand beside them (0: none).
      dropout: share of the hidden layer's channels dropped in training.
    """

    channels: int
    prior_channels: int = 1
    dropout: float = 0.1

    def setup(self):
        inputs = 2 * self.channels + self.prior_channels
        self.kernel = self.param("kernel", kernel_init, (3, 3, inputs, self.channels))
        self.bias = self.param("bias", bias_init(9 * inputs), (self.channels,))
        self.output = nn.Dense(
            2, kernel_init=kernel_init, bias_init=bias_init(self.channels), name="output"
        )
        self.drop = nn.Dropout(self.dropout, broadcast_dims=(1, 2))

    def encode_query(
        self, query: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width hidden"]:
        """Returns the part of the first convolution that depends on the query's features alone.

        Its factors have the type of those, and what it returns is float32.
        """
        kernel = self.kernel[:, :, : self.channels].astype(query.dtype)
        return conv3x3(query, kernel).astype(jnp.float32) + self.bias

    def __call__(
        self,
        encoded: Float[Array, "batch height width hidden"],
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
          levels: whether the levels of a pyramid are wanted; this comparison has none.
          train: whether channels are dropped (needs a "dropout" key).
        """
        of_prototypes = self.kernel[:, :, self.channels : 2 * self.channels]
        of_prior = self.kernel[:, :, 2 * self.channels :]
        seen = jnp.einsum("bnc,yxcd->bynxd", prototypes, of_prototypes)
        batch, _, clusters, _, hidden = seen.shape
        taps = jnp.swapaxes(seen, 2, 3).reshape(batch, 9 * clusters, hidden)
        maps = _neighbourhoods(assignment)
        hidden_map = encoded + jnp.einsum("bhwt,btd->bhwd", maps, taps)
        if self.prior_channels:
            hidden_map += _neighbourhoods(prior) @ of_prior.reshape(-1, hidden)
        hidden_map = self.drop(nn.relu(hidden_map), deterministic=not train)
        return Compared(self.output(hidden_map))


def _shifts(x: Float[Array, "batch height width channels"]) -> list[Array]:
    """Returns `x` moved to each place of a 3x3 neighbourhood, row by row; zeros beyond it."""
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return [padded[:, y : y + height, x_ : x_ + width] for y in range(3) for x_ in range(3)]


def _neighbourhoods(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch height width nine_times_channels"]:
    """Puts the 3x3 neighbourhood of each position side by side."""
    return jnp.concatenate(_shifts(x), -1)
