"""What a training leaves in its workdir: checkpoints, metrics and its settings."""

import contextlib
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from apanet_jax.config.saved import FILE
from apanet_jax.runtime import processes
from apanet_jax.runtime.atomic_files import write_json
from apanet_jax.runtime.devices import replicated
from apanet_jax.runtime.errors import Stopped, UserError
from apanet_jax.runtime.workdir_lock import sole_use
from apanet_jax.training.checkpoints import Checkpoints, abstract_state
from apanet_jax.training.losses import Losses
from apanet_jax.training.metrics_log import MetricsLog
from apanet_jax.training.task import Progress, TrainingTask
from apanet_jax.training.train_step import TrainState


class Journal:
    """What one training leaves in its workdir; a context manager.

    Attributes:
      task: the training.
      first: the step that `begin` began with.
    """

    def __init__(self, task: TrainingTask, workdir: Path, progress: Progress | None = None):
        """Opens the workdir, which is made where it is missing; nothing is begun yet."""
        self.task, self.first = task, 0
        self._workdir, self._progress = workdir, progress
        directory = workdir / "checkpoints"
        with contextlib.ExitStack() as opened:
            opened.enter_context(sole_use(workdir))
            self._checkpoints = opened.enter_context(
                Checkpoints(directory, task.fingerprint, novel=task.novel, set_aside=True)
            )
            self._opened = opened.pop_all()
        self._log: MetricsLog | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error) -> None:
        self._opened.__exit__(*error)

    @property
    def latest_step(self) -> int:
        """The step of the newest checkpoint, 0 where there is none."""
        return self._checkpoints.latest_step() or 0

    def begin(self) -> tuple[TrainState, int]:
        """Returns the newest checkpoint's state and its position among the batches, or first ones.

        Raises:
          UserError: the workdir holds a run of other settings.
        """
        task, self.first = self.task, self.latest_step
        if self.first:
            like = abstract_state(task.loaded.network.head, task.backbone)
            state, iterator = self._checkpoints.restore(self.first, like, replicated(task.mesh))
            position = iterator["position"]
            print(f"going on from step {self.first} of {task.steps} in {self._workdir}", flush=True)
        else:
            state, position = task.initial_state(), 0
        if processes.is_leader():
            write_json(self._workdir / FILE, dict(task.config))
            self._log = self._opened.enter_context(MetricsLog(self._workdir, self.first))
        if self._progress is not None:
            self._opened.enter_context(self._progress)
        return state, position

    def is_due(self, number: int) -> bool:
        """Returns whether something is to be written after step `number`."""
        return self._saves(number) or number % self.task.settings.log_every == 0

    def write(
        self,
        number: int,
        state: TrainState,
        losses: Losses,
        iterator: dict[str, Any],
        episodes_per_second: float,
    ) -> float:
        """Writes what is due after step `number`; returns the total loss.

        Args:
          number: of the step.
          state: after it.
          losses: of it.
          iterator: the state of the batches.
          episodes_per_second: since the last time.

        Raises:
          UserError: the loss is no longer a number.
        """
        rate = float(self.task.schedule(number - 1))
        losses = self._finite(losses, number, rate)
        self._note(
            number,
            loss=losses.total,
            loss_specific=losses.specific,
            loss_agnostic=losses.agnostic,
            learning_rate=rate,
            episodes_per_second=episodes_per_second,
        )
        miou = None
        if self._validates(number):
            scores = self.task.validate(state.parameters)
            miou = scores.miou
            self._note(number, validation_miou=miou, validation_fb_iou=scores.fb_iou)
        if self._saves(number):
            self._checkpoints.save(state, iterator, miou)
            if not sys.stderr.isatty():
                # There is no bar in a file.
                validated = "" if miou is None else f", validation mIoU {miou:.1f}"
                print(
                    f"step {number} of {self.task.steps}: loss {losses.total:.3f}{validated}",
                    flush=True,
                )
        if self._progress is not None:
            self._progress.update()
        return losses.total

    def stop(
        self, number: int, state: TrainState, losses: Losses, iterator: dict[str, Any]
    ) -> None:
        """Saves a checkpoint of step `number`, unless `write` did; see there for the arguments."""
        if not self._saves(number):
            self._finite(losses, number, float(self.task.schedule(number - 1)))
            self._checkpoints.save(state, iterator)

    def stopped(self, number: int, signal_number: int) -> Stopped:
        """Returns what to raise when a signal stops the run behind step `number`."""
        return Stopped(
            signal_number,
            f"stopped behind step {number} of {self.task.steps}, which is saved in "
            f"{self._workdir}: the same command goes on from there",
            together=True,
        )

    def _note(self, number: int, **values: float) -> None:
        if self._log is not None:
            self._log.write(number, **values)

    def _validates(self, number: int) -> bool:
        every = self.task.validate_every if self.task.validate else 0
        return bool(every) and (number % every == 0 or number == self.task.steps)

    def _saves(self, number: int) -> bool:
        every = self.task.settings.checkpoint_every
        return self._validates(number) or number % every == 0 or number == self.task.steps

    def _finite(self, losses: Losses, step: int, rate: float) -> Losses:
        losses = Losses(*(float(x) for x in jax.device_get(losses)))
        if not np.isfinite(losses.total):
            raise UserError(
                f"the loss is {losses.total} at step {step} (learning rate {rate:.3g}); the newest "
                f"good checkpoint is of step {self.latest_step or None}: lower "
                "training.learning_rate or training.rate_factor, and take another --workdir"
            )
        return losses
