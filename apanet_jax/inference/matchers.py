"""How a thing is looked for in a picture: by prototypes that nothing trained, or by a trained head.

A matcher embeds a picture, learns a class from supports, and gives every cell of a picture's
features a margin: how much more it looks like the class than like what surrounds it.
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from apanet_jax.data.transforms import IGNORE
from apanet_jax.inference.presence import Appearance, Cells, Decision
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet, PictureFeatures
from apanet_jax.models.network import Network, Parameters
from apanet_jax.models.prior import contrast_margin, contrast_prototypes
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.load import load_backbone

STRIDE = 8
"""Pixels from one cell of the features to the next; the first is centred on the first pixel."""

GENERAL_HEAD = Path(__file__).parent / "heads" / "drawn"
"""The head that comes with the package; configs/general.py says how it was trained."""

DECISION = "decision.json"
"""Beside a head: the size of pictures it is for, and its `Decision` by the number of supports."""

_BACKBONE = "efficientnet_lite0"


class Matcher(Protocol):
    """A way to look for a thing.

    Attributes:
      size: side of the square that pictures are fitted into, in pixels; 1 more than a multiple of
        8 leaves nothing over.
      adapts: whether the threshold is adapted to the supports, where there are several.
    """

    size: int
    adapts: bool

    def decision(self, shots: int) -> Decision:
        """Returns what holds with so many supports where they cannot tell better."""

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> Any:
        """Returns a picture's features."""

    def appearance(self, features: Any) -> Appearance:
        """Returns those of a picture's features that tell whether a thing is the same."""

    def learn(self, features: Sequence[Any], labels: Sequence[np.ndarray]) -> Any:
        """Returns a class, learned from supports' features and labels.

        Args:
          features: what `embed` returned, of each support.
          labels: `[size, size]` of each: 1 where the class is, 0 elsewhere, 255 outside or ignored.

        Raises:
          UserError: nothing can be learned from them.
        """

    def margins(self, features: Any, learned: Any) -> Float[Array, "height width"]:
        """Returns a picture's margins, a cell of its features each."""


class PrototypeMatcher:
    """Looks for what is nearer to the supports' foreground than to their background.

    The margin is `models.prior.contrast_margin` on the middle features of EfficientNet-Lite0, with
    weights of ImageNet, averaged over the supports. Nothing is trained.
    """

    adapts = True

    def __init__(self, size: int = 385, *, weights: str = "pip"):
        """Loads the backbone.

        Args:
          size: see `Matcher`.
          weights: of the backbone, see `weights.load.load_backbone`.
        """
        self.size = size
        module = backbones.create(_BACKBONE)
        self._parameters = jax.device_put(load_backbone(_BACKBONE, weights))
        self._embed = jax.jit(
            lambda parameters, image: backbones.middle(
                module.apply({"params": parameters}, image[None])
            )[0]
        )

    def decision(self, shots: int) -> Decision:
        # 0 is the threshold that experiments/paper/training_free.py chooses on base classes. The
        # scale is for showing margins as probabilities, and was not calibrated.
        return Decision(threshold=0.0, scale=0.05, peak_weight=20.0)

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> Float[Array, "h w c"]:
        return self._embed(self._parameters, square)

    def appearance(self, features) -> Appearance:
        return np.asarray(features)

    def learn(self, features, labels) -> Float[Array, "shots prototypes channels"]:
        return jnp.stack(
            [_prototypes(x, *cell_shares(y)) for x, y in zip(features, labels, strict=True)]
        )

    def margins(self, features, learned) -> Float[Array, "h w"]:
        return _prototype_margins(features, learned)


class HeadMatcher:
    """Looks for a thing with a head that a run has trained.

    The margin is its logit of the foreground above that of the background.

    Attributes:
      network: backbone and head.
      parameters: of the head.
      backbone_parameters: of the backbone.
    """

    adapts = False

    def __init__(
        self,
        network: Network,
        parameters: Parameters,
        backbone_parameters: Parameters,
        size: int,
        decisions: Mapping[int, Decision] | None = None,
    ):
        """Makes a matcher of a network.

        Args:
          network: backbone and head.
          parameters: of the head.
          backbone_parameters: of the backbone.
          size: see `Matcher`; the head was trained at its run's `image_size`.
          decisions: calibrated, by the number of supports; None: what training made likelier.
        """
        self.size, self._decisions = size, decisions or {1: Decision(threshold=0.0, scale=1.0)}
        self.network, self.parameters = network, parameters
        self.backbone_parameters = backbone_parameters
        self._features = jax.jit(network.features)
        self._last_block = jax.jit(network.masked_last_block)
        self._compare = _compiled_head(network.head.for_inference)

    def decision(self, shots: int) -> Decision:
        nearest = min(self._decisions, key=lambda calibrated: abs(calibrated - shots))
        return self._decisions[nearest]

    def embed(self, square: UInt8[np.ndarray, "size size 3"]) -> backbones.Features:
        return self._features(self.backbone_parameters, square[None])

    def appearance(self, features: backbones.Features) -> Appearance:
        return at_stride(np.asarray(features.block4[0]), self.size)

    def learn(self, features, labels) -> tuple[PictureFeatures, UInt8[np.ndarray, "1 shots s s"]]:
        for label in labels:
            if not (label[::STRIDE, ::STRIDE] == 1).any():
                raise UserError(
                    f"a mask vanishes at the network's {self.size} pixels, the thing is too "
                    "small: take a larger --size, or crop the support"
                )
        parts = [self._support(x, label) for x, label in zip(features, labels, strict=True)]
        support = jax.tree.map(lambda *x: jnp.concatenate(x)[None], *parts)
        return support, np.stack(labels)[None]

    def margins(self, features, learned) -> Float[np.ndarray, "h w"]:
        seen = self.network.of_pictures(features)
        return at_stride(np.asarray(self._compare(self.parameters, seen, *learned)), self.size)

    def high(self, features: backbones.Features) -> Float[np.ndarray, "h w c"]:
        """Returns a picture's high-level features, which training clusters."""
        return at_stride(np.asarray(features.block5[0]), self.size)

    def _support(self, features, label) -> PictureFeatures:
        seen = self.network.of_pictures(features)
        if seen.high is None or not self.network.masked_support:
            return seen
        masked = self._last_block(self.backbone_parameters, features.block4, label[None])
        return seen._replace(high=masked)


def trained_matcher(
    workdir: Path, size: int | None = None, *, checkpoint: str | None = "last"
) -> HeadMatcher:
    """Returns a head of a run, or the one that `apanet_jax.export` wrote.

    Args:
      workdir: of a single run, with its config.json and checkpoints, or of an exported head.
      size: see `Matcher`; None: what the head's `DECISION` says, else the run's `image_size`.
      checkpoint: which of a run's, see `export.restore_head`.

    Raises:
      UserError: there is none.
    """
    from apanet_jax.config.saved import of_run
    from apanet_jax.config.settings import typed
    from apanet_jax.inference.exported_head import WEIGHTS, restore_head
    from apanet_jax.runtime.devices import data_mesh
    from apanet_jax.weights.network import NetworkLoader

    if not workdir.is_dir():
        raise UserError(f"--workdir={workdir} is no folder: give a run's, or an exported head's")
    settings = typed(of_run(workdir))
    exported = workdir / WEIGHTS
    given = str(exported) if exported.is_file() else settings.evaluation.checkpoint
    loaded = NetworkLoader().load(settings.backbone, settings.model, data_mesh(1), checkpoint=given)
    network, parameters = loaded.network, loaded.given_head
    if parameters is None:
        backbone = settings.backbone.name
        _, _, parameters = restore_head(workdir, network.head, backbone, checkpoint)
    chosen, decisions = _calibrated(workdir / DECISION) or (settings.image_size, None)
    return HeadMatcher(network, parameters, loaded.backbone_parameters, size or chosen, decisions)


def _calibrated(path: Path) -> tuple[int, dict[int, Decision]] | None:
    """Returns a head's size and decisions, where it has a `DECISION`."""
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        decisions = {
            int(shots): Decision(**{name: float(value) for name, value in values.items()})
            for shots, values in content["decisions"].items()
        }
        return int(content["size"]), decisions
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no size and decisions: {error!r}; export the head again, or remove it"
        ) from error


def at_stride(
    cells: Float[np.ndarray, "height width *channels"], size: int
) -> Float[np.ndarray, "rows columns *channels"]:
    """Returns values at cells that lie `STRIDE` pixels apart, of cells that may lie further apart.

    Args:
      cells: of a square's features; cell i lies on pixel i times their stride.
      size: the square's side.
    """
    count = -(-size // STRIDE)
    if len(cells) == count:
        return cells
    position = np.arange(count) * (STRIDE / stride_of(len(cells), size))
    weights = between_cells(len(cells), position)
    return np.einsum("rh,hw...,cw->rc...", weights, cells.astype(np.float32), weights)


def stride_of(cells: int, size: int) -> int:
    """Returns how many pixels lie from one cell to the next along a square's side."""
    return next(stride for stride in (8, 16) if -(-size // stride) == cells)


def between_cells(
    cells: int, position: Float[np.ndarray, " points"]
) -> Float[np.ndarray, "points cells"]:
    """Returns how much each cell says of points between the cells, linearly.

    Args:
      cells: how many lie in a line.
      position: of the points, counted in cells; beyond the first and the last they are these.
    """
    position = np.clip(position, 0, cells - 1)
    weights = 1 - np.abs(position[:, None] - np.arange(cells))
    return np.maximum(weights, 0).astype(np.float32)


def cell_shares(
    label: UInt8[np.ndarray, "size size"],
) -> tuple[Cells, Cells]:
    """Returns how much of each cell is foreground, and how much background.

    A cell covers the square of `STRIDE` pixels round its centre, so that no thing is lost between
    the cells. What is ignored or outside of the picture is neither.
    """
    cells = -(-len(label) // STRIDE)
    padded = np.full((cells * STRIDE,) * 2, IGNORE, np.uint8)
    inside = label[: cells * STRIDE - STRIDE // 2, : cells * STRIDE - STRIDE // 2]
    padded[STRIDE // 2 :, STRIDE // 2 :][: len(inside), : len(inside)] = inside

    def share(value):
        hits = (padded == value).astype(np.float32)
        return cv2.resize(hits, (cells, cells), interpolation=cv2.INTER_AREA)

    return share(1), share(0)


@jax.jit
def _prototypes(features, foreground, background):
    flat = features.reshape(1, -1, features.shape[-1])
    return contrast_prototypes(flat, foreground.reshape(1, -1), background.reshape(1, -1))[0]


@jax.jit
def _prototype_margins(features, prototypes):
    height, width, channels = features.shape
    margins = contrast_margin(features.reshape(1, -1, channels), prototypes)
    return margins.mean(0).reshape(height, width)


@functools.lru_cache(maxsize=2)
def _compiled_head(head: APANet):
    def margins(parameters, query, support, labels):
        logits = head.apply({"params": parameters}, query, support, labels).logits[0]
        return logits[..., 1] - logits[..., 0]

    return jax.jit(margins)
