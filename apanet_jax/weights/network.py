"""From a config to its network, and from files to the network's parameters."""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network, Parameters
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import load, pfenet


def make_network(config: ConfigDict) -> Network:
    """Returns the network that the config describes.

    Raises:
      UserError: there is no such backbone, or it cannot do what the config asks for.
    """
    model, name = config.model, config.backbone.name
    row = backbones.spec(name)
    backbones.check_size(name, config.image_size)
    if model.masked_support and not row.has_last_block:
        raise UserError(
            f"{name} has no last block that supports could be masked before: set "
            "model.masked_support=False"
        )
    if model.masked_support and model.get("debias", 0):
        raise UserError("model.debias needs model.masked_support=False: the last block runs twice")
    backbone = backbones.create(
        name,
        stem=config.backbone.stem,
        dtype=jnp.dtype(config.backbone.dtype),
    )
    head = APANet(
        channels=model.channels,
        comparison=model.comparison,
        pyramid_bins=tuple(model.pyramid_bins),
        agnostic_levels=model.agnostic_levels,
        num_clusters=model.num_clusters,
        regions=model.regions,
        foreground_prototypes=model.foreground_prototypes,
        negatives=model.negatives,
        resemblance_limit=model.resemblance_limit,
        priors=tuple(model.priors),
        block4_channels=row.block4_channels,
        agnostic_prior=model.agnostic_prior,
        unit_features=model.unit_features,
        prior_scale=model.prior_scale,
        stretch_prior=model.stretch_prior,
        shared_reduction=model.shared_reduction,
        reduction_bias=model.comparison != "fem",
        reduction_dropout=model.reduction_dropout,
        comparison_dropout=model.comparison_dropout,
        cluster_features=model.cluster_features,
        kmeans_rounds=model.kmeans_rounds,
        kmeans_init=model.kmeans_init,
        centred=row.patch is not None,
    )
    return Network(backbone, head, masked_support=model.masked_support)


def load_parameters(
    config: ConfigDict, head: APANet, mesh: Mesh
) -> tuple[Parameters, load.Origin, str, Parameters | None]:
    """Returns the backbone's parameters, origin and fingerprint, and a given checkpoint's head.

    A checkpoint may hold the backbone too, and that one is taken unless the config names another.
    With `model.debias` the positional directions stand beside the backbone's parameters, and the
    fingerprint names them.
    """
    parameters, origin, fingerprint, given_head = _given_parameters(config, head, mesh)
    rank = config.model.get("debias", 0)
    if rank:
        parameters = make_network(config).with_basis(parameters, config.image_size, rank)
        fingerprint += f" without {rank} directions at {config.image_size}"
    return parameters, origin, fingerprint, given_head


def _given_parameters(
    config: ConfigDict, head: APANet, mesh: Mesh
) -> tuple[Parameters, load.Origin, str, Parameters | None]:
    backbone, checkpoint = config.backbone, config.evaluation.checkpoint
    given_backbone, given_head = None, None
    if checkpoint:
        given_backbone, given_head = pfenet.load_checkpoint(
            checkpoint, backbone.name, head, stem=backbone.stem
        )
        given_head = jax.device_put(given_head, replicated(mesh))
    if given_backbone is not None and not backbone.weights:
        origin = load.origin_of(Path(checkpoint), checkpoint)
        return (*_placed(given_backbone, origin, mesh), given_head)
    source = backbone.weights or load.default_source(backbone.name)
    return (*_loaded_backbone(backbone.name, source, backbone.stem, mesh), given_head)


@functools.lru_cache(maxsize=1)
def _loaded_backbone(
    name: str, source: str, stem: str, mesh: Mesh
) -> tuple[Parameters, load.Origin, str]:
    """Loads a backbone onto the devices once for all the runs of a command."""
    return _placed(*load.load_with_origin(name, source, stem=stem), mesh)


def _placed(
    weights: Parameters, origin: load.Origin, mesh: Mesh
) -> tuple[Parameters, load.Origin, str]:
    """Puts parameters onto the devices; returns them with their origin and fingerprint."""
    return jax.device_put(weights, replicated(mesh)), origin, load.fingerprint(weights)
