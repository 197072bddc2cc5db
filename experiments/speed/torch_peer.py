"""The same network in PyTorch, for comparisons: written as users of the published code write it.

Torchvision's backbone, dilated as PFENet dilates it and frozen; each shot's support passes it by
itself; prototypes are expanded to whole maps and concatenated with the query's features and the
prior mask before they are compared. It computes what `apanet_jax` computes, of the same parameters,
for heads that compare by "conv" (see `TorchPeer.like`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from apanet_jax.models import backbones
from apanet_jax.models.apanet import IGNORE, APANet
from apanet_jax.models.network import Network
from apanet_jax.models.prototypes import AREA_EPSILON
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights.head import head_tensors
from apanet_jax.weights.load import TABLES, parameter_shapes
from apanet_jax.weights.mapping import convert
from tests.networks import tensors_of
from tests.torchvision_models import ceil_mode_vgg, dilated_resnet

STEM = "plain"
"""Torchvision's stem of the ResNets, which our backbone must be created with."""

VGG_ENDS = {"vgg16": (17, 24, 30), "vgg16_bn": (24, 34, 43)}
"""Modules of torchvision's `features` where the paper's blocks 3, 4 and 5 end."""

PRIOR_EPSILON = 1e-7
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)


class Described(NamedTuple):
    """What is known of an episode batch before anything is compared.

    Attributes:
      middle: the query's blocks 4 and 3, side by side.
      high: its block 5.
      reduced: its features that are compared.
      prototype: the mean over the shots.
      prior: the mean over the shots, in [0, 1].
    """

    middle: Float[Tensor, "batch middle height width"]
    high: Float[Tensor, "batch high height width"]
    reduced: Float[Tensor, "batch channels height width"]
    prototype: Float[Tensor, "batch channels"]
    prior: Float[Tensor, "batch 1 height width"]


class Backbone(nn.Module):
    """A frozen torchvision network in three parts, always in evaluation mode."""

    def __init__(self, name: str, network: nn.Module):
        super().__init__()
        if name in VGG_ENDS:
            third, fourth, fifth = VGG_ENDS[name]
            layers = network.features
            parts = layers[:third], layers[third:fourth], layers[fourth:fifth]
        else:
            stem = (network.conv1, network.bn1, network.relu, network.maxpool)
            first = nn.Sequential(*stem, network.layer1, network.layer2)
            parts = first, network.layer3, network.layer4
        self.to_block3, self.to_block4, self.to_block5 = parts
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Leaves the mode as it is: BatchNorms keep their statistics."""
        return super().train(False)


class Head(nn.Module):
    """The trained part, with the names that `apanet_jax.weights.head` gives its tensors."""

    def __init__(self, inputs: int, settings: APANet):
        super().__init__()
        channels = settings.channels

        def reduction():
            return nn.Sequential(
                nn.Conv2d(inputs, channels, 1, bias=settings.reduction_bias),
                nn.ReLU(inplace=True),
                nn.Dropout2d(settings.reduction_dropout),
            )

        self.down_query, self.down_supp = reduction(), reduction()
        self.compare = nn.Sequential(
            nn.Conv2d(2 * channels + 1, channels, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Dropout2d(settings.comparison_dropout),
            nn.Conv2d(channels, 2, 1),
        )


class TorchPeer(nn.Module):
    """APANet in PyTorch, made by `like`.

    Batches are those of `apanet_jax.data.loader` with images, as NumPy arrays; they are moved to
    where the parameters are.

    Attributes:
      num_clusters: of the class-agnostic branch; 0: none.
      kmeans_rounds: of its clustering.
      masked_support: whether the supports' last block sees block 4 times the mask.
      memory_format: of the images, and so of the features.
    """

    memory_format = torch.contiguous_format

    def __init__(self, backbone: Backbone, head: Head, network: Network):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.num_clusters = network.head.num_clusters
        self.kmeans_rounds = network.head.kmeans_rounds
        self.masked_support = network.masked_support

    @classmethod
    def like(
        cls, network: Network, head_parameters: Any, *, backbone_name: str, seed: int
    ) -> tuple["TorchPeer", Any]:
        """Makes the peer of a network: the same head, on a random backbone that both can use.

        Args:
          network: ours; the ResNets with the stem `STEM`.
          head_parameters: of our head, which the peer copies.
          backbone_name: a ResNet or a VGG of `models.backbones`.
          seed: of the backbone's weights and BatchNorm statistics.

        Returns:
          The peer, in training mode, and our backbone's parameters of the same weights.

        Raises:
          UserError: the peer knows no such backbone, or not all of the head's settings.
        """
        _check(network.head, backbone_name)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            make = ceil_mode_vgg if backbone_name in VGG_ENDS else dilated_resnet
            theirs = make(backbone_name)
        tensors = tensors_of(theirs)
        parameters = convert(
            tensors, TABLES[backbone_name](tensors, STEM), parameter_shapes(backbone_name, STEM)
        )
        head = Head(backbones.spec(backbone_name).middle_channels, network.head)
        copied = head_tensors(head_parameters, network.head)
        head.load_state_dict({name: torch.tensor(x) for name, x in copied.items()})
        return cls(Backbone(backbone_name, theirs), head, network).train(), parameters

    def sgd(self, rate: float, momentum: float = 0.9, decay: float = 1e-4) -> torch.optim.SGD:
        """Returns the optimizer of the head's parameters, as `train_step.optimizer`."""
        return torch.optim.SGD(
            self.head.parameters(), lr=rate, momentum=momentum, weight_decay=decay
        )

    def logits(self, batch: Mapping[str, np.ndarray]) -> Float[Tensor, "batch height width 2"]:
        """Returns the class-specific logits: background, foreground. Dropout follows the mode."""
        return self._specific(self._describe(batch)).permute(0, 2, 3, 1)

    def loss(
        self, batch: Mapping[str, np.ndarray], agnostic_weight: float = 0.5
    ) -> Float[Tensor, ""]:
        """Returns Eq. 9 of a training batch; without clusters its first term alone."""
        described = self._describe(batch)
        label = self._tensor(batch["query_label"])
        specific = cross_entropy(self._specific(described), label)
        if not self.num_clusters:
            return specific
        agnostic = self._agnostic_loss(described, label)
        return (1 - agnostic_weight) * specific + agnostic_weight * agnostic

    def _describe(self, batch) -> Described:
        with torch.no_grad():
            middle, block4 = self._blocks(batch["query_image"])
            high = self.backbone.to_block5(block4)
        images, labels = batch["support_images"], self._tensor(batch["support_labels"])
        shots = [
            self._support(images[:, k], labels[:, k] == 1, high) for k in range(images.shape[1])
        ]
        prototypes, priors = zip(*shots, strict=True)
        return Described(
            middle,
            high,
            self.head.down_query(middle),
            torch.stack(prototypes).mean(0),
            torch.stack(priors).mean(0),
        )

    def _support(self, images, foreground, query_high) -> tuple[Tensor, Tensor]:
        """Returns the prototype and the prior mask that one support of each query gives."""
        with torch.no_grad():
            middle, block4 = self._blocks(images)
            mask = resized(foreground, block4.shape[2:])
            if self.masked_support:
                high = self.backbone.to_block5(block4 * mask) * mask
            else:
                high = self.backbone.to_block5(block4)
            prior = prior_mask(query_high, high, mask)
        features = self.head.down_supp(middle)
        prototype = (features * mask).sum((2, 3)) / (mask.sum((2, 3)) + AREA_EPSILON)
        return prototype, prior

    def _blocks(self, images) -> tuple[Tensor, Tensor]:
        """Returns blocks 4 and 3 of images side by side, and block 4 alone."""
        x = self._tensor(images).permute(0, 3, 1, 2).float() / 255
        mean, deviation = (x.new_tensor(c)[:, None, None] for c in (MEAN, DEVIATION))
        x = ((x - mean) / deviation).contiguous(memory_format=self.memory_format)
        block3 = self.backbone.to_block3(x)
        block4 = self.backbone.to_block4(block3)
        if block3.shape[2:] != block4.shape[2:]:
            block3 = resized(block3, block4.shape[2:])
        return torch.cat([block4, block3], 1), block4

    def _specific(self, described: Described) -> Float[Tensor, "batch 2 height width"]:
        expanded = described.prototype[:, :, None, None].expand_as(described.reduced)
        return self.head.compare(torch.cat([described.reduced, expanded, described.prior], 1))

    def _agnostic_loss(self, described: Described, label) -> Float[Tensor, ""]:
        """The class-agnostic branch (Eq. 4 to 8) and the second term of Eq. 9."""
        size = described.middle.shape[2:]
        known = resized(label != IGNORE, size)[:, 0] >= 0.5
        foreground = resized(label == 1, size)[:, 0] >= 0.5
        background = resized(label == 0, size)
        clusters = cosine_kmeans(described.high, known, self.num_clusters, self.kmeans_rounds)
        features = self.head.down_supp(described.middle)
        members = functional.one_hot(clusters, self.num_clusters).permute(0, 3, 1, 2) * background
        areas = members.sum((2, 3))
        prototypes = torch.einsum("bnhw,bchw->bnc", members, features)
        prototypes = prototypes / (areas + AREA_EPSILON)[..., None]
        usable = (areas > 0).any(1)
        negative = torch.multinomial((areas > 0).float() + ~usable[:, None], 1)
        assignment = torch.where(foreground, negative[:, :, None], clusters)
        image = torch.arange(len(label), device=label.device)[:, None, None]
        expanded = prototypes[image, assignment].permute(0, 3, 1, 2)
        logits = self.head.compare(torch.cat([described.reduced, expanded, 1 - described.prior], 1))
        target = torch.where((label == IGNORE) | ~usable[:, None, None], IGNORE, 1 - label.int())
        return cross_entropy(logits, target)

    def _tensor(self, array) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.head.compare[0].weight.device)


def fastest_here(peer: TorchPeer) -> torch.device:
    """Moves the peer to the kind of device that jax runs on, set up to be fast there.

    On a GPU it looks for its fastest convolutions first, and makes products in TF32, as XLA does.

    Raises:
      UserError: jax runs on a GPU, and this PyTorch finds none.
    """
    if jax.default_backend() != "gpu":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("jax runs on a GPU, this PyTorch finds none: set JAX_PLATFORMS=cpu")
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")
    peer.to("cuda")
    return torch.device("cuda")


def resized(x: Tensor, size: tuple[int, int]) -> Float[Tensor, "batch channels height width"]:
    """Resizes masks `[batch, H, W]` or features (bilinear, aligned corners)."""
    x = x.float() if x.ndim == 4 else x[:, None].float()
    return functional.interpolate(x, size, mode="bilinear", align_corners=True)


def cross_entropy(
    logits: Float[Tensor, "batch 2 height width"], label: UInt8[Tensor, "batch H W"]
) -> Float[Tensor, ""]:
    """Returns the mean cross-entropy over the pixels that count, at the label's size."""
    total = functional.cross_entropy(
        resized(logits, label.shape[1:]), label.long(), ignore_index=IGNORE, reduction="sum"
    )
    return total / (label != IGNORE).sum().clamp(min=1)


def prior_mask(
    query: Float[Tensor, "batch high height width"],
    support: Float[Tensor, "batch high height width"],
    mask: Float[Tensor, "batch 1 height width"],
) -> Float[Tensor, "batch 1 height width"]:
    """Returns each query position's largest cosine to the foreground, min-max normalised."""
    batch, _, height, width = query.shape
    ours = functional.normalize(query.flatten(2), dim=1)
    theirs = functional.normalize(support.flatten(2), dim=1) * (mask.flatten(2) > 0)
    cosine = torch.bmm(theirs.transpose(1, 2), ours).amax(1).clamp(min=0)
    low, high = cosine.amin(1, keepdim=True), cosine.amax(1, keepdim=True)
    return ((cosine - low) / (high - low + PRIOR_EPSILON)).reshape(batch, 1, height, width)


@torch.no_grad()
def cosine_kmeans(
    features: Float[Tensor, "batch high height width"],
    known: Bool[Tensor, "batch height width"],
    num_clusters: int,
    rounds: int,
) -> Int[Tensor, "batch height width"]:
    """Returns each position's cluster by cosine k-means; positions not known have no say.

    The first centre is a random position, each other one the farthest from those before.
    """
    x = functional.normalize(features.flatten(2).transpose(1, 2), dim=-1)
    weights = known.flatten(1).to(x.dtype)
    everybody = torch.arange(len(x), device=x.device)
    first = torch.multinomial(weights + torch.finfo(x.dtype).tiny, 1)[:, 0]
    centres = x[everybody, first][:, None]
    for _ in range(1, num_clusters):
        closeness = torch.bmm(x, centres.mT).amax(-1).masked_fill(weights == 0, torch.inf)
        farthest = x[everybody, closeness.argmin(-1)]
        centres = torch.cat([centres, farthest[:, None]], 1)
    for _ in range(rounds):
        nearest = torch.bmm(x, centres.mT).argmax(-1)
        members = functional.one_hot(nearest, num_clusters) * weights[..., None]
        moved = functional.normalize(torch.bmm(members.mT, x), dim=-1)
        centres = torch.where(members.sum(1)[..., None] > 0, moved, centres)
    return torch.bmm(x, centres.mT).argmax(-1).reshape(known.shape)


def _check(head: APANet, backbone_name: str) -> None:
    """Raises UserError for what the peer does not know."""
    if backbone_name not in VGG_ENDS and not backbone_name.startswith("resnet"):
        raise UserError(f"no PyTorch peer of {backbone_name!r}: expected a ResNet or a VGG-16")
    known = {
        "comparison": "conv",
        "foreground_prototypes": 1,
        "priors": ("high",),
        "agnostic_prior": "complement",
        "unit_features": False,
        "prior_scale": 1.0,
        "stretch_prior": True,
        "shared_reduction": False,
        "cluster_features": "high",
        "kmeans_init": "farthest",
    }
    for name, value in known.items():
        if getattr(head, name) != value:
            raise UserError(
                f"the PyTorch peer knows {name}={value!r} only, not {getattr(head, name)!r}"
            )
