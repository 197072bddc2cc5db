"""Training of one run, step by step."""

import time
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from apanet_jax.runtime import processes
from apanet_jax.runtime.devices import batch_sharding
from apanet_jax.runtime.errors import StopSignals
from apanet_jax.training.journal import Journal
from apanet_jax.training.task import Progress, TrainingTask
from apanet_jax.training.train_step import TrainState, make_step


def train(task: TrainingTask, workdir: Path, progress: Progress | None = None) -> TrainState:
    """Trains the head to its last step and returns the final state.

    Checkpoints, metrics and the config go to `workdir`. A run that was interrupted goes on from
    its newest checkpoint and ends with the same parameters as if it had not been. SIGTERM and
    SIGINT let it finish its step and save a checkpoint of it; several processes agree on that where
    something is due to be written, so it may take `training.log_every` steps.

    Args:
      task: the training.
      workdir: where it is kept.
      progress: shows how far it has come.

    Raises:
      UserError: the workdir holds a run of other settings or is in use, nothing can be written to
        it, or the loss is no longer a number.
      Stopped: for a signal, behind the checkpoint.
    """
    with Journal(task, workdir, progress) as journal:
        state, position = journal.begin()
        if journal.first == task.steps:
            return state
        step = task.programs(
            make_step,
            task.loaded.network,
            task.transformation,
            task.model.agnostic_weight,
            task.mesh,
            task.model.level_weight,
        )
        pace, key = Pace(journal.first, task.settings.batch_size), task.key
        spread = batch_sharding(task.mesh)
        with (
            task.batches(position) as episodes,
            progress_bar(journal) as bar,
            StopSignals() as signals,
        ):
            for number in range(journal.first + 1, task.steps + 1):
                batch = processes.assembled(next(episodes), spread)
                state, losses = step(state, task.loaded.backbone_parameters, batch, key)
                bar.update()
                due = journal.is_due(number)
                if due:
                    each_second = pace.until(number, (state, losses))
                    loss = journal.write(number, state, losses, episodes.state(), each_second)
                    bar.set_postfix(loss=f"{loss:.3f}", episodes_per_second=f"{each_second:.1f}")
                    pace.restart(number)
                if asked := signals_asked(signals, due):
                    journal.stop(number, state, losses, episodes.state())
                    raise journal.stopped(number, asked)
    return state


def signals_asked(signals: StopSignals, due: bool) -> int | None:
    """Returns the signal that stops the run behind this step, None where it goes on.

    Args:
      signals: that came to this process. Those of other processes count as well.
      due: whether something is written behind this step: several processes wait for the losses
        then, and ask each other only there.
    """
    if processes.several():
        return processes.any_asked(signals.asked) if due else None
    return signals.asked


class Pace:
    """Episodes a second, without the time that writing takes."""

    def __init__(self, number: int, batch_size: int):
        """Starts after step `number`."""
        self._batch_size = batch_size
        self.restart(number)

    def restart(self, number: int) -> None:
        """Starts again after step `number`."""
        self._number, self._started = number, time.perf_counter()

    def until(self, number: int, made: Any) -> float:
        """Returns the pace from the start to step `number`.

        Args:
          number: of the step.
          made: what the step returns. A device computes it while the program goes on, so it is
            waited for before the clock is read.
        """
        jax.block_until_ready(made)
        seconds = time.perf_counter() - self._started
        return (number - self._number) * self._batch_size / seconds


def progress_bar(journal: Journal) -> tqdm:
    """Returns the bar of a training's steps."""
    return tqdm(
        total=journal.task.steps,
        initial=journal.first,
        unit="step",
        desc="training",
        disable=None,
    )
