"""Checkpoints of a run: the newest ones, to go on from, and the best one on validation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Sharding
from orbax.checkpoint import v1 as ocp

from apanet_jax import train_step
from apanet_jax.errors import UserError
from apanet_jax.models.apanet import APANet
from apanet_jax.train_step import TrainState
from apanet_jax.weights.head import head_shapes

KEEP_LATEST = 2


class Checkpoints:
    """The checkpoints of one run, in one directory; a context manager.

    A checkpoint is named by its step and holds the training state, the data iterator's state and a
    fingerprint of the settings that the run depends on. The latest `KEEP_LATEST` are kept, and the
    one with the highest validation mIoU.
    """

    def __init__(self, directory: Path, fingerprint: str | None = None):
        """Opens the checkpoints under `directory`, which is made where it is missing.

        Args:
          directory: where they are.
          fingerprint: of the settings; a checkpoint of other settings is refused. None: to read
            them whatever their settings.
        """
        policies = ocp.training.preservation_policies
        self._fingerprint = fingerprint
        self._directory = Path(directory)
        self._checkpointer = ocp.training.Checkpointer(
            epath.Path(directory).absolute(),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy(
                [
                    policies.LatestN(KEEP_LATEST),
                    policies.BestN(
                        get_metric_fn=lambda metrics: metrics["miou"],
                        n=1,
                        keep_checkpoints_without_metrics=False,
                    ),
                ]
            ),
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_) -> None:
        self._checkpointer.close()

    def save(
        self, state: TrainState, iterator: Mapping[str, Any], miou: float | None = None
    ) -> None:
        """Saves a checkpoint, in place of one of the same step.

        Args:
          state: the training state.
          iterator: the data iterator's state (JSON).
          miou: in percent, on the validation episodes, where they were evaluated.
        """
        self._checkpointer.save(
            int(state.step),
            state._asdict(),
            overwrite=True,
            metrics=None if miou is None else {"miou": float(miou)},
            custom_metadata={
                "fingerprint": self._fingerprint,
                "iterator": json.dumps(dict(iterator)),
            },
        )

    def latest_step(self) -> int | None:
        """Returns the newest checkpoint's step, or None where there is none."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def best_step(self) -> int | None:
        """Returns the step with the highest validation mIoU (the earlier of equals), or None."""
        scored = [c for c in self._checkpointer.checkpoints if c.metrics]
        return max(scored, key=lambda c: (c.metrics["miou"], -c.step)).step if scored else None

    def restore(
        self, step: int, like: TrainState, sharding: Sharding
    ) -> tuple[TrainState, dict[str, Any]]:
        """Returns the state and the data iterator's state saved at `step`.

        Args:
          step: which checkpoint.
          like: a state with the shapes and types to expect.
          sharding: how the arrays are laid out; it need not be the layout they were saved in.

        Raises:
          UserError: the checkpoint is of other settings.
        """
        metadata = self._checkpointer.metadata(step).custom_metadata or {}
        if self._fingerprint not in (None, metadata.get("fingerprint")):
            raise UserError(
                f"{self._directory} holds checkpoints of other settings than the given config: "
                "take the config they were made with (config.json beside them), or another "
                "--workdir"
            )
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), like._asdict()
        )
        state = TrainState(**self._checkpointer.load(step, abstract))
        return state, json.loads(metadata["iterator"])


def abstract_state(head: APANet, backbone: str) -> TrainState:
    """Returns a training state with shapes and types as leaves, to restore a checkpoint against.

    Args:
      head: the module that is trained.
      backbone: whose features it takes, a name of `models.backbones.BACKBONES`.
    """
    parameters = head_shapes(head, backbone)
    transformation = train_step.optimizer(lambda count: 0.0)

    def state():
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), parameters)
        return TrainState(jnp.zeros((), jnp.int32), zeros, transformation.init(zeros))

    return jax.eval_shape(state)
