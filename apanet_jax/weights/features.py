"""A pretrained backbone's features, for whoever wants nothing else."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from apanet_jax.models import backbones
from apanet_jax.models.dino import VARIANTS
from apanet_jax.models.vit import Tokens
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import Origin, default_source, fingerprint, load_with_origin
from apanet_jax.weights.mapping import Parameters

DTYPES = jnp.dtype(jnp.float32), jnp.dtype(jnp.bfloat16)


@dataclasses.dataclass(frozen=True, eq=False)
class Backbone:
    """A frozen network with its weights; `load_backbone` makes one.

    Attributes:
      name: one of `models.backbones.BACKBONES`.
      module: the network.
      parameters: on the device.
      origin: where they came from: source, revision and hash of the file.
      batch: how many images pass the network together.
    """

    name: str
    module: nn.Module
    parameters: Parameters
    origin: Origin
    batch: int

    @functools.cached_property
    def fingerprint(self) -> str:
        """A SHA-256 of the parameters: the same for the same weights, wherever they came from."""
        return fingerprint(self.parameters)

    @property
    def spec(self) -> backbones.BackboneSpec:
        """The row of the table of backbones: channels, stride and patch."""
        return backbones.spec(self.name)

    def features(
        self, images: UInt8[np.ndarray, "batch height width 3"], blocks: tuple[int, ...]
    ) -> tuple[Float[Array, "batch rows columns channels"], ...]:
        """Returns feature maps of images, one for each block, in the order of `blocks`.

        The network is compiled once for each size of images; any number of them goes through it
        `batch` at a time.

        Args:
          images: RGB, 0 to 255.
          blocks: of a vision transformer from 1 to its depth; their outputs come after its final
            norm. Of the others the paper's numbers, 2 to 5.

        Returns:
          float32, a position for each patch of a transformer and for each `spec.stride` pixels of
          blocks 4 and 5 of the others.

        Raises:
          UserError: the images are no uint8 array of that shape, their sides are no multiples of
            the patch, or there is no such block.
        """
        return self._run("maps", images, tuple(blocks))

    def tokens(
        self,
        images: UInt8[np.ndarray, "batch height width 3"],
        blocks: tuple[int, ...],
        *,
        final_norm: bool = True,
    ) -> tuple[Tokens, ...]:
        """Returns a vision transformer's patches, class token and registers after blocks.

        Args:
          images: see `features`.
          blocks: from 1 to the network's depth.
          final_norm: whether the last layer norm is applied to them.

        Raises:
          UserError: as `features`, or the backbone is no vision transformer.
        """
        if self.spec.patch is None:
            raise UserError(f"{self.name} has no tokens: expected one of {', '.join(VARIANTS)}")
        return self._run("tokens", images, tuple(blocks), final_norm=final_norm)

    def _run(self, method: str, images, blocks: tuple[int, ...], **settings: Any) -> Any:
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3 or not images.size:
            raise UserError(
                f"images are {images.dtype} {list(images.shape)}: expected uint8 [batch, height, "
                "width, 3], RGB from 0 to 255"
            )
        outputs = []
        for first in range(0, len(images), self.batch):
            part = images[first : first + self.batch]
            count = len(part)
            # The last few are filled up, so that one program serves any number of images.
            padded = np.concatenate([part, np.repeat(part[-1:], self.batch - count, 0)])
            found = _apply(self.module, self.parameters, padded, method, blocks, **settings)
            outputs.append(jax.tree.map(lambda x, count=count: x[:count], found))
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *outputs)


def load_backbone(
    name: str,
    weights: str | None = None,
    *,
    stem: str = "plain",
    dtype: Any = "float32",
    batch: int | None = None,
) -> Backbone:
    """Returns a pretrained backbone whose features can be asked for.

    Args:
      name: one of `models.backbones.BACKBONES`, such as "dinov2_vits14".
      weights: a file, "pip", "hf:owner/name[@revision]" or "random", see `weights.load`; None: the
        usual ones, see `weights.load.default_source`.
      stem: of the ResNets; the usual weights have a plain one.
      dtype: of the computation, float32 or bfloat16. Features are float32 either way.
      batch: how many images pass the network together; None: 1 on a CPU, where more are no faster,
        and 8 on other devices.

    Raises:
      UserError: there is no such backbone, its weights are missing or another network's, or a
        setting is none of these.
    """
    try:
        wanted = jnp.dtype(dtype)
    except TypeError:
        wanted = None
    if wanted not in DTYPES:
        raise UserError(f"dtype {dtype!r}: expected float32 or bfloat16")
    if batch is None:
        batch = 1 if jax.default_backend() == "cpu" else 8
    if batch < 1:
        raise UserError(f"batch {batch}: expected at least 1")
    source = weights or default_source(name)
    stem = stem if backbones.spec(name).stems else "deep"
    module = backbones.create(name, stem=stem, dtype=wanted)
    parameters, origin = load_with_origin(name, source, stem=stem)
    return Backbone(name, module, jax.device_put(parameters), origin, batch)


@functools.partial(jax.jit, static_argnames=("module", "method", "blocks", "final_norm"))
def _apply(module, parameters, images, method, blocks, final_norm=True):
    settings = {"final_norm": final_norm} if method == "tokens" else {}
    found = module.apply({"params": parameters}, images, blocks, method=method, **settings)
    return jax.tree.map(lambda x: x.astype(jnp.float32), found)
