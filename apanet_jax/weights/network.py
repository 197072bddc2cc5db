"""From settings to a network, and from files to the network's parameters."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from apanet_jax.config.definitions import BackboneSettings, ModelSettings
from apanet_jax.models import backbones
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network, Parameters
from apanet_jax.runtime import processes
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.errors import UserError
from apanet_jax.weights import load, pfenet


def make_network(backbone: BackboneSettings, model: ModelSettings) -> Network:
    """Returns the network that the settings describe.

    The head's attributes have the names of the settings.

    Raises:
      UserError: the backbone cannot do what the settings ask for.
    """
    row = backbones.spec(backbone.name)
    if model.masked_support and not row.has_last_block:
        raise UserError(
            f"{backbone.name} has no last block that supports could be masked before: set "
            "model.masked_support=False"
        )
    if model.masked_support and model.debias:
        raise UserError("model.debias needs model.masked_support=False: the last block runs twice")
    module = backbones.create(backbone.name, stem=backbone.stem, dtype=jnp.dtype(backbone.dtype))
    attributes = {field.name for field in dataclasses.fields(APANet)}
    named = {name: value for name, value in vars(model).items() if name in attributes}
    head = APANet(
        **named,
        block4_channels=row.block4_channels,
        centred=row.centred,
        reduction_bias=model.comparison != "fem",
    )
    return Network(module, head, masked_support=model.masked_support)


@dataclasses.dataclass(frozen=True)
class LoadedNetwork:
    """A network with the parameters of its backbone.

    Attributes:
      network: backbone and head.
      backbone_parameters: frozen, on every device of every process.
      given_head: the head's parameters of a given checkpoint, on every device; None where there is
        none.
      mesh: the devices, of all processes.
      fingerprint: of the backbone's parameters.
      origin: the file that they came from.
    """

    network: Network
    backbone_parameters: Parameters
    given_head: Parameters | None
    mesh: Mesh
    fingerprint: str
    origin: load.Origin

    @property
    def local_mesh(self) -> Mesh:
        """The devices of this process: each embeds and scores on its own."""
        return processes.local_mesh(self.mesh)

    @property
    def local_backbone_parameters(self) -> Parameters:
        """Those on the devices of this process."""
        return processes.local(self.backbone_parameters, self.mesh)


@dataclasses.dataclass(frozen=True)
class _LoadedBackbone:
    parameters: Parameters
    origin: load.Origin
    fingerprint: str


class NetworkLoader:
    """Loads networks; the backbone that was loaded last is kept for the next one like it."""

    def __init__(self):
        """Has loaded nothing."""
        self._last: tuple[tuple, _LoadedBackbone] | None = None

    def load(
        self,
        backbone: BackboneSettings,
        model: ModelSettings,
        mesh: Mesh,
        *,
        image_size: int,
        checkpoint: str = "",
    ) -> LoadedNetwork:
        """Returns the network that the settings describe, its parameters on the devices.

        Args:
          backbone: which backbone, and where its weights are.
          model: the head.
          mesh: the devices.
          image_size: side of the images, in pixels; positional directions are those at this size.
          checkpoint: file of a head's parameters, and perhaps the backbone's, which are taken
            unless the settings name other weights; "": none.

        Raises:
          UserError: a file cannot be used.
        """
        network = make_network(backbone, model)
        given_backbone, given_head = None, None
        if checkpoint:
            given_backbone, given_head = pfenet.load_checkpoint(
                checkpoint, backbone.name, network.head, stem=backbone.stem
            )
            given_head = jax.device_put(given_head, replicated(mesh))
        if given_backbone is not None and not backbone.weights:
            origin = load.origin_of(Path(checkpoint), checkpoint)
            loaded = _placed(given_backbone, origin, mesh)
        else:
            loaded = self._backbone(backbone, mesh)
        parameters, fingerprint = loaded.parameters, loaded.fingerprint
        if rank := model.debias:
            parameters = network.with_basis(parameters, image_size, rank)
            parameters = jax.device_put(parameters, replicated(mesh))
            fingerprint += f" without {rank} directions at {image_size}"
        return LoadedNetwork(
            network=network,
            backbone_parameters=parameters,
            given_head=given_head,
            mesh=mesh,
            fingerprint=fingerprint,
            origin=loaded.origin,
        )

    def _backbone(self, backbone: BackboneSettings, mesh: Mesh) -> _LoadedBackbone:
        source = backbone.weights or load.default_source(backbone.name)
        key = backbone.name, source, backbone.stem, mesh
        if self._last is None or self._last[0] != key:
            weights, origin = load.load_with_origin(backbone.name, source, stem=backbone.stem)
            self._last = key, _placed(weights, origin, mesh)
        return self._last[1]


def _placed(weights: Parameters, origin: load.Origin, mesh: Mesh) -> _LoadedBackbone:
    fingerprint = load.fingerprint(weights)
    return _LoadedBackbone(jax.device_put(weights, replicated(mesh)), origin, fingerprint)
