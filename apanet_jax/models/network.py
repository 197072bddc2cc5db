"""Backbone and head together: from an episode's images, or their kept features, to logits."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from apanet_jax.models.apanet import APANet, ImageFeatures, Outputs
from apanet_jax.models.backbones import Features, middle
from apanet_jax.models.debias import (
    images_without_content,
    positional_basis,
    without_directions,
)
from apanet_jax.models.resize import resize_bilinear

_BASIS = "positional_basis"
_EMPTY_IMAGES = 2

Batch = Mapping[str, Array]
Parameters = Any


@dataclasses.dataclass(frozen=True)
class Network:
    """A frozen backbone and the head that is trained on it; itself it holds no parameters.

    Attributes:
      backbone: one of `models.backbones`.
      head: the trained part.
      masked_support: whether the supports' last block sees block 4 times the mask, as in PFENet.
        Otherwise it sees the whole image, so that an image's features serve any class.
    """

    backbone: nn.Module
    head: APANet
    masked_support: bool = True

    def features(
        self, parameters: Parameters, images: UInt8[Array, "batch height width 3"]
    ) -> Features:
        """Returns the features of images (RGB, 0 to 255), without gradients.

        Block 5's go without positional directions, where the parameters have a basis of them; see
        `with_basis`.
        """
        parameters, basis = _split(parameters)
        features = self.backbone.apply({"params": parameters}, images)
        if basis is not None:
            features = features._replace(block5=without_directions(features.block5, basis))
        return jax.lax.stop_gradient(features)

    def with_basis(self, parameters: Parameters, size: int, rank: int) -> Parameters:
        """Returns a backbone's parameters with the positional directions of its block 5.

        Args:
          parameters: of the backbone.
          size: side of the images that it will see.
          rank: how many directions.

        Raises:
          UserError: there are not so many.
        """
        empty = images_without_content(_EMPTY_IMAGES, size, size)
        block5 = jax.jit(lambda x: self.features(parameters, x).block5)(empty)
        return dict(parameters) | {_BASIS: positional_basis(block5, rank)}

    def embed(
        self, parameters: Parameters, images: UInt8[Array, "batch height width 3"]
    ) -> ImageFeatures:
        """Returns the features of images (RGB, 0 to 255)."""
        return self.of_images(self.features(parameters, images))

    def of_images(self, features: Features) -> ImageFeatures:
        """Returns the features that the head uses of images that are seen whole."""
        high = features.block5 if self.head.needs_high else None
        return ImageFeatures(middle(features), high)

    def embed_episode(
        self, parameters: Parameters, batch: Batch
    ) -> tuple[ImageFeatures, ImageFeatures]:
        """Returns the features of a batch's queries `[B, ...]` and supports `[B, K, ...]`.

        The batch holds either images (`query_image`, `support_images`), which pass the backbone
        together, or features that were kept (`query_middle`, `query_high`, `support_middle`,
        `support_high`; those of the high level only where the head needs them).
        """
        if "query_middle" in batch:
            return (
                ImageFeatures(batch["query_middle"], batch.get("query_high")),
                ImageFeatures(batch["support_middle"], batch.get("support_high")),
            )
        query, support = batch["query_image"], batch["support_images"]
        count = query.shape[0]

        def parts(features):
            shots = features[count:]
            return features[:count], shots.reshape(*support.shape[:2], *shots.shape[1:])

        features = self.features(parameters, jnp.concatenate([query, _flat(support)]))
        if not self.head.needs_high:
            high = None, None
        elif self.masked_support:
            # The last block runs once for all, queries seen whole; nobody asks for `features`'
            # own one then, and under `jax.jit` it is left out.
            labels = batch["support_labels"]
            seen = jnp.concatenate([jnp.ones((count, *labels.shape[2:])), _flat(labels, keep=2)])
            high = parts(self.masked_last_block(parameters, features.block4, seen))
        else:
            high = parts(features.block5)
        query_features, support_features = map(ImageFeatures, parts(middle(features)), high)
        return query_features, support_features

    def __call__(
        self,
        head_parameters: Parameters,
        backbone_parameters: Parameters,
        batch: Batch,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Outputs:
        """Runs an episode batch: by the class-specific branch alone, or for training.

        Args:
          head_parameters: what is trained.
          backbone_parameters: what is not; unused when the batch holds kept features.
          batch: an episode batch (see `data.loader`), with images or kept features.
          key: given in training only: for dropout, clustering and the choice of negatives.
        """
        query, support = self.embed_episode(backbone_parameters, batch)
        training = {}
        if key is not None:
            dropout, cluster = jax.random.split(key)
            training = {"rngs": {"dropout": dropout, "cluster": cluster}}
        return self.head.apply(
            {"params": head_parameters},
            query,
            support,
            batch["support_labels"],
            batch["query_label"] if training else None,
            train=bool(training),
            **training,
        )

    def masked_last_block(
        self,
        parameters: Parameters,
        block4: Float[Array, "n height width channels"],
        labels: UInt8[Array, "n H W"],
    ) -> Float[Array, "n height width high_channels"]:
        """Returns images' high features, of what lies where their labels are 1 alone."""
        mask = (labels == 1).astype(jnp.float32)[..., None]
        mask = resize_bilinear(mask, block4.shape[1:3]).astype(block4.dtype)
        high = self.backbone.apply(
            {"params": parameters}, block4 * mask, method=self.backbone.last_block
        )
        return jax.lax.stop_gradient(high * mask)


def _split(parameters: Parameters) -> tuple[Parameters, Array | None]:
    """Returns the backbone's own parameters, and the basis that `with_basis` put beside them."""
    own = {name: value for name, value in parameters.items() if name != _BASIS}
    return own, parameters.get(_BASIS)


def _flat(x: Array, keep: int = 3) -> Array:
    return x.reshape(-1, *x.shape[-keep:])
