"""Opens a trained head: of a run's workdir, or as `apanet_jax.export` wrote it."""

import json
from pathlib import Path
from typing import NamedTuple

import jax

from apanet_jax.config.definitions import Settings
from apanet_jax.config.saved import of_run
from apanet_jax.config.settings import typed
from apanet_jax.inference.geometry import grid_of
from apanet_jax.inference.head_matcher import HeadMatcher
from apanet_jax.inference.presence import Decision
from apanet_jax.models.apanet import APANet
from apanet_jax.models.network import Network, Parameters
from apanet_jax.runtime.devices import data_mesh
from apanet_jax.runtime.errors import UserError
from apanet_jax.training.checkpoints import Checkpoints, abstract_state
from apanet_jax.weights.network import NetworkLoader

GENERAL_HEAD = Path(__file__).parent / "heads" / "drawn"
"""The head that comes with the package; configs/general.py says how it was trained."""

WEIGHTS = "model.safetensors"
"""The tensors of an exported head."""

DECISION = "decision.json"
"""Beside a head: the size of the images it is for, and its `Decision` by the number of supports."""


class SavedHead(NamedTuple):
    """A trained head with the backbone it was trained on.

    Attributes:
      settings: that it was trained with.
      network: backbone and head.
      parameters: of the head.
      backbone_parameters: of the backbone.
      checkpoint: "best" or "last"; None for an exported head.
      step: of the checkpoint; None for an exported head.
    """

    settings: Settings
    network: Network
    parameters: Parameters
    backbone_parameters: Parameters
    checkpoint: str | None
    step: int | None


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
      UserError: there is none, or the backbone's weights are not installed.
    """
    if not folder.is_dir():
        raise UserError(f"--workdir={folder} is no folder: give a run's, or an exported head's")
    settings = typed(of_run(folder))
    given = str(folder / WEIGHTS) if is_exported(folder) else settings.evaluation.checkpoint
    loaded = NetworkLoader().load(settings.backbone, settings.model, data_mesh(1), checkpoint=given)
    network, parameters, name, step = loaded.network, loaded.given_head, None, None
    if parameters is None:
        backbone = settings.backbone.name
        name, step, parameters = restore_head(folder, network.head, backbone, checkpoint)
    return SavedHead(settings, network, parameters, loaded.backbone_parameters, name, step)


def head_matcher(
    folder: Path, size: int | None = None, *, checkpoint: str | None = "last"
) -> HeadMatcher:
    """Returns a matcher with the head in a folder.

    Args:
      folder: see `open_head`.
      size: side of the square, in pixels; None: what the head's `DECISION` says, else the run's
        `image_size`.
      checkpoint: see `open_head`.

    Raises:
      UserError: see `open_head`.
    """
    head = open_head(folder, checkpoint)
    calibration = read_calibration(folder)
    if calibration is None:
        calibration = Calibration(head.settings.image_size, {})
    return HeadMatcher(
        head.network,
        head.parameters,
        head.backbone_parameters,
        grid_of(head.settings.backbone.name, size or calibration.size),
        calibration.decisions,
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
