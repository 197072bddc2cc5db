"""Opens a trained head: of a run's workdir, or as `apanet_jax.export` wrote it."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import jax
from safetensors import SafetensorError, safe_open

from apanet_jax.config.definitions import Settings
from apanet_jax.config.saved import FILE, of_run
from apanet_jax.config.settings import typed
from apanet_jax.evaluation.results import RESULTS, read_results
from apanet_jax.inference.matching.geometry import grid_of
from apanet_jax.inference.matching.head_matcher import HeadMatcher
from apanet_jax.inference.matching.presence import Decision
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network, Parameters
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.checkpoints import Checkpoints, abstract_state
from apanet_jax.weights.network import NetworkLoader, make_network

FOLDER = Path(__file__).parent
"""The heads that come with the package; configs/general.py says how they were trained."""

GENERAL_HEAD = FOLDER / "drawn"
"""The one that saw drawn images alone."""

WEIGHTS = "model.safetensors"
"""The tensors of an exported head."""

_FINGERPRINT, _SOURCE = "backbone_weights", "backbone_source"

DECISION = "decision.json"
"""Beside a head: the size of the images it is for, and its `Decision` by the number of supports."""


class OtherWeights(UserError):
    """The backbone has other weights than those that a head was trained on."""


class BackboneWeights(NamedTuple):
    """Which weights a backbone has.

    Attributes:
      fingerprint: SHA-256 of the parameters, see `weights.load.fingerprint`.
      source: where they came from, see `weights.load.Origin`; "" where it is not recorded.
    """

    fingerprint: str
    source: str

    def as_metadata(self) -> dict[str, str]:
        """Returns the fields of an exported head's metadata that record them."""
        return {_FINGERPRINT: self.fingerprint, _SOURCE: self.source}


class SavedHead(NamedTuple):
    """A trained head with the backbone it was trained on.

    Attributes:
      settings: that it was trained with.
      network: backbone and head.
      parameters: of the head.
      backbone_parameters: of the backbone.
      backbone_weights: which these are.
      calibration: the head's own size and decisions; None where it has none.
      checkpoint: "best" or "last"; None for an exported head.
      step: of the checkpoint; None for an exported head.
    """

    settings: Settings
    network: Network
    parameters: Parameters
    backbone_parameters: Parameters
    backbone_weights: BackboneWeights
    calibration: "Calibration | None"
    checkpoint: str | None
    step: int | None

    @property
    def size(self) -> int:
        """Side of the square that the head was made for: the calibrated one, else the training's.

        In pixels.
        """
        return self.settings.image_size if self.calibration is None else self.calibration.size

    def matcher(self, size: int | None = None) -> HeadMatcher:
        """Returns a matcher with the head.

        Args:
          size: side of the square, in pixels; None: the head's own.
        """
        return HeadMatcher(
            self.network,
            self.parameters,
            self.backbone_parameters,
            grid_of(self.settings.backbone.name, size or self.size),
            None if self.calibration is None else self.calibration.decisions,
        )


class Calibration(NamedTuple):
    """What a head's `DECISION` says.

    Attributes:
      size: longer side of the images, in pixels.
      decisions: by the number of supports.
    """

    size: int
    decisions: dict[int, Decision]


def is_exported(folder: Path) -> bool:
    """Returns whether a folder holds an exported head; otherwise it may be a run's."""
    return (folder / WEIGHTS).is_file()


def open_head(folder: Path, checkpoint: str | None = "last") -> SavedHead:
    """Returns the head in a folder.

    Args:
      folder: workdir of a single run, with its config.json and checkpoints, or an exported head.
      checkpoint: of a run, see `restore_head`; an exported head has but one.

    Raises:
      UserError: there is none, or the backbone's weights are not installed; `OtherWeights` where
        they are others than in training.
    """
    if not folder.is_dir():
        raise UserError(f"--workdir={folder} is no folder: give a run's, or an exported head's")
    settings = typed(of_run(folder))
    name, step, parameters = None, None, None
    if not is_exported(folder) and not settings.evaluation.checkpoint:
        # Before the backbone is loaded, which takes longer or a network.
        head = make_network(settings.backbone, settings.model).head
        name, step, parameters = restore_head(folder, head, settings.backbone.name, checkpoint)
    given = str(folder / WEIGHTS) if is_exported(folder) else settings.evaluation.checkpoint
    loaded = NetworkLoader().load(
        settings.backbone,
        settings.model,
        data_mesh(1),
        image_size=settings.image_size,
        checkpoint=given,
    )
    network = loaded.network
    parameters = loaded.given_head if parameters is None else parameters
    weights = BackboneWeights(loaded.fingerprint, loaded.origin.source)
    calibration = read_calibration(folder)
    _check_backbone(folder, weights, calibrated=calibration is not None)
    return SavedHead(
        settings, network, parameters, loaded.backbone_parameters, weights, calibration, name, step
    )


def recorded_weights(folder: Path) -> BackboneWeights | None:
    """Returns the weights of the backbone that a head was trained on, None if it does not say.

    An exported head records them in its tensors' metadata, a run in the results of its evaluation.

    Raises:
      UserError: the record cannot be read.
    """
    if is_exported(folder):
        try:
            with safe_open(folder / WEIGHTS, framework="np") as file:
                metadata: Mapping[str, str] = file.metadata() or {}
        except (OSError, SafetensorError) as error:
            raise UserError(f"{folder / WEIGHTS} cannot be read: {error}") from error
        fingerprint = metadata.get(_FINGERPRINT)
        return BackboneWeights(fingerprint, metadata.get(_SOURCE, "")) if fingerprint else None
    rows = read_results(folder) if (folder / RESULTS).exists() else []
    for row in rows:
        if isinstance(fingerprint := row.get("weights_fingerprint"), str):
            origin = row.get("weights_origin")
            source = origin.get("source") if isinstance(origin, dict) else None
            return BackboneWeights(fingerprint, str(source or ""))
    return None


def _check_backbone(folder: Path, found: BackboneWeights, *, calibrated: bool) -> None:
    """Refuses other weights of the backbone than those that the head was trained on.

    Raises:
      OtherWeights: they are others.
    """
    recorded = recorded_weights(folder)
    if recorded is None and calibrated:
        print(
            f"note: {folder} does not record the weights of its backbone; whether its thresholds "
            f"were calibrated for those from {found.source} is not known",
            file=sys.stderr,
        )
    if recorded is None or recorded.fingerprint == found.fingerprint:
        return
    was = f" from {recorded.source}" if recorded.source else ""
    raise OtherWeights(
        f"{folder} was trained on backbone weights{was} with the fingerprint "
        f"{recorded.fingerprint[:12]}, those from {found.source} have {found.fingerprint[:12]}: "
        f"install the former, name them as backbone.weights in {folder / FILE}, or train it again"
    )


def read_calibration(folder: Path) -> Calibration | None:
    """Returns what a head's `DECISION` says, None where it has none.

    Raises:
      UserError: it cannot be read.
    """
    path = folder / DECISION
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text())
        decisions = {
            int(shots): Decision(**{name: float(value) for name, value in values.items()})
            for shots, values in content["decisions"].items()
        }
        return Calibration(int(content["size"]), decisions)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} holds no size and decisions: {error!r}; export the head again, or remove it"
        ) from error


def restore_head(
    workdir: Path, head: APANet, backbone: str, checkpoint: str | None
) -> tuple[str, int, Parameters]:
    """Returns the name and the step of a run's checkpoint, and the head's parameters.

    Args:
      workdir: of the run.
      head: the module.
      backbone: the name of the run's backbone.
      checkpoint: "best" on validation, or "last"; None: the best where there is one.

    Raises:
      UserError: there is no such checkpoint.
    """
    if not (workdir / "checkpoints").is_dir():
        raise UserError(f"{workdir} holds no {checkpoint or 'last'} checkpoint: train first")
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        steps = {"best": checkpoints.best_step(), "last": checkpoints.latest_step()}
        name = checkpoint or ("best" if steps["best"] is not None else "last")
        if steps[name] is None:
            raise UserError(f"{workdir} holds no {name} checkpoint: train first")
        state, _ = checkpoints.restore(
            steps[name],
            abstract_state(head, backbone),
            jax.sharding.SingleDeviceSharding(jax.devices()[0]),
        )
    return name, steps[name], jax.device_get(state.parameters)
