"""The frozen networks that features are taken from.

Every backbone is a Linen module that maps images (RGB, 0 to 255, not normalised) to `Features`.
The convolutional ones have a method `last_block` besides, which maps block 4's features to block
5's, so that supports can be masked before it as in PFENet; their convolutions have a kernel and a
bias, and BatchNorm is folded into them when weights are loaded (see `apanet_jax.weights`). A vision
transformer has none: its patches look at each other in every block, and zeros in the place of some
are not the absence of something.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from apanet_jax.models.dino import VARIANTS, default_blocks
from apanet_jax.models.efficientnet_lite import LITE0, LITE2, EfficientNetLite
from apanet_jax.models.layers import Features
from apanet_jax.models.resize import resize_bilinear
from apanet_jax.models.resnet import RESNET50, RESNET101, ResNet
from apanet_jax.models.vgg import VGG16
from apanet_jax.models.vit import ViT, check_divides
from apanet_jax.runtime.errors import UserError

__all__ = ["BACKBONES", "BackboneSpec", "Features", "create", "middle", "spec"]


class BackboneSpec(NamedTuple):
    """One row of the table of backbones.

    Attributes:
      build: makes the module; takes `dtype`, and `stem` where there are several.
      stems: the stems to choose among; empty if there is only one.
      block4_channels: of block 4.
      block3_channels: of block 3.
      high_channels: of block 5.
      stride: pixels from one position of block 4 to the next.
      patch: what must divide the sides of images; None where any size will do. With a patch the
        positions are the patches' centres, otherwise the first one is the first pixel.
      has_last_block: whether there is a method `last_block`.
    """

    build: Callable[..., nn.Module]
    stems: tuple[str, ...]
    block4_channels: int
    block3_channels: int
    high_channels: int
    stride: int = 8
    patch: int | None = None
    has_last_block: bool = True

    @property
    def centred(self) -> bool:
        """Whether positions are the centres of patches."""
        return self.patch is not None

    @property
    def middle_channels(self) -> int:
        """Channels of blocks 4 and 3 side by side, see `middle`."""
        return self.block4_channels + self.block3_channels


RESNET_STEMS = ("deep", "plain")

BACKBONES = {
    "efficientnet_lite0": BackboneSpec(
        functools.partial(EfficientNetLite, LITE0), (), 112, 40, 320
    ),
    "efficientnet_lite2": BackboneSpec(
        functools.partial(EfficientNetLite, LITE2), (), 120, 48, 352
    ),
    "resnet50": BackboneSpec(functools.partial(ResNet, RESNET50), RESNET_STEMS, 1024, 512, 2048),
    "resnet101": BackboneSpec(functools.partial(ResNet, RESNET101), RESNET_STEMS, 1024, 512, 2048),
    # One module: they differ in their weights' names only, once BatchNorm is folded in.
    "vgg16": BackboneSpec(VGG16, (), 512, 256, 512, stride=16),
    "vgg16_bn": BackboneSpec(VGG16, (), 512, 256, 512, stride=16),
} | {
    name: BackboneSpec(
        functools.partial(ViT, variant, default_blocks(variant)),
        (),
        *(3 * (variant.width,)),
        stride=variant.patch,
        patch=variant.patch,
        has_last_block=False,
    )
    for name, variant in VARIANTS.items()
}


def check_size(name: str, size: int) -> None:
    """Raises UserError, with the nearest sizes, where a backbone cannot take square images."""
    patch = spec(name).patch
    if patch is not None:
        check_divides(name, patch, (size, size))


def spec(name: str) -> BackboneSpec:
    """Returns a backbone's row of the table; raises UserError if there is none of that name."""
    if name not in BACKBONES:
        raise UserError(f"unknown backbone {name!r}: expected one of {', '.join(BACKBONES)}")
    return BACKBONES[name]


def create(name: str, *, stem: str = "deep", dtype=jnp.float32) -> nn.Module:
    """Returns the backbone of that name, without parameters.

    Args:
      name: one of `BACKBONES`.
      stem: "deep" (three 3x3 convolutions, as in PSPNet and PFENet) or "plain" (one 7x7, as in
        torchvision) for ResNets; the others have one stem and do not look at it.
      dtype: of the computation: float32 or bfloat16.

    Raises:
      UserError: for a name or a stem that does not exist.
    """
    row = spec(name)
    if not row.stems:
        return row.build(dtype=dtype)
    if stem not in row.stems:
        raise UserError(f"{name} has no stem {stem!r}: expected one of {', '.join(row.stems)}")
    return row.build(stem=stem, dtype=dtype)


def middle(features: Features) -> Float[Array, "batch height width channels"]:
    """Returns the paper's F: block 4 and block 3 side by side, in this order.

    Block 3 is resized to block 4's size where they differ (bilinear, aligned corners).
    """
    block3 = resize_bilinear(features.block3, features.block4.shape[1:3])
    return jnp.concatenate([features.block4, block3], axis=-1)
